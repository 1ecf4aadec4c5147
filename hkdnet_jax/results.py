"""Measures the models that come with the package on test pairs: docs/results.md.

    python -m hkdnet_jax.results --data DATA --vgg vgg16.npz --out docs/results.md

DATA holds the folders tno, vifb and hkdnet_demo.  Besides the tables of means, the
scores of every image are written to the JSON file of the same name.  With --rows, the
same command goes on where it was cut.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import metrics
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.evaluation.results import SETS, Models, measure
from hkdnet_jax.evaluation.results_page import to_markdown
from hkdnet_jax.losses import vgg
from hkdnet_jax.measuring.measure import machine
from hkdnet_jax.pretrained import FAMILIES, students
from hkdnet_jax.runtime import compile_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.results",
        description="Measure the models that come with the package on test pairs.",
        epilog="example: python -m hkdnet_jax.results --data DATA --sets tno",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that holds the data sets")
    sets = f"comma-separated data sets, out of {', '.join(SETS)} (default: all)"
    add("--sets", default=",".join(SETS), help=sets)
    here = ",".join(family for family in FAMILIES if students(family))
    families = f"comma-separated families of models (default: {here}, which are here)"
    add("--families", default=here, help=families)
    scores = "fusion metrics as for `evaluate`, or none (default: paper)"
    add("--metrics", default="paper", help=scores)
    add("--vgg", default="", help="file of VGG16 weights, for the VGG distance")
    add("--out", type=Path, help="FILE.md to write; FILE.json is written beside it")
    rows = "folder for the result of each pair, from which the same command goes on"
    add("--rows", type=Path, metavar="DIR", help=rows)
    args = parser.parse_args(argv)
    compile_cache.enable()
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    sets = args.sets.split(",")
    unknown = [name for name in sets if name not in SETS]
    if unknown:
        raise UserError(f"--sets {unknown[0]} is not one of {', '.join(SETS)}.")
    empty = [name for name in args.families.split(",") if not students(name)]
    if empty:
        raise UserError(
            f"--families {empty[0]}: the package holds no such students; give some of "
            f"{', '.join(filter(students, FAMILIES))}."
        )
    if args.out and args.out.suffix != ".md":
        raise UserError(f"--out {args.out} does not end in .md: give a FILE.md.")
    names = () if args.metrics == "none" else metrics.select(args.metrics)
    vgg_params = vgg.load(args.vgg) if args.vgg else None
    if args.rows:
        atomic_files.make_writable(args.rows)
    found = {}
    for family in args.families.split(","):
        models = Models.shipped(family)
        rows = args.rows and args.rows / family
        measured = measure(models, args.data, sets, names, vgg_params, rows)
        for name, pairs in measured.items():
            found[name if family == FAMILIES[0] else f"{name}, {family}"] = pairs
    text = to_markdown(found)
    print(text, end="")
    if args.out:
        report = {"machine": machine(), "sets": found}
        content = atomic_files.to_json(report).encode()
        atomic_files.write_atomically(args.out.with_suffix(".json"), content)
        atomic_files.write_atomically(args.out, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
