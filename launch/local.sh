#!/usr/bin/env bash
# Runs a command as several processes of this machine that work as one:
#
#   launch/local.sh 2 python -m hkdnet_jax.main --config=... --workdir=...
#
# Each process gets --coordinator, --processes and --process on top.  When one fails the
# others are ended too; SIGTERM and Ctrl-C are passed on to all.  The exit code is the
# first that is not 0.  PORT=N names the port, if the one drawn should be in use.
set -euo pipefail

if (($# < 2)) || [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
    echo "usage: $0 NUMBER COMMAND [ARGUMENT...]" >&2
    exit 2
fi
number=$1
shift
port=${PORT:-$((20000 + RANDOM % 10000))}

declare -A running=()
for ((i = 0; i < number; i++)); do
    "$@" "--coordinator=127.0.0.1:$port" "--processes=$number" "--process=$i" &
    running[$!]=$i
done
trap 'kill -TERM "${!running[@]}" 2>/dev/null || true' TERM INT

code=0
while ((${#running[@]})); do
    status=0
    wait -n -p ended "${!running[@]}" || status=$?
    [[ -n ${ended:-} ]] || continue # only a signal to this script
    unset "running[$ended]"
    ((status == 0 || code != 0)) || code=$status
    # 143: stopped by SIGTERM and saved, which the others do as well.
    if ((status != 0 && status != 143)); then
        kill -KILL "${!running[@]}" 2>/dev/null || true
    fi
done
exit "$code"
