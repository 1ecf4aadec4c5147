"""The flags of `python -m hkdnet_jax.benchmark`."""

import argparse
from pathlib import Path

from hkdnet_jax.measuring.subjects import SUBJECTS
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.pretrained.arguments import add_model_arguments, add_style_argument
from hkdnet_jax.runtime.precision import DTYPES


def make_parser() -> argparse.ArgumentParser:
    """The parser of the benchmark; `subject` is the subcommand."""
    texts = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    example = "example:\n  python -m hkdnet_jax.benchmark"
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.benchmark",
        description="Measure speed and memory on this machine.",
        epilog=f"{example} fuse --preset lite --size 128x128 --out fuse.json",
        **texts,
    )
    subcommands = parser.add_subparsers(required=True, metavar="WHAT", dest="subject")
    what = (
        "the six fusion metrics: each alone, all together, over all cores, and in "
        "plain NumPy"
    )
    add = subcommands.add_parser
    epilog = f"{example} metrics --size 400x500,768x1024 --repeats 9"
    command = add("metrics", help=what, description=what, epilog=epilog, **texts)
    _add_arguments(command, "400x500")
    what = (
        "models that export wrote, on a CPU and in turns, and their pictures beside "
        "the first one's"
    )
    epilog = f"{example} exported x2.npz x2.onnx --size 198x246"
    command = add("exported", help=what, description=what, epilog=epilog, **texts)
    files = "exported files of one scale, or model directories"
    command.add_argument("files", type=Path, nargs="+", metavar="FILE", help=files)
    _add_arguments(command, "128x128")
    what = "other programs that fuse a pair, beside a student of ours, in turns"
    epilog = f"{example} peers student.onnx student.pt peer.py:fuse --size 128x128"
    command = add("peers", help=what, description=what, epilog=epilog, **texts)
    programs = (
        "ONNX or TorchScript files of two images, or FILE.py:NAME, a function of two "
        "arrays"
    )
    command.add_argument("programs", nargs="+", metavar="PROGRAM", help=programs)
    _add_arguments(command, "64x64,128x128")
    _add_settings(command)
    what = "whether an accelerator computes what the CPU does, case by case"
    epilog = f"{example} parity --out parity.json"
    command = add("parity", help=what, description=what, epilog=epilog, **texts)
    _add_networks(command)
    _add_out(command)
    what = (
        "how much a student's pictures change from frame to frame beyond what the "
        "teacher's of the high-resolution frames do, in levels of 0..255"
    )
    epilog = f"{example} flicker --scale 2 --ir m3svd/ir --vis m3svd/vis"
    command = add("flicker", help=what, description=what, epilog=epilog, **texts)
    _add_sequences(command)
    _add_out(command)
    for name, subject in SUBJECTS.items():
        epilog = f"{example} {name} --preset full --size {subject.sizes}"
        command = add(
            name, help=subject.what, description=subject.what, epilog=epilog, **texts
        )
        _add_arguments(command, subject.sizes)
        _add_settings(command)
    return parser


def _add_arguments(parser: argparse.ArgumentParser, sizes: str) -> None:
    parser.add_argument(
        "--size",
        default=sizes,
        metavar="HxW[,HxW...]",
        help=f"sizes in pixels, height first (default: {sizes})",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="number of timed calls; their median, minimum and maximum are reported "
        "(default: 5)",
    )
    _add_out(parser)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="file to write the figures and a description of the machine to; an "
        "existing file is replaced",
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add, presets = parser.add_argument, ", ".join(PRESETS)
    add("--preset", default="full", help=f"student: {presets} (default: full)")
    scale = "output pixels per input pixel along each side (default: 2)"
    add("--scale", type=int, default=2, help=scale)
    batch = "images or samples at a time (default: 1)"
    add("--batch", type=int, default=1, help=batch)
    dtypes = ", ".join(DTYPES)
    add("--dtype", default="float32", help=f"arithmetic: {dtypes} (default: float32)")


def _add_sequences(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_model_arguments(parser)
    add_style_argument(parser)
    teacher = (
        "teacher whose pictures are the labels (default: the package's of --style)"
    )
    add("--teacher", metavar="NAME_OR_DIR", help=teacher)
    for side in ("ir", "vis"):
        frames = "folder of frames, NAME_NUMBER.png; equal NAMEs are a sequence"
        default = "(default: made scenes, over which a camera turns)"
        add(f"--{side}", type=Path, metavar="DIR", help=f"{frames} {default}")


def _add_networks(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    students = "students to compare, the train steps of the first (default: lite full)"
    add("--preset", nargs="+", choices=PRESETS, default=["lite", "full"], help=students)
    types = f"their arithmetic (default: {' '.join(DTYPES)})"
    add("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES), help=types)
