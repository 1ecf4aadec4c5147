#!/usr/bin/env bash
# Trains on TPU machines of Compute Engine that it borrows for the run, from a machine
# where gcloud is set up.  One host, or with TOPOLOGY a slice of several:
#
#   TPU=fusion MACHINE=ct6e-standard-8t PROJECT=P ZONE=us-east5-a launch/tpu_compute.sh \
#       [--dry-run] --config=configs/student_x2.py --workdir=gs://BUCKET/runs/x2 \
#       --config.data.roots=gs://BUCKET/roadscene --config.teacher.dir=gs://BUCKET/teacher
#   TPU=fusion MACHINE=ct6e-standard-4t TOPOLOGY=4x4 PROJECT=... (four hosts, 16 chips)
#
# --dry-run  prints every command and runs none
#
# TPU        a new name for what is made
# MACHINE    the type of a host: ct6e-standard-1t, -4t or -8t, ct5p-hightpu-4t, ...
# TOPOLOGY   the chips of a slice of several hosts, such as 2x4 or 2x2x2
# PROJECT    the project
# ZONE       its zone
# MODEL      FLEX_START (default), SPOT, STANDARD or RESERVATION_BOUND
# RESERVATION  the reservation, with MODEL=RESERVATION_BOUND
# LIMIT      how long the hosts may exist in all, such as 90m or 12h (default 4h, at most
#            7d)
# WAIT       how long to wait for capacity each time (default 2h, the most that
#            FLEX_START allows for one host)
# TRIES      how often the hosts are made at most (default 10)
# POLL       seconds between two looks at their state (default 30)
# IMAGE_FAMILY, IMAGE_PROJECT   the system image
# DISK       size of the boot disk (default 200GB; the image's 10 GB are too few)
#
# A slice of several hosts is a managed instance group with a workload policy, which
# connects the chips.  The script waits for the hosts, installs the committed code and the
# locked packages on all of them, starts the training everywhere, the coordinator on the
# first host, and prints that host's log.  Hosts that are preempted are made again, and
# the run continues from its last checkpoint.  At the end, on a failure, on Ctrl-C and
# when LIMIT is used up the run saves and everything is deleted; Compute Engine deletes
# the hosts by itself at LIMIT, whatever happens to this script.
set -euo pipefail
shopt -s extglob
# shellcheck source-path=SCRIPTDIR source=borrow.sh
. "$(dirname "$0")/borrow.sh"

options "$0" "$@"
name=${TPU:?name what is made: TPU=NAME MACHINE=TYPE PROJECT=PROJECT ZONE=ZONE $0 ...}
machine=${MACHINE:?name the machine type: MACHINE=ct6e-standard-8t ...}
project=${PROJECT:?name the project: PROJECT=...}
zone=${ZONE:?name its zone: ZONE=...}
model=${MODEL:-FLEX_START}
left=$(seconds_of "${LIMIT:-4h}")
wait=$(seconds_of "${WAIT:-2h}")
tries=$(number_of TRIES "${TRIES:-10}")
poll=$(number_of POLL "${POLL:-30}")
checked_name "$name"
check_training bucket
needs gcloud git
((left <= 604800)) || fail "LIMIT=$LIMIT is more than 7d, the longest that FLEX_START gives."
[[ $machine =~ ^ct[a-z0-9]+-[a-z]+-([148])t$ ]] ||
    fail "MACHINE=$machine is no TPU machine type such as ct6e-standard-8t."
per_host=${BASH_REMATCH[1]}
hosts=("$name")
if [[ ${TOPOLOGY:-} ]]; then
    [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
        fail "TOPOLOGY=$TOPOLOGY is no topology such as 2x4 or 2x2x2."
    chips=$((${TOPOLOGY//x/*}))
    ((chips % per_host == 0 && chips > per_host)) ||
        fail "TOPOLOGY=$TOPOLOGY has $chips chips, which is not several times the" \
            "$per_host of $machine: leave TOPOLOGY out for one host."
    count=$((chips / per_host))
else
    chips=$per_host count=1
fi
case $model in
FLEX_START) placing=(--provisioning-model=FLEX_START --reservation-affinity=none) ;;
SPOT | STANDARD) placing=("--provisioning-model=$model" --reservation-affinity=none) ;;
RESERVATION_BOUND)
    placing=(--provisioning-model=RESERVATION_BOUND --reservation-affinity=specific
        "--reservation=${RESERVATION:?name the reservation: RESERVATION=...}")
    ;;
*) fail "MODEL=$model is none of FLEX_START, SPOT, STANDARD and RESERVATION_BOUND." ;;
esac
region=${zone%-*}
compute=(gcloud compute "--project=$project" --quiet)
group=("${compute[@]}" instance-groups managed)

