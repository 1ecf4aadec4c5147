r"""Trains a teacher, a student, or a compared system.

Example:

    python -m hkdnet_jax.main --config=configs/student_x3.py --workdir=runs/x3 \
        --config.data.roots=DATA/roadscene --config.teacher.dir=runs/teacher

A run that is started again with the same workdir continues from its last checkpoint.
One process uses all devices of its machine; for several machines see launch/README.md.
"""

import sys

import jax

from hkdnet_jax.common.errors import exit_code, needs_extra
from hkdnet_jax.runtime import compile_cache, processes, start
from hkdnet_jax.runtime.processes import SIGTERM_EXIT


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 when the run is complete."""
    argv = sys.argv[1:] if argv is None else argv
    remedy = "the same command continues from the last checkpoint"
    return exit_code(lambda: _run(argv), interrupted=remedy)


def _run(argv: list[str]) -> int:
    with needs_extra("Training", "train"):
        from hkdnet_jax.training.command_line import parse_config
        from hkdnet_jax.training.run import Run
        from hkdnet_jax.training.workdir import run
    config, others = parse_config(
        argv,
        doc=__doc__,
        required={"workdir": "folder of the run, created if missing"},
        optional={
            "coordinator": "for a run of several processes: HOST:PORT of process 0, or "
            "auto on a TPU slice and under Slurm",
            "processes": "number of processes (not with --coordinator=auto)",
            "process": "number of this process, counted from 0 (not with "
            "--coordinator=auto)",
        },
    )
    run_class = Run
    if config.kind == "baseline":
        # Only here: what the compared systems need takes a fifth of the imports' time.
        from hkdnet_jax.baselines.training import BaselineRun as run_class
    workdir = others["workdir"]
    compile_cache.enable()
    place = (others[name] for name in ("coordinator", "processes", "process"))
    processes.join(*place, lost_after=config.lost_after)
    complete = run(config, workdir, run_class)
    if jax.process_index() == 0:
        print(
            f"Done; the best weights are in {workdir}"
            if complete
            else f"Stopped and saved; the same command continues the run in {workdir}"
        )
    return 0 if complete else SIGTERM_EXIT


if __name__ == "__main__":
    start.tune()
    processes.end_with(main)
