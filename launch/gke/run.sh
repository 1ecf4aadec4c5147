#!/usr/bin/env bash
# Runs a training, or fuses a folder, on a Kubernetes cluster with Kueue (kueue.yaml), from
# a machine where kubectl is set up:
#
#   NAME=x2 IMAGE=IMAGE HOSTS=4 TOPOLOGY=4x4 launch/gke/run.sh tpu \
#       --config=configs/student_x2.py --workdir=gs://BUCKET/runs/x2 ...
#   NAME=x2 IMAGE=IMAGE HOSTS=2 launch/gke/run.sh gpu --config=... --workdir=...
#   NAME=fuse IMAGE=IMAGE HOSTS=8 CLAIM=data launch/gke/run.sh fuse \
#       --ir /data/ir --vis /data/vis --out /data/fused --scale 2
#
# --dry-run  (before tpu, gpu or fuse) prints the manifest and every command
#
# NAME         a new name for the run
# IMAGE        the image, of launch/docker/Dockerfile
# HOSTS        number of pods, one a node (default 1)
# LIMIT        how long the run may have its nodes in all (default 4h)
# WAIT         how long to wait for capacity (default 2h)
# RESTARTS     how often a run that failed or was preempted is restarted (default 10)
# QUEUE        the LocalQueue (default hkdnet)
# ACCOUNT      the Kubernetes service account (default default)
# ACCELERATOR  tpu-v6e-slice (default with tpu), nvidia-h100-80gb (default with gpu), ...
# TOPOLOGY     chips of the slice (tpu; default 2x2)
# CHIPS        TPU chips or GPUs of a host (default 4 with tpu, 8 with gpu)
# CPU, MEMORY  what a pod asks for (default 24 and 96Gi; with fuse 4 and 8Gi)
# CLAIM        the volume claim mounted at /data (fuse)
# POLL         seconds between two looks (default 15)
#
# The script waits for the queue, prints the log of the first pod and ends with the run:
# exit code 0 if it is complete.  The run is deleted at the end, on a failure, on Ctrl-C
# and when there is no capacity within WAIT; the cluster ends it at LIMIT by itself.
set -euo pipefail
here=$(dirname "$0")
# shellcheck source-path=SCRIPTDIR source=../borrow.sh
. "$here/../borrow.sh"

options "$0" "$@"
kind=${arguments[0]:-}
arguments=("${arguments[@]:1}")
name=${NAME:?name the run: NAME=... IMAGE=... $0 tpu|gpu|fuse ...}
checked_name "$name"
limit=$(seconds_of "${LIMIT:-4h}")
wait=$(seconds_of "${WAIT:-2h}")
poll=$(number_of POLL "${POLL:-15}")
restarts=$(number_of RESTARTS "${RESTARTS:-10}")
hosts=${HOSTS:-1}
[[ $hosts =~ ^[1-9][0-9]*$ ]] || fail "HOSTS=$hosts is not a number of pods."
declare -A values=([NAME]=$name [IMAGE]=${IMAGE:?name the image: IMAGE=...} [HOSTS]=$hosts
    [LIMIT]=$limit [RESTARTS]=$restarts [QUEUE]=${QUEUE:-hkdnet}
    [ACCOUNT]=${ACCOUNT:-default} [CPU]=${CPU:-24} [MEMORY]=${MEMORY:-96Gi})
object=jobset.jobset.x-k8s.io
pods=jobset.sigs.k8s.io/jobset-name=$name,batch.kubernetes.io/job-completion-index=0
case $kind in
tpu)
    values+=([ACCELERATOR]=${ACCELERATOR:-tpu-v6e-slice} [TOPOLOGY]=${TOPOLOGY:-2x2}
        [CHIPS]=${CHIPS:-4})
    ;;
gpu) values+=([ACCELERATOR]=${ACCELERATOR:-nvidia-h100-80gb} [CHIPS]=${CHIPS:-8}) ;;
fuse)
    values+=([CPU]=${CPU:-4} [MEMORY]=${MEMORY:-8Gi}
        [CLAIM]=${CLAIM:?name the volume claim with the pictures: CLAIM=...})
    object=job.batch
    pods=batch.kubernetes.io/job-name=$name,batch.kubernetes.io/job-completion-index=0
    ;;