announce() {
    say "Borrows $count TPU host(s) $name ($machine, $chips chips, $model) in $zone for at" \
        "most $left s in all, which is $(chip_hours "$chips" "$left") chip hours, and then deletes" \
        "them."
}

create() {
    local properties=("--machine-type=$machine" "${placing[@]}"
        "--max-run-duration=${left}s" --instance-termination-action=DELETE
        --maintenance-policy=TERMINATE "--boot-disk-size=${DISK:-200GB}"
        "--image-family=${IMAGE_FAMILY:-ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e}"
        "--image-project=${IMAGE_PROJECT:-ubuntu-os-accelerator-images}"
        --scopes=https://www.googleapis.com/auth/cloud-platform)
    if ((count == 1)); then
        [[ $model != FLEX_START ]] || properties+=("--request-valid-for-duration=${wait}s")
        run "${compute[@]}" instances create "$name" "--zone=$zone" "${properties[@]}" \
            --async
    else
        run "${compute[@]}" resource-policies create workload-policy "$name" \
            "--region=$region" --type=HIGH_THROUGHPUT "--accelerator-topology=$TOPOLOGY" \
            --accelerator-topology-mode=AUTO_CONNECT &&
            run "${compute[@]}" instance-templates create "$name" \
                "--instance-template-region=$region" "${properties[@]}" &&
            run "${group[@]}" create "$name" "--zone=$zone" --size=0 \
                "--template=projects/$project/regions/$region/instanceTemplates/$name" \
                "--workload-policy=projects/$project/regions/$region/resourcePolicies/$name" \
                --target-size-policy-mode=bulk --default-action-on-vm-failure=do-nothing &&
            run "${group[@]}" resize "$name" "--zone=$zone" "--size=$count"
    fi
}

# statuses: a line for each host, its name and its status.
statuses() {
    if ((count == 1)); then
        run "${compute[@]}" instances describe "$name" "--zone=$zone" \
            '--format=value(name,status)'
    else
        run "${group[@]}" list-instances "$name" "--zone=$zone" \
            '--format=value(instance.basename(),instanceStatus)'
    fi
}

state() {
    local answer running
    if ! answer=$(statuses 2>&1); then
        if is_missing "$answer"; then echo absent; else echo unknown; fi
        return
    fi
    running=$(grep -c 'RUNNING$' <<<"$answer" || true)
    if grep -qE '(STOPPING|TERMINATED|STOPPED|SUSPEND[A-Z]*)$' <<<"$answer"; then
        echo lost
    elif ((running == count)); then
        echo active
    elif [[ $began ]] && ((running < count)); then
        echo lost # a host that was there is gone
    else
        echo waiting
    fi
}

reason() {
    run "${compute[@]}" operations list "--filter=targetLink~/$name AND error:*" \
        '--format=value(error.errors[0].message)' --sort-by=~insertTime --limit=1 \
        2>/dev/null || true
}

# find_hosts: sets `hosts`, in the order of their names.
find_hosts() {
    ((count > 1)) || return 0
    if [[ $dry ]]; then
        statuses
        mapfile -t hosts < <(seq --format="$name-%g" "$count")
    else
        mapfile -t hosts < <(statuses | cut -f 1 | sort)
    fi
    ((${#hosts[@]} == count))
}

send() {
    local host
    find_hosts || return
    for host in "${hosts[@]}"; do
        limited "${compute[@]}" scp "$1" "$host:$REMOTE.tar.gz" "--zone=$zone" || return
    done
}

on() {
    limited "${compute[@]}" ssh "$1" "--zone=$zone" "--command=$2"
}

on_first() {
    on "${hosts[0]}" "$1"
}

# on_all COMMAND: at the same time on all hosts; 1 if it fails on any.
on_all() {
    local host pids=() code=0
    for host in "${hosts[@]}"; do
        if [[ $dry ]]; then
            on "$host" "$1"
            continue
        fi
        on "$host" "$1" &
        pids+=($!)
    done
    for host in "${pids[@]}"; do
        wait "$host" || code=1
    done
    return "$code"
}

start() {
    local i flags
    for i in "${!hosts[@]}"; do
        flags=()
        ((count == 1)) ||
            flags=("--coordinator=${hosts[0]}:12321" "--processes=$count" "--process=$i")
        on "${hosts[i]}" "$(start_command ${flags[0]+"${flags[@]}"})" || return
    done
}

delete() {
    local code=0
    if ((count == 1)); then
        gone "${compute[@]}" instances delete "$name" "--zone=$zone" || code=1
        return "$code"
    fi
    # The group uses the template and the policy, which therefore come after it.
    gone "${group[@]}" delete "$name" "--zone=$zone" || code=1
    gone "${compute[@]}" instance-templates delete "$name" "--region=$region" || code=1
    gone "${compute[@]}" resource-policies delete "$name" "--region=$region" || code=1
    return "$code"
}

borrow
