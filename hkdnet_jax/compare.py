"""Runs every compared system on degraded pairs and scores it: Table I.

    python -m hkdnet_jax.compare --ir DIR --vis DIR --scale 2 3 4 --out DIR

An interrupted comparison goes on where it stopped; with more methods, scales or pairs
it is extended.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.baselines import outside, registry
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.atomic_files import make_writable
from hkdnet_jax.common.errors import UserError, exit_code, say
from hkdnet_jax.common.pair_arguments import add_search_arguments, read_search
from hkdnet_jax.evaluation import (
    contenders,
    people,
    side_by_side,
    side_by_side_figures,
    side_by_side_tables,
    yardsticks,
)
from hkdnet_jax.evaluation.comparison import find_sources
from hkdnet_jax.evaluation.contenders import Running
from hkdnet_jax.measuring.measure import machine
from hkdnet_jax.pretrained.arguments import number
from hkdnet_jax.runtime import compile_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if everything was measured."""
    compile_cache.enable()
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.compare",
        description="Reduce high-resolution pairs, fuse and enlarge them with every "
        "method, and score the results.\nThe same command continues in --out.",
        epilog="example:\n  python -m hkdnet_jax.compare --ir tno/ir --vis tno/vis "
        "--scale 2 3 4 \\\n      --weights weights --out comparison",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        text = f"folder of high-resolution {what} images"
        add(f"--{name}", type=Path, metavar="DIR", help=text)
    add_search_arguments(parser)
    text = "enlargements to measure (default: 2); halves are for few methods"
    scales = {"choices": contenders.SCALES, "default": [2]}
    add("--scale", type=number, nargs="+", help=text, **scales)
    add(
        "--methods",
        default="table1",
        metavar="table1|all|NAME,...",
        help="FUSION+ENLARGEMENT with one of "
        f"{', '.join(registry.FUSIONS)} and one of {', '.join(registry.ENLARGEMENTS)}; "
        f"or {', '.join(registry.JOINT)} (default: table1: "
        f"{', '.join(registry.TABLE1)})",
    )
    text = "folder of weights that `convert --kind` wrote, for those methods"
    add("--weights", type=Path, metavar="DIR", help=text)
    many = {"action": "append", "default": []}
    text = "a method from outside by its pictures; {scale} in DIR is the scale; may be "
    text += "given several times"
    add("--fused", metavar="NAME=DIR", help=text, **many)
    text = "a method from outside: a function (ir, vis, scale) -> image, see the docs"
    add("--method", metavar="MODULE:FUNCTION", help=text, **many)
    text = "also write yardsticks.md and .json: natural, the distance from undistorted "
    text += "pictures; people, how many a detector finds, which needs OpenCV below 5"
    add("--yardsticks", nargs="+", choices=yardsticks.NAMES, default=[], help=text)
    text = "folder for compare.json, .csv, .md, .tex, figures, pictures, and rows/"
    add("--out", type=Path, required=True, metavar="DIR", help=text)
    return parser


def _run(args: argparse.Namespace) -> int:
    found = find_sources(args.ir, args.vis, read_search(args), args.list)
    scales = sorted(set(args.scale))
    methods, problems = [], []
    for name in registry.select(args.methods):
        try:
            method = registry.find(name, Weights(args.weights))
            methods.append(Running(name, method))
        except UserError as error:
            problems.append(f"{name}: {error}")
    methods += [Running(*outside.load(spec)) for spec in args.method]
    for spec in args.fused:
        saved, unmatched = contenders.saved(spec, scales, found.pairs)
        methods.append(saved)
        problems += unmatched
    contenders.check_names(methods)
    if not methods:
        raise UserError(problems[0])
    if "people" in args.yardsticks:
        people.load()  # refused before the work, not after it
    make_writable(args.out)
    measured = side_by_side.compare(found.pairs, methods, scales, args.out)
    measured.errors = [*found.problems, *problems, *measured.errors]
    print(side_by_side_tables.write(measured, machine(), args.out), end="")
    if args.yardsticks:
        values = yardsticks.measure(measured, found.pairs, args.out, args.yardsticks)
        print(f"\n{yardsticks.write(values, args.out)}", end="")
    try:
        side_by_side_figures.draw(measured, found.pairs, args.out)
    except UserError as error:
        # What was measured is written, and does not depend on it.
        say("note", [f"there are no figures, because of: {error}"])
    say("error", measured.errors)
    return 1 if measured.errors else 0


if __name__ == "__main__":
    sys.exit(main())
