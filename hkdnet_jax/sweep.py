"""Runs one of the paper's ablations and writes its table.

The same command continues an interrupted sweep, and with more --seeds it extends one.
The runs start from configs/teacher.py or configs/student_xS.py, and --config.key=value
changes a key of all of them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError, exit_code, needs_extra
from hkdnet_jax.common.paths import as_path
from hkdnet_jax.evaluation import ablation
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.runtime import compile_cache, start
from hkdnet_jax.runtime.processes import SIGTERM_EXIT


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 when the table is complete."""
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.sweep",
        description=__doc__,
        epilog="example: python -m hkdnet_jax.sweep table5 --workdir runs/table5 "
        "--test DATA/tno --config.data.roots=DATA/roadscene "
        "--config.teacher.dir=runs/teacher",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    names = (
        "table2, table3, table4, table5, fig13, or phases, which compares runs with "
    )
    add("name", help=names + "and without phase 1 and features")
    add(
        "--workdir",
        required=True,
        help="folder of the sweep, created if missing; "
        "each run has a folder in it, and table.md and table.json grow run by run",
    )
    add("--steps", type=int, default=800, help="steps of each run (default: 800)")
    add("--seeds", type=int, default=1, help="number of seeds (default: 1)")
    add(
        "--scale",
        type=int,
        nargs="+",
        choices=SCALES[1:],
        help="scales of the students (default: 2; 2 and 4 for table2)",
    )
    add(
        "--preset",
        choices=("full", "lite", "tiny"),
        default="lite",
        help="variant of the configuration (default: lite)",
    )
    add(
        "--test",
        type=Path,
        help="folder with ir/ and vis/, pairs that every trained network is scored on",
    )
    args, overrides = parser.parse_known_args(argv)
    return exit_code(
        lambda: _run(args, overrides), "the same command continues the sweep"
    )


def _run(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    with needs_extra("Training", "train"):
        from hkdnet_jax.training import sweeps
        from hkdnet_jax.training.command_line import parse_config
    if args.name not in sweeps.NAMES:
        raise UserError(f"{args.name} is not one of {', '.join(sweeps.NAMES)}.")
    for flag in ("steps", "seeds"):
        if getattr(args, flag) < 1:
            raise UserError(f"--{flag} {getattr(args, flag)} must be at least 1.")
    compile_cache.enable()
    student = sweeps.kind_of(args.name) == "student"
    scales = (args.scale or sweeps.scales_of(args.name)) if student else [1]
    variant = "" if args.preset == "full" else f":{args.preset}"
    configs: dict[int, Any] = {}
    for scale in scales:
        file = f"configs/student_x{scale}.py" if student else "configs/teacher.py"
        command = [f"--config={file}{variant}", *overrides]
        configs[scale], _ = parse_config(command, doc="", required={})
    pairs = ablation.test_pairs(args.test) if args.test else []
    folder = as_path(args.workdir)
    identity = {key: getattr(args, key) for key in ("name", "steps", "preset")}
    sweeps.prepare(folder, identity)

    def score(directory: Any) -> dict[str, float]:
        if not pairs:
            return {}
        teacher = Model.load(configs[scales[0]].teacher.dir) if student else None
        return ablation.score_model(directory, teacher, pairs)

    results = []
    for entry in sweeps.entries(args.name, configs, args.steps, args.seeds):
        print(f"{args.name}: {entry.folder}, {entry.variant}", file=sys.stderr)
        result = sweeps.train_entry(entry, folder, score)
        if result is None:
            print(f"Stopped; the same command continues the sweep in {folder}")
            return SIGTERM_EXIT
        results.append(result)
        text = ablation.table(sweeps.title_of(args.name), results)
        table = atomic_files.to_json(results).encode()
        atomic_files.write_atomically(folder / "table.json", table)
        atomic_files.write_atomically(folder / "table.md", text.encode())
    print(text, end="")
    return 0


if __name__ == "__main__":
    start.tune()
    sys.exit(main())
