"""Turns the weights of others into model directories.

    python -m hkdnet_jax.convert --checkpoint 2x/fu_srnet.pth.tar --scale 2 --out rel_x2
    python -m hkdnet_jax.fuse --model rel_x2 --normalize minmax --stretch ...

They are the released PyTorch checkpoint of HKDnet's authors and, with --kind, those of
the systems that `compare` runs.  Nothing in a file is executed.  Only PyTorch's own
files need PyTorch (the extra `torch`): a .npz or .safetensors file that holds the same
tensors under their own names is read without it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.baselines import conversion
from hkdnet_jax.common.errors import UserError, exit_code
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.released.conversion import UNUSED, convert
from hkdnet_jax.released.network import CORNER_SKIPS
from hkdnet_jax.released.reading import read_checkpoint

RELEASED = "released"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if the model was written."""
    return exit_code(lambda: _run(_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    if args.kind != RELEASED:
        return _convert_compared(args)
    if args.scale is None:
        raise UserError(f"--kind {RELEASED} needs --scale {SCALES[1]}, 3 or 4: add it.")
    arrays = read_checkpoint(args.checkpoint)
    try:
        params = convert(arrays, args.scale)
    except UserError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    description = {"kind": RELEASED, "scale": args.scale}
    description["corner_skip"] = args.corner_skip
    file_format.save_model(args.out, description, params)
    unused = [name for name in UNUSED if name in arrays]
    print(
        f"Converted {len(arrays) - len(unused)} tensors of {args.checkpoint}; the "
        f"network does not use the other {len(unused)}: {', '.join(unused) or 'none'}."
    )
    print(
        f"Wrote {args.out}. To run it as the authors did: python -m hkdnet_jax.fuse "
        f"--model {args.out} --normalize minmax --stretch --ir IR --vis VIS --out OUT"
    )
    return 0


def _convert_compared(args: argparse.Namespace) -> int:
    description = conversion.convert_file(
        args.kind, args.checkpoint, args.scale, args.out
    )
    print(
        f"Converted {args.checkpoint} to {args.out}: {description}. It is for "
        f"compare --weights {args.out.parent}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.convert",
        description="Turn the authors' released PyTorch checkpoint, or the weights of "
        "a system that\n`compare` runs, into a model directory. Names and shapes must "
        "match exactly;\notherwise nothing is written.",
        epilog="example:\n"
        "  python -m hkdnet_jax.convert --checkpoint 2x/fu_srnet.pth.tar --scale 2 \\\n"
        "      --out released_x2\n"
        "  python -m hkdnet_jax.convert --kind densefuse --checkpoint densefuse.npz \\"
        "\n      --out weights/densefuse",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="the released fu_srnet.pth.tar (needs PyTorch, the extra torch), or the "
        "weights of a compared system; or a .npz or .safetensors file with the same "
        "tensors",
    )
    text = f"whose weights they are (default: {RELEASED}, HKDnet's authors')"
    kinds = {"choices": (RELEASED, *conversion.KINDS), "default": RELEASED}
    add("--kind", help=text, **kinds)
    add(
        "--scale",
        type=int,
        choices=SCALES[1:],
        help=f"the scale that the checkpoint was trained for; --kind {RELEASED} needs "
        "it, and of the others it is known",
    )
    text = "model directory to write, for fuse, evaluate and export; a model that is "
    text += "already in it is replaced"
    add("--out", type=Path, required=True, metavar="DIR", help=text)
    add(
        "--corner-skip",
        choices=CORNER_SKIPS,
        default=CORNER_SKIPS[0],
        help="what the corner module adds: feature, as the authors' code does on a "
        "GPU; map, as it does on a CPU (default: feature)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
