#!/usr/bin/env bash
# Trains on all GPUs of several nodes that ssh reaches (with Slurm: slurm.sbatch):
#
#   HOSTS="node1 node2" launch/gpu.sh --config=configs/student_x2.py --workdir=DIR
#
# HOSTS   the nodes; the first one is the coordinator, so the others must reach its PORT
# PORT    a free port of the first node (default: 12321)
# FOLDER  the checkout with its .venv, the same on all nodes (default: this one)
#
# When one node fails, or this script is stopped, all processes are ended without saving;
# the same command continues from the last checkpoint.  To save first, send SIGTERM to
# the process on any one of the nodes.
set -euo pipefail

folder=${FOLDER:-$(cd "$(dirname "$0")/.." && pwd)}
read -ra hosts <<<"${HOSTS:?name the nodes: HOSTS=\"node1 node2\" $0 ...}"

trap 'kill $(jobs -pr) 2>/dev/null || true' EXIT
for i in "${!hosts[@]}"; do
    printf -v command '%q ' .venv/bin/python -m hkdnet_jax.main "$@" \
        "--coordinator=${hosts[0]}:${PORT:-12321}" \
        "--processes=${#hosts[@]}" "--process=$i"
    # With a terminal (-tt), the remote process ends when this ssh does.
    ssh -tt "${hosts[i]}" "cd $(printf '%q' "$folder") && exec $command" </dev/null &
done
for _ in "${hosts[@]}"; do
    wait -n
done
