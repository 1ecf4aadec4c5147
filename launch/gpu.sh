#!/usr/bin/env bash
# Trains on all GPUs of several nodes that ssh reaches (with Slurm: slurm.sbatch):
#
#   HOSTS="node1 node2" launch/gpu.sh [--dry-run] --config=configs/student_x2.py \
#       --workdir=DIR
#
# --dry-run  prints every command and runs none
#
# HOSTS   the nodes; the first one is the coordinator, so the others must reach its PORT
# PORT    a free port of the first node (default: 12321)
# FOLDER  the checkout with its .venv, the same on all nodes (default: this one)
# LIMIT   how long the run may take in all, such as 12h (default: as long as it needs)
# TRIES   how often the run is started at most, when connections are lost (default 3)
# POLL    seconds before it is started again (default 30)
#
# When a node fails, or a connection is lost, or LIMIT is used up, or this script is
# stopped, the processes on all nodes are told to save and end.  After a lost connection
# the run is then started again and continues from its last checkpoint.  A node that
# cannot be reached to end its process is named.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

options "$0" "$@"
folder=${FOLDER:-$(cd "$(dirname "$0")/.." && pwd)}
read -ra hosts <<<"${HOSTS:?name the nodes: HOSTS=\"node1 node2\" $0 ...}"
port=$(number_of PORT "${PORT:-12321}")
tries=$(number_of TRIES "${TRIES:-3}")
poll=$(number_of POLL "${POLL:-30}")
limit=0
check_training
needs ssh
[[ -z ${LIMIT:-} ]] || limit=$(seconds_of "$LIMIT")
note=/tmp/hkdnet-$port.pid # on every node, where its process is noted

# on HOST COMMAND: in place of this (sub)shell; 255 if the connection fails or is lost.
on() {
    local connect=(ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15
        -o ServerAliveCountMax=4 "$1" "$2")
    [[ $dry ]] || exec "${connect[@]}" </dev/null
    run "${connect[@]}"
}

# command_of INDEX: what runs on a node, which keeps to LIMIT whatever happens here.
command_of() {
    local program within=() rest=$((limit > SECONDS ? limit - SECONDS : 1))
    ((limit == 0)) || within=(timeout --preserve-status --signal=TERM "$rest")
    program=$(quoted ${within[0]+"${within[@]}"} .venv/bin/python -m hkdnet_jax.main \
        "${arguments[@]}" "--coordinator=${hosts[0]}:$port" \
        "--processes=${#hosts[@]}" "--process=$1")
    printf '%s' "cd $(quoted "$folder") && echo \$\$ >$note && exec $program"
}

# stop_command: tells a node's process to save and end, and waits up to two minutes.
stop_command() {
    printf '%s' "[ ! -s $note ] || { p=\$(cat $note); rm $note;" \
        " kill -TERM \$p 2>/dev/null && for i in \$(seq 120); do" \
        " kill -0 \$p 2>/dev/null || break; sleep 1; done; ! kill -0 \$p 2>/dev/null; }"
}

# end_all: ends the processes of all nodes; 1 if that is not certain for one of them.
end_all() {
    local i pids=() code=0
    for i in "${!hosts[@]}"; do
        on "${hosts[i]}" "$(stop_command)" &
        pids+=($!)
    done
    for i in "${!pids[@]}"; do
        if ! wait "${pids[i]}"; then
            say "WARNING: the process on ${hosts[i]} may still run; end it with" \
                "\`ssh ${hosts[i]} $(quoted "$(stop_command)")\`."
            code=1
        fi
    done
    return "$code"
}

# train: starts all nodes once; its code is the first one that is not 0.
train() {
    local i code first=0
    for i in "${!hosts[@]}"; do
        on "${hosts[i]}" "$(command_of "$i")" &
    done
    for i in "${!hosts[@]}"; do # as many as there are, in the order in which they end
        code=0
        wait -n || code=$?
        ((first != 0)) || first=$code
        # 143 means stopped by SIGTERM and saved, which the others do as well.
        ((code == 0 || code == 143)) || break
    done
    return "$first"
}

# shellcheck disable=SC2329 # called by trap
finish() {
    local code=$?
    deafen
    ((code == 0)) || end_all || true
    # shellcheck disable=SC2046 # one word each
    kill $(jobs -pr) 2>/dev/null || true
    exit "$code"
}

bound="until it is complete"
((limit == 0)) || bound="for at most $limit s"
say "Trains on ${#hosts[@]} node(s), $bound; their processes are told to end when one fails."
if [[ $dry ]]; then
    for i in "${!hosts[@]}"; do on "${hosts[i]}" "$(command_of "$i")"; done
    exit
fi
end_with finish
for ((attempt = 1; attempt <= tries; attempt++)); do
    code=0
    train || code=$?
    ((code == 255)) || exit "$code"
    # Two generations of processes must not write one workdir.
    end_all || fail "the run is not started again, since the old one may still go on."
    # The old connections are collected here, or train would take the end of one of them
    # for the end of a new one.
    # shellcheck disable=SC2046 # one word each
    kill $(jobs -pr) 2>/dev/null || true
    wait
    ((attempt == tries)) || say "A connection was lost; starting again, $((attempt + 1)) of" \
        "$tries."
    sleep "$poll"
done
fail "the connections were lost $tries times; the same command continues the run."
