"""Draws figures, tables and HTML reports of runs, scores and pictures.

    python -m hkdnet_jax.report run runs/x2 --out report.html
    python -m hkdnet_jax.report table scores.json --out table.tex

There is one subcommand for each kind; docs/report.md shows them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.atomic_files import make_writable, write_atomically
from hkdnet_jax.common.errors import UserError, exit_code, listing
from hkdnet_jax.common.pair_arguments import read_search
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.common.paths import short_names
from hkdnet_jax.evaluation import run_report, score_files, tables
from hkdnet_jax.evaluation.comparison import collect, find_sources
from hkdnet_jax.evaluation.figures import curves, maps, style, zoomed
from hkdnet_jax.evaluation.report_arguments import make_parser
from hkdnet_jax.evaluation.scoring import read_sources
from hkdnet_jax.inference.options import Options
from hkdnet_jax.pretrained.arguments import load_model
from hkdnet_jax.runtime import compile_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    compile_cache.enable()
    return exit_code(lambda: _run(make_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    if args.kind == "run":
        _check_suffix(args.out, (".html",))
    elif args.kind == "table":
        _check_suffix(args.out, tuple(tables.LISTS))
    else:
        _check_suffix(args.out, style.FORMATS)
    make_writable(args.out.parent)
    if args.kind == "run":
        content = run_report.render(args.workdir).encode()
    elif args.kind == "table":
        content = tables.LISTS[args.out.suffix.lower()](_tables(args)).encode()
    else:
        content = style.encode(_FIGURES[args.kind](args), args.out.suffix)
    write_atomically(args.out, content)
    print(f"Wrote {args.out}.")
    return 0


def _check_suffix(out: Path, suffixes: Sequence[str]) -> None:
    if out.suffix.lower() not in suffixes or out.is_dir():
        raise UserError(
            f"--out {out} must be the name of a file that ends in "
            f"{' or '.join(suffixes)}."
        )


def _tables(args: argparse.Namespace) -> score_files.Tables:
    return score_files.read_all(args.scores, args.only)


def _one_table(args: argparse.Namespace) -> tables.Scores:
    found = _tables(args)
    if len(found) > 1:
        raise UserError(
            f"There are {len(found)} tables, and a figure shows one: give --only with "
            f"one of {listing(list(found))}."
        )
    return next(iter(found.values()))


def _curves(args: argparse.Namespace):
    found = map(curves.run_curves, args.workdirs)
    return curves.draw_runs(dict(zip(short_names(args.workdirs), found, strict=True)))


def _sweep(args: argparse.Namespace):
    return curves.draw_sweep(*curves.sweep_curves(_one_table(args)))


def _speed(args: argparse.Namespace):
    files = (score_files.read_speed(file) for file in args.times)
    return curves.draw_speed({k: v for found in files for k, v in found.items()})


def _maps(args: argparse.Namespace):
    model = load_model(args.model, args.scale)
    pair = read_sources(Pair(args.ir.stem, args.ir, args.vis), Options())
    return maps.draw_maps(*pair, maps.heat_maps(model, *pair))


def _sheet(args: argparse.Namespace):
    boxes = [zoomed.parse_box(text) for text in args.box]
    sources = find_sources(args.ir, args.vis, read_search(args), args.list)
    methods = collect(sources, args.fused).methods
    return zoomed.draw_sheet(
        zoomed.read_rows(sources.pairs, methods, args.pairs), boxes
    )


_FIGURES = {
    "curves": _curves,
    "images": lambda args: curves.draw_images(_one_table(args)),
    "sweep": _sweep,
    "speed": _speed,
    "maps": _maps,
    "sheet": _sheet,
}


if __name__ == "__main__":
    sys.exit(main())
