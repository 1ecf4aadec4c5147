"""Scores fused images: those in folders, and those that a model produces.

    python -m hkdnet_jax.evaluate --ir DIR --vis DIR --fused DIR --out scores.json
    python -m hkdnet_jax.evaluate --ir DIR --vis DIR --model lite --scale 2

Several methods are compared in one table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import metrics
from hkdnet_jax.common.atomic_files import make_writable
from hkdnet_jax.common.errors import exit_code, say
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_arguments import add_search_arguments, read_search
from hkdnet_jax.common.pair_names import read_pattern
from hkdnet_jax.evaluation import score_files, tables
from hkdnet_jax.evaluation.comparison import collect, compare, find_sources
from hkdnet_jax.evaluation.scoring import PROTOCOLS
from hkdnet_jax.inference.options import Options, add_range_arguments, read_ranges
from hkdnet_jax.pretrained.arguments import add_model_arguments
from hkdnet_jax.runtime import compile_cache


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if everything was scored."""
    compile_cache.enable()
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.evaluate",
        description="Score fused images against their infrared and visible sources: "
        "those in folders,\nand those that a model produces from the pairs at 1/scale "
        "of their resolution. Files\nwith the same stem belong together.",
        epilog="examples:\n"
        "  python -m hkdnet_jax.evaluate --ir data/ir --vis data/vis \\\n"
        "      --fused densefuse=out/densefuse --fused ours=out/ours --out table.md\n"
        "  python -m hkdnet_jax.evaluate --ir data/ir --vis data/vis \\\n"
        "      --model lite --scale 2 --out scores.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    many = {"action": "append", "default": []}
    suffixes = " ".join(IMAGE_SUFFIXES)
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        text = f"folder of {what} images of the fused images' size ({suffixes}); they "
        text += f"are scored as 8-bit gray, deeper ones on the range of --{name}-range"
        add(f"--{name}", type=Path, metavar="DIR", help=text)
    text = "folder of fused images, and the name of the method (default: the folder's "
    text += "name); may be given several times"
    add("--fused", metavar="[NAME=]DIR", help=text, **many)
    add(
        "--fused-pattern",
        metavar="PATTERN",
        help="name of the fused files, such as '*_x2.png'; * stands for the scene "
        "(default: the stem is the scene, or names such as a_fused.png)",
    )
    add_search_arguments(parser)
    add_range_arguments(parser)
    add_model_arguments(parser)
    add(
        "--metrics",
        default="paper",
        metavar="paper|all|NAME,...",
        help=f"metrics to compute, out of {', '.join(metrics.METRICS)} (default: "
        f"paper, the first {len(metrics.PAPER)}; all leaves out "
        f"{' and '.join(metrics.DETAIL)}, which need --scale without a model too)",
    )
    add(
        "--protocol",
        choices=PROTOCOLS,
        default="plain",
        help="; ".join(f"{name}: {what}" for name, what in PROTOCOLS.items())
        + " (default: plain)",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write the scores, in the format of the suffix: "
        f"{', '.join(score_files.WRITERS)}; may be given several times",
        **many,
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    names = metrics.select(args.metrics)
    score_files.check(args.out)
    pattern = read_pattern("--fused-pattern", args.fused_pattern)
    sources = find_sources(args.ir, args.vis, read_search(args), args.list)
    options = Options(**read_ranges(args))
    scaled = [name for name in names if metrics.METRICS[name].scaled]
    wanted = args.fused, args.model, args.scale, args.protocol, pattern, scaled
    comparison = collect(sources, *wanted)
    for out in args.out:
        make_writable(out.parent)
    found = compare(comparison, names, options)
    unwritten = score_files.write(found.scores, args.out)
    on_terminal = sys.stdout.isatty()
    to_text = tables.to_terminal if on_terminal else tables.to_markdown
    print(to_text(found.scores), end="")
    say("note", found.notes)
    say("warning", found.warnings)
    errors = [*found.scores.errors, *unwritten]
    say("error", errors)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
