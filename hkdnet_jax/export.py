"""Exports a model: its weights, or a program that runs without this package.

    python -m hkdnet_jax.export --model lite --scale 2 --format onnx --out lite_x2.onnx

docs/export.md loads each format from scratch.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax import pretrained
from hkdnet_jax.common.atomic_files import make_writable, write_atomically
from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.exported import formats, publishing
from hkdnet_jax.exported.onnx_file import DTYPES
from hkdnet_jax.model_files import hub
from hkdnet_jax.pretrained.arguments import add_model_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if the file was written."""
    return exit_code(
        lambda: _run(_parser().parse_args(argv)), interrupted="nothing was written"
    )


def _run(args: argparse.Namespace) -> int:
    halved = args.dtype == "float16" and args.format in ("safetensors", "npz")
    if args.dtype != "float32" and args.format != "onnx" and not halved:
        raise UserError(
            f"--dtype {args.dtype} is an option of --format onnx: drop it, or export "
            "that; weights may be float16."
        )
    to_hub = hub.is_address(args.out)
    if to_hub and args.format != "safetensors":
        raise UserError(f"--out {args.out} takes weights: give --format safetensors.")
    if not to_hub:
        _check_out(Path(args.out), args.format)
    directory = pretrained.locate(args.model, args.scale)
    if to_hub:
        publishing.push(directory, args.out)
        print(f"Uploaded {directory} to {args.out}.")
        return 0
    content = formats.convert(directory, args.format, args.dtype)
    write_atomically(Path(args.out), content)
    print(f"Wrote {args.out} ({len(content) / 1e6:.1f} MB).")
    return 0


def _check_out(out: Path, kind: str) -> None:
    suffix = formats.SUFFIXES[kind]
    if out.suffix != suffix:
        raise UserError(f"--out {out} must end in {suffix} for --format {kind}.")
    if out.exists():
        raise UserError(f"--out {out} exists: delete it, or choose another name.")
    make_writable(out.parent)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.export",
        description="Export a model: its weights, or a program that runs without this "
        "package.",
        epilog="example:\n"
        "  python -m hkdnet_jax.export --model lite --scale 2 --format onnx \\\n"
        "      --out lite_x2.onnx",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add(
        "--format",
        choices=formats.SUFFIXES,
        required=True,
        help="weights that load(FILE) takes back (safetensors, npz), or a program of "
        "any batch and image size for jax alone (stablehlo) or for onnxruntime (onnx)",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="arithmetic of an ONNX program, whose inputs and output stay float32; "
        "float16 also halves the files of weights, which compute in float32 again "
        "(default: float32)",
    )
    add(
        "--out",
        required=True,
        metavar="FILE",
        help="file to write, with the format's suffix; or hf://OWNER/NAME, to upload "
        "safetensors to the Hugging Face Hub",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
