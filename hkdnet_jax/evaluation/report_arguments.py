"""The flags of `python -m hkdnet_jax.report`."""

import argparse
from pathlib import Path

from hkdnet_jax.common.pair_arguments import add_search_arguments
from hkdnet_jax.evaluation.figures import style
from hkdnet_jax.pretrained.arguments import add_model_arguments

_FIGURE = f"FILE{'|'.join(style.FORMATS)}"
# Kind -> (what it makes, what its argument is, the name of --out, an example).
_KINDS = {
    "run": (
        "one HTML file with everything of a training run, which needs no other file",
        ("workdir", None, "--workdir of the run"),
        "FILE.html",
        "run runs/x2 --out report.html",
    ),
    "curves": (
        "the terms of the loss and the validation of runs over their steps (Fig. 6)",
        ("workdirs", "+", "--workdir of a run; several are drawn over each other"),
        _FIGURE,
        "curves runs/a runs/b --out curves.pdf",
    ),
    "table": (
        "the means of scores, the best bold and the second underlined (Tables I to V)",
        (
            "scores",
            "+",
            "JSON file of evaluate, results or compare, or the folder of a sweep",
        ),
        "FILE.md|.csv|.tex",
        "table scores.json --out table.tex",
    ),
    "images": (
        "each metric over the images, a curve for each method (Fig. 10)",
        ("scores", "+", "JSON file of evaluate, results or compare"),
        _FIGURE,
        "images scores.json --out images.pdf",
    ),
    "sweep": (
        "what a sweep over a number such as alpha gives (Fig. 13)",
        ("scores", "+", "folder of the sweep"),
        _FIGURE,
        "sweep runs/fig13 --out alpha.pdf",
    ),
    "speed": (
        "time and memory over the size of the input",
        ("times", "+", "JSON file of benchmark fuse, train, attention or conv"),
        _FIGURE,
        "speed lite.json full.json --out speed.pdf",
    ),
    "maps": (
        "heat maps of DFAG and CEA, and the corners, over a pair (Fig. 12)",
        None,
        _FIGURE,
        "maps --model lite --scale 2 --ir ir.png --vis vis.png --out maps.png",
    ),
    "sheet": (
        "pictures of several methods, and enlarged boxes of them (Fig. 7 to 9, 11)",
        None,
        _FIGURE,
        "sheet --ir data/ir --vis data/vis --fused ours=out/ours "
        "--fused bicubic=out/bicubic --box 40,30,64,48 --out sheet.pdf",
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command; `kind` is the subcommand."""
    texts = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    command = "example:\n  python -m hkdnet_jax.report"
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.report",
        description="Draw figures and tables of workdirs, score files and pictures.",
        epilog=f"{command} {_KINDS['run'][3]}",
        **texts,
    )
    subcommands = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, (what, argument, out, example) in _KINDS.items():
        one = subcommands.add_parser(
            kind, help=what, description=what, epilog=f"{command} {example}", **texts
        )
        if argument:
            name, count, meaning = argument
            one.add_argument(
                name, type=Path, nargs=count, metavar=name.upper(), help=meaning
            )
        if kind in ("table", "images", "sweep"):
            one.add_argument(
                "--only",
                default="*",
                metavar="PATTERN",
                help="of a file with several tables those whose title fits, such as "
                "'tno x2 plain' or '* x4 paper' (default: all)",
            )
        if kind == "maps":
            _add_pair(one)
        if kind == "sheet":
            _add_sheet(one)
        what = "file to write; the suffix decides the format"
        one.add_argument("--out", type=Path, required=True, metavar=out, help=what)
    return parser


def _add_pair(parser: argparse.ArgumentParser) -> None:
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        text = f"the low-resolution {what} picture"
        parser.add_argument(
            f"--{name}", type=Path, required=True, metavar="FILE", help=text
        )
    add_model_arguments(parser)


def _add_sheet(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for name, what in (("ir", "infrared"), ("vis", "visible")):
        text = (
            f"folder of {what} pictures, of the fused pictures' size or 1/2, 1/3 or 1/4"
        )
        add(f"--{name}", type=Path, metavar="DIR", help=text)
    add_search_arguments(parser)
    add(
        "--fused",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="folder of fused pictures, and the name of the method; may be given "
        "several times",
    )
    add(
        "--pairs",
        metavar="NAME,...",
        help="names of the pairs to show (default: the first three)",
    )
    add(
        "--box",
        action="append",
        default=[],
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="part to enlarge, in pixels of the fused picture; may be given twice "
        "(default: where the methods differ most)",
    )
