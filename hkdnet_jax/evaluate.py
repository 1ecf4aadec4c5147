"""Scores fused images: those in folders, and those that a model makes.

    python -m hkdnet_jax.evaluate --ir DIR --vis DIR --fused DIR --out scores.json
    python -m hkdnet_jax.evaluate --ir DIR --vis DIR --model lite --scale 2

Several methods are compared in one table.  Imports neither TensorFlow nor orbax.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import metrics, pretrained
from hkdnet_jax.common.atomic_files import make_writable, write_atomically
from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Pair, match_folders, match_fused
from hkdnet_jax.evaluation import tables
from hkdnet_jax.evaluation.scoring import (
    PROTOCOLS,
    Method,
    ModelImages,
    Outcome,
    SavedImages,
    score_pairs,
)
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.pretrained.arguments import add_model_arguments, load_model
from hkdnet_jax.runtime import compile_cache

_WRITERS = {
    ".json": tables.to_json,
    ".csv": tables.to_csv,
    ".md": tables.to_markdown,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if everything was scored."""
    args = _parser().parse_args(argv)
    compile_cache.enable()
    return exit_code(lambda: _run(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.evaluate",
        description="Score fused images against their infrared and visible sources: "
        "those in folders,\nand those that a model makes of the pairs at 1/scale of "
        "their resolution. Files of\nequal stem belong together.",
        epilog="examples:\n"
        "  python -m hkdnet_jax.evaluate --ir data/ir --vis data/vis \\\n"
        "      --fused densefuse=out/densefuse --fused ours=out/ours --out table.md\n"
        "  python -m hkdnet_jax.evaluate --ir data/ir --vis data/vis \\\n"
        "      --model lite --scale 2 --out scores.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    suffixes = " ".join(IMAGE_SUFFIXES)
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        add(
            f"--{name}",
            type=Path,
            required=True,
            metavar="DIR",
            help=f"folder of {what} images at the fused images' size ({suffixes}; 8 "
            "or 16 bit, gray or colour; scored as 8 bit gray)",
        )
    add(
        "--fused",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="folder of fused images, and what to call the method (default: the "
        "folder's name); may be given several times",
    )
    add_model_arguments(parser)
    add(
        "--metrics",
        default="paper",
        metavar="paper|all|NAME,...",
        help=f"what to compute, of {', '.join(metrics.METRICS)} (default: paper, the "
        f"first {len(metrics.PAPER)})",
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
        action="append",
        default=[],
        metavar="FILE",
        help=f"also write the scores, as the suffix says: {', '.join(_WRITERS)}; may "
        "be given several times",
    )
    return parser


def _run(args: argparse.Namespace) -> int:
    names = metrics.select(args.metrics)
    _check_outs(args.out)
    folders = _named_folders(args.fused, args.model, args.scale)
    if args.scale and not args.model:
        raise UserError(f"--scale {args.scale} is a model's: add --model, or drop it.")
    pairs, errors = match_folders(args.ir, args.vis)
    if not pairs:
        raise UserError(
            f"{args.ir} and {args.vis} hold no pairs: give folders with pictures of "
            f"equal stems ({', '.join(IMAGE_SUFFIXES)})."
        )
    methods: dict[str, Method] = {}
    for name, folder in folders.items():
        methods[name], problems = _saved_images(folder, pairs, args.protocol)
        errors += problems
    scale = 1
    if args.model:
        model = load_model(args.model, args.scale)
        name = _model_name(args.model, args.scale)
        methods[name] = ModelImages(model, name, args.protocol)
        scale = model.scale
    for out in args.out:
        make_writable(out.parent)
    outcomes = score_pairs(pairs, methods, names, scale)
    errors += [sentence for outcome in outcomes for sentence in outcome.errors]
    errors = [f"{sentence.rstrip('.')}." for sentence in errors]
    values = {
        method: {
            pair.name: outcome.values[method]
            for pair, outcome in zip(pairs, outcomes, strict=True)
            if method in outcome.values
        }
        for method in methods
    }
    scores = Scores(names, values, len(pairs), args.protocol, errors)
    unwritten = _write(scores, args.out)
    on_terminal = sys.stdout.isatty()
    print((tables.to_terminal if on_terminal else tables.to_markdown)(scores), end="")
    _print_remarks(outcomes, scale, errors + unwritten)
    return 1 if errors or unwritten else 0


def _check_outs(outs: Sequence[Path]) -> None:
    for out in outs:
        if out.suffix.lower() not in _WRITERS:
            raise UserError(
                f"--out {out} has none of the suffixes {', '.join(_WRITERS)}: end the "
                "name with one of them, which decides the format."
            )
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give the name of a file.")


def _last_part(folder: Path | str) -> str:
    return Path(os.path.abspath(folder)).name


def _model_name(model: str, scale: int | None) -> str:
    """What to call it in a table: the name of its directory."""
    return _last_part(pretrained.locate(model, scale))


def _named_folders(
    fused: Sequence[str], model: str | None, scale: int | None
) -> dict[str, Path]:
    """Method -> folder of its fused images; UserError unless all names differ."""
    if not fused and not model:
        raise UserError(
            "There is nothing to score: give --fused DIR or --model NAME_OR_DIR."
        )
    folders: dict[str, Path] = {}
    taken = {_model_name(model, scale): f"--model {model}"} if model else {}
    for text in fused:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = _last_part(text), text
        if not name or not folder:
            raise UserError(f"--fused {text} lacks a part: write NAME=DIR.")
        if name in taken:
            raise UserError(
                f"{taken[name]} and --fused {text} are both called {name!r}: write "
                "--fused NAME=DIR with another name."
            )
        taken[name] = f"--fused {text}"
        folders[name] = Path(folder)
    return folders


def _saved_images(
    folder: Path, pairs: Sequence[Pair], protocol: str
) -> tuple[SavedImages, list[str]]:
    files, problems = match_fused(folder, pairs)
    if not files:
        raise UserError(
            f"--fused {folder} holds no fused picture of any pair: give a folder "
            f"whose files are named as the sources, such as {pairs[0].name}.png."
        )
    return SavedImages(files, protocol), problems


def _write(scores: Scores, outs: Sequence[Path]) -> list[str]:
    """Writes every file that can be written; one sentence for each other one."""
    failures = []
    for out in outs:
        try:
            text = _WRITERS[out.suffix.lower()](scores)
            write_atomically(out, text.encode())
        except UserError as error:
            failures.append(str(error))
    return failures


def _print_remarks(
    outcomes: Sequence[Outcome], scale: int, errors: Sequence[str]
) -> None:
    cropped = sum(outcome.cropped for outcome in outcomes)
    if cropped:
        print(
            f"note: {cropped} of {len(outcomes)} pairs were cropped at the right and "
            f"bottom to multiples of the scale {scale}.",
            file=sys.stderr,
        )
    # Several methods meet the same flat source.
    warnings = [sentence for outcome in outcomes for sentence in outcome.warnings]
    for sentence in dict.fromkeys(warnings):
        print(f"warning: {sentence}", file=sys.stderr)
    for sentence in errors:
        print(f"error: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
