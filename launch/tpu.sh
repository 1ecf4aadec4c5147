#!/usr/bin/env bash
# Trains on a Cloud TPU slice, from a machine where gcloud is set up:
#
#   TPU=my-slice ZONE=us-west4-a launch/tpu.sh \
#       --config=configs/student_x2.py --workdir=DIR --config.teacher.dir=DIR
#
# TPU, ZONE  name and zone of the slice
# FOLDER     the checkout with its .venv on every host of the slice (default: hkdnet-jax),
#            set up once with `python3 -m venv .venv` and
#            `.venv/bin/pip install -r requirements.txt -r requirements-tpu.txt`
#
# --workdir and the data must be folders that all hosts share (Filestore or another NFS;
# the workdir must not be in a bucket mounted with gcsfuse, whose renames are not
# atomic).  The same command continues the run after a preemption.
set -euo pipefail

: "${TPU:?name the slice: TPU=NAME ZONE=ZONE $0 ...}" "${ZONE:?name its zone: ZONE=...}"
printf -v command '%q ' .venv/bin/python -m hkdnet_jax.main "$@" --coordinator=auto
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
    --command="cd $(printf '%q' "${FOLDER:-hkdnet-jax}") && exec $command"
