"""Turns the authors' released PyTorch checkpoint into a model directory.

    python -m hkdnet_jax.convert --checkpoint 2x/fu_srnet.pth.tar --scale 2 --out rel_x2
    python -m hkdnet_jax.fuse --model rel_x2 --normalize minmax --stretch ...

A checkpoint is a dict of two state dicts and is read with `weights_only=True`: nothing
in it is executed.  PyTorch is needed for that alone (requirements-torch.txt); a .npz or
.safetensors file with the tensors of both state dicts under their own names, which do
not collide, is read without it.
"""

import argparse
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from data_pipelines.errors import UserError, exit_code
from hkdnet_jax import weights
from hkdnet_jax.models.released import CORNER_SKIPS
from hkdnet_jax.released_weights import REMEDY, UNUSED, convert
from hkdnet_jax.trained import SCALES

# What a clone of the authors' repository holds where Git LFS is not installed.
_LFS_POINTER = b"version https://git-lfs"
STATE_DICTS = ("Sec_Fusionnet_state_dict", "srnet_state_dict")


# --- reading ------------------------------------------------------------------------


def read_checkpoint(path: Path | str) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint by name; the suffix decides how it is read.

    Args:
      path: .npz, .safetensors, or else a file of `torch.save`.

    Raises:
      UserError: the file is missing, damaged, holds more than tensors, or needs
        PyTorch, which is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--checkpoint {path} is no file: give a fu_srnet.pth.tar.")
    readers = {".npz": _read_npz, ".safetensors": safetensors.numpy.load_file}
    try:
        with open(path, "rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(
                    f"{path} is a Git LFS pointer and not the checkpoint itself: "
                    "fetch that with git lfs pull."
                )
        return readers.get(path.suffix.lower(), _read_torch)(path)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than tensors ({found[1]})" if found else "no PyTorch checkpoint"
        raise UserError(
            f"{path} holds {what}, and no code of a file is ever run: {REMEDY}"
        ) from error
    except Exception as error:
        # Three formats of three libraries: each breaks in ways of its own.
        reason = re.split(r"\.\s|\.$|\n", str(error).strip())[0]
        raise UserError(
            f"{path} is damaged or no checkpoint ({type(error).__name__}: {reason}): "
            "copy it again."
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    # np.load would leave a broken file open if it opened it itself.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as opened:
        return dict(opened.items())


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} needs PyTorch to be read: pip install -r requirements-torch.txt, "
            "or give its tensors as a .npz or .safetensors file."
        ) from error
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    entries = list(checkpoint) if isinstance(checkpoint, Mapping) else []
    if sorted(map(str, entries)) != sorted(STATE_DICTS):
        found = ", ".join(map(str, entries)) or type(checkpoint).__name__
        raise UserError(
            f"{path} must hold {' and '.join(STATE_DICTS)} and nothing else, but it "
            f"holds {found}: {REMEDY}"
        )
    arrays: dict[str, np.ndarray] = {}
    for name in STATE_DICTS:
        for key, tensor in checkpoint[name].items():
            if not isinstance(tensor, torch.Tensor) or str(key) in arrays:
                raise UserError(
                    f"{path} holds {key} of {name} twice, or it is no tensor: {REMEDY}"
                )
            arrays[str(key)] = tensor.detach().numpy()
    return arrays


# --- the command --------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 only if the model was written."""
    args = _parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    arrays = read_checkpoint(args.checkpoint)
    try:
        params = convert(arrays, args.scale)
    except UserError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    description = {
        "kind": "released",
        "scale": args.scale,
        "corner_skip": args.corner_skip,
    }
    weights.save_model(args.out, description, params)
    unused = [name for name in UNUSED if name in arrays]
    print(
        f"Converted {len(arrays) - len(unused)} tensors of {args.checkpoint}; the "
        f"network does not use the other {len(unused)}: {', '.join(unused) or 'none'}."
    )
    print(
        f"Wrote {args.out}. As the authors ran it: python -m hkdnet_jax.fuse --model "
        f"{args.out} --normalize minmax --stretch --ir IR --vis VIS --out OUT"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.convert",
        description="Turn the authors' released PyTorch checkpoint into a model "
        "directory.\nNames and shapes must match exactly; else nothing is written.",
        epilog="example:\n"
        "  python -m hkdnet_jax.convert --checkpoint 2x/fu_srnet.pth.tar --scale 2 \\\n"
        "      --out released_x2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="the released fu_srnet.pth.tar (needs PyTorch: requirements-torch.txt), "
        "or a .npz or .safetensors file of the tensors of both its state dicts",
    )
    add(
        "--scale",
        type=int,
        choices=SCALES[1:],
        required=True,
        help="the scale that the checkpoint was trained for",
    )
    add(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="model directory to write, for fuse, evaluate and export; a model that "
        "it holds already is replaced",
    )
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