*) fail "\`$kind\` is not a kind of run: write tpu, gpu or fuse before the flags." ;;
esac
[[ $kind == fuse ]] || check_training bucket # a pod's own disk is lost with it
needs kubectl

# as_json WORD...: a JSON list; Kubernetes expands $(X) in it, but not $$(X).
as_json() {
    local word list=
    for word in "$@"; do
        [[ $word != *$'\n'* ]] || fail "an argument holds a line break: leave it out."
        word=${word//\\/\\\\}
        word=${word//\"/\\\"}
        list+=", \"${word//\$(/\$\$(}\""
    done
    printf '[%s]' "${list#, }"
}

manifest() {
    local text key
    text=$(<"$here/$kind.yaml")
    # The arguments come last, since they may hold what looks like a value.
    for key in "${!values[@]}"; do
        text=${text//"\${$key}"/"${values[$key]}"}
    done
    printf '%s\n' "${text//"\${ARGUMENTS}"/"$(as_json "${arguments[@]}")"}"
}

announce() {
    say "Runs $kind as $name on $hosts pod(s) for at most $limit s in all" \
        "(${values[CHIPS]:-${values[CPU]}} $([[ $kind == fuse ]] && echo CPUs || echo chips)" \
        "each), and then deletes it."
}

create() {
    if [[ $dry ]]; then
        manifest
        run kubectl create --filename=-
    else
        manifest | kubectl create --filename=-
    fi
}

delete() {
    gone kubectl delete "$object" "$name" --ignore-not-found --timeout=300s
}

described() {
    run kubectl get "$object" "$name" "--output=jsonpath=$1"
}

# state: prints done, failed, waiting, running, absent, or unknown without an answer.
state() {
    local answer
    if ! answer=$(described '{.status.conditions[?(@.status=="True")].type}' 2>&1); then
        if is_missing "$answer"; then echo absent; else echo unknown; fi
        return
    fi
    case " $answer " in
    *' Complete '* | *' Completed '*) echo "done" ;;
    *' Failed '*) echo failed ;;
    *' Suspended '*) echo waiting ;;
    *) echo running ;;
    esac
}

submit() {
    local i answer
    for ((i = 1; i <= 5; i++)); do
        if answer=$(create 2>&1); then
            return
        fi
        say "$answer"
        if [[ ${answer,,} == *"already exists"* || ${answer,,} == *alreadyexists* ]]; then
            # The answer to an earlier attempt may have been lost.
            ((i == 1)) || return 0
            borrowed=
            fail "$name exists already: choose another name, or delete it with" \
                "\`$(by_hand)\`."
        fi
        ! is_refused "$answer" || fail "$name cannot be made, see above."
        sleep "$poll"
    done
    fail "the cluster does not take $name, see above."
}

# logs: prints the log of the first pod while there is one.
tail=-1 # all lines; after a lost connection the last ones
logs() {
    run kubectl logs --follow "--selector=$pods" "--tail=$tail"
}

watch() {
    local now before='' unknown=0 since=$SECONDS
    while true; do
        now=$(state)
        [[ $now == "$before" ]] || say "$name: $now"
        case $now in
        "done") return ;;
        failed)
            fail "$name failed after its restarts:" \
                "$(described '{.status.conditions[?(@.type=="Failed")].message}')"
            ;;
        absent)
            borrowed=
            fail "$name was deleted by somebody else, or by the cluster at its limit."
            ;;
        waiting)
            [[ $before == waiting ]] || since=$SECONDS
            ((SECONDS - since < wait)) ||
                fail "no capacity for $name within $wait s: ask again later."
            ;;
        running)
            unknown=0
            : >"$log"
            if streamed logs 2>/dev/null; then
                tail=-1
            elif [[ -s $log ]]; then # else the pod has not started yet
                tail=20
            fi
            ;;
        unknown)
            ((++unknown < 10)) || fail "the cluster has not answered ten times."
            ;;
        esac
        before=$now
        sleep "$poll"
    done
}

announce
if [[ $dry ]]; then
    create
    state >/dev/null
    logs
    delete
    exit
fi
log=${TMPDIR:-/tmp}/$name-$$.log
borrowed=1
end_with give_back
submit
watch
