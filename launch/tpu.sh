#!/usr/bin/env bash
# Trains on a Cloud TPU slice that it borrows for the run, from a machine where gcloud is
# set up (queued resources of the Cloud TPU API; newer chips: tpu_compute.sh):
#
#   TPU=fusion TYPE=v6e-8 ZONE=us-east5-a launch/tpu.sh [--dry-run] \
#       --config=configs/student_x2.py --workdir=gs://BUCKET/runs/x2 \
#       --config.data.roots=gs://BUCKET/roadscene --config.teacher.dir=gs://BUCKET/teacher
#
# --dry-run  prints every command and runs none
#
# TPU        a new name for the slice
# TYPE       its type: v4-N, v5litepod-N, v5p-N or v6e-N
# ZONE       its zone
# MODEL      flex-start (default), spot, reserved or on-demand
# LIMIT      how long the slice may exist in all, such as 90m or 12h (default 4h, at most
#            7d)
# WAIT       how long to wait for capacity each time (default 2h)
# TRIES      how often the slice is made at most (default 10)
# POLL       seconds between two looks at its state (default 30)
#
# The script waits for the slice, installs the committed code and the locked packages on
# all hosts, starts the training on all of them, and prints the log of the first one.  A
# slice that is preempted is made again, and the run continues from its last checkpoint.
# At the end, on a failure, on Ctrl-C and when LIMIT is used up the run saves and the
# slice is deleted.  The cloud ends a flex-start slice at LIMIT by itself; any other one
# is told at its creation to delete itself then, for which its service account needs the
# role roles/tpu.admin.
set -euo pipefail
shopt -s extglob
# shellcheck source-path=SCRIPTDIR source=borrow.sh
. "$(dirname "$0")/borrow.sh"

options "$0" "$@"
name=${TPU:?name the slice: TPU=NAME TYPE=TYPE ZONE=ZONE $0 ...}
zone=${ZONE:?name its zone: ZONE=...}
type=${TYPE:?name its type: TYPE=v6e-8 ...}
model=${MODEL:-flex-start}
left=$(seconds_of "${LIMIT:-4h}")
wait=$(seconds_of "${WAIT:-2h}")
tries=$(number_of TRIES "${TRIES:-10}")
poll=$(number_of POLL "${POLL:-30}")
checked_name "$name"
check_training bucket
needs gcloud git
((left <= 604800)) || fail "LIMIT=$LIMIT is more than 7d, the longest that flex-start gives."
case $type in
v4-+([0-9])) runtime=tpu-ubuntu2204-base cores=2 ;;
v5litepod-+([0-9])) runtime=v2-alpha-tpuv5-lite cores=1 ;;
v5p-+([0-9])) runtime=v2-alpha-tpuv5 cores=2 ;;
v6e-+([0-9])) runtime=v2-alpha-tpuv6e cores=1 ;;
*) fail "TYPE=$type is none of v4-N, v5litepod-N, v5p-N and v6e-N." ;;
esac
case $model in
flex-start | spot | reserved | on-demand) ;;
*) fail "MODEL=$model is none of flex-start, spot, reserved and on-demand." ;;
esac
chips=$((${type##*-} / cores)) # the numbers of v4 and v5p count cores, two to a chip

announce() {
    say "Borrows the TPU slice $name ($type, $chips chips, $model) in $zone for at most" \
        "$left s in all, which is $(chip_hours "$chips" "$left") chip hours, and then deletes it."
}

create() {
    local track=() flags=() at_limit
    # A slice that this script cannot delete, say because its machine was switched off.
    at_limit="systemd-run --on-active=$left bash -lc $(quoted "$(quoted gcloud compute \
        tpus queued-resources delete "$name" "--zone=$zone" --force --quiet)")"
    case $model in
    flex-start)
        track=(alpha)
        flags=(--provisioning-model=flex-start "--max-run-duration=${left}s")
        ;;
    spot) flags=(--spot "--metadata=startup-script=$at_limit") ;;
    reserved) flags=(--reserved "--metadata=startup-script=$at_limit") ;;
    on-demand) flags=("--metadata=startup-script=$at_limit") ;;
    esac
    run gcloud ${track[0]+"${track[@]}"} compute tpus queued-resources create "$name" \
        "--zone=$zone" "--node-id=$name" "--accelerator-type=$type" \
        "--runtime-version=$runtime" "--valid-until-duration=${wait}s" "${flags[@]}" \
        --async --quiet
}

described() {
    run gcloud compute tpus queued-resources describe "$name" "--zone=$zone" \
        "--format=value($1)"
}

state() {
    local answer
    if ! answer=$(described state.state 2>&1); then
        if is_missing "$answer"; then echo absent; else echo unknown; fi
        return
    fi
    case $answer in
    *ACTIVE) echo active ;;
    *FAILED | *SUSPEND* | *DELETING) echo lost ;;
    *) echo waiting ;;
    esac
}

reason() {
    described state.failedData.error.message 2>/dev/null || true
}

send() {
    limited gcloud compute tpus tpu-vm scp "$1" "$name:$REMOTE.tar.gz" "--zone=$zone" \
        --worker=all --quiet
}

on() {
    limited gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" "--worker=$1" \
        "--command=$2" --quiet
}

on_first() {
    on 0 "$1"
}

on_all() {
    on all "$1"
}

start() {
    on_all "$(start_command --coordinator=auto)"
}

delete() {
    gone gcloud compute tpus queued-resources delete "$name" "--zone=$zone" --force --quiet
}

borrow
