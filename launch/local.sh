#!/usr/bin/env bash
# Runs a command as several processes on this machine that work together:
#
#   launch/local.sh [--dry-run] 2 python -m hkdnet_jax.main --config=... --workdir=...
#
# --dry-run  prints every command and runs none
#
# Each process also gets --coordinator, --processes and --process.  When one fails, the
# others are ended too; SIGTERM and Ctrl-C are passed on to all.  The exit code is the
# first one that is not 0.  PORT=N sets the port, in case the random one is in use.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

options "$0" "$@"
set -- ${arguments[0]+"${arguments[@]}"}
if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 [--help] [--dry-run] NUMBER COMMAND [ARGUMENT...]" >&2
    exit 2
fi
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
    fail "bash 5.1 or newer is needed, and this is $BASH_VERSION."
number=$1
shift
port=$(number_of PORT "${PORT:-$((20000 + RANDOM % 10000))}")

# process INDEX: the command of one process, in place of this shell.
process() {
    local command=("${arguments[@]:1}" "--coordinator=127.0.0.1:$port"
        "--processes=$number" "--process=$1")
    if [[ $dry ]]; then
        run "${command[@]}"
    else
        exec "${command[@]}"
    fi
}

if [[ $dry ]]; then
    for ((i = 0; i < number; i++)); do process "$i"; done
    exit
fi
declare -A running=()
for ((i = 0; i < number; i++)); do
    process "$i" &
    running[$!]=$i
done
trap 'kill -TERM "${!running[@]}" 2>/dev/null || true' TERM INT

code=0
while ((${#running[@]})); do
    status=0
    wait -n -p ended "${!running[@]}" || status=$?
    [[ -n ${ended:-} ]] || continue # no process ended: this script got a signal
    unset "running[$ended]"
    ((status == 0 || code != 0)) || code=$status
    # 143 means stopped by SIGTERM and saved, which the others do as well.
    if ((status != 0 && status != 143)); then
        kill -KILL "${!running[@]}" 2>/dev/null || true
    fi
done
exit "$code"
