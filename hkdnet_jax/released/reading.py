"""Reads a checkpoint, or MATLAB's arrays, as arrays by name.

The released checkpoint is a dict of two state dicts; others are one state dict.  They
are read with `weights_only=True`, so that nothing in them is executed.  A .npz or
.safetensors file with the same tensors under their own names, which do not collide, is
read without PyTorch.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import scipy.io

from hkdnet_jax.common import tensor_files
from hkdnet_jax.common.errors import UserError, install_command
from hkdnet_jax.released.conversion import REMEDY

# The start of the file in a clone of the authors' repository made without Git LFS.
_LFS_POINTER = b"version https://git-lfs"
STATE_DICTS = ("Sec_Fusionnet_state_dict", "srnet_state_dict")


def read_checkpoint(
    path: Path | str, state_dicts: Sequence[str] = STATE_DICTS, remedy: str = REMEDY
) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint by name, in the way that its suffix asks for.

    Args:
      path: a .npz, .safetensors or (MATLAB) .mat file, or else one that `torch.save`
        wrote.
      state_dicts: the names of the state dicts in it; none if it is itself one.
      remedy: what to give instead of a file that does not fit, as the end of a
        sentence.

    Raises:
      UserError: the file is missing or damaged, is a Git LFS pointer, holds something
        other than the tensors of the state dicts, or needs PyTorch, which is not
        installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--checkpoint {path} is not a file: {remedy}")
    readers = {
        ".npz": _read_npz,
        ".safetensors": lambda path: tensor_files.read_safetensors(path)[1],
        ".mat": _read_matlab,
    }
    read_torch = partial(_read_torch, state_dicts=state_dicts, remedy=remedy)
    try:
        with open(path, "rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise UserError(
                    f"{path} is a Git LFS pointer and not the checkpoint itself: "
                    "fetch the checkpoint with git lfs pull."
                )
        return readers.get(path.suffix.lower(), read_torch)(path)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"more than tensors ({found[1]})" if found else "no PyTorch checkpoint"
        raise UserError(
            f"{path} holds {what}, and code in a file is never run: {remedy}"
        ) from error
    except Exception as error:
        # Three libraries read three formats, and each fails in its own ways.
        reason = re.split(r"\.\s|\.$|\n", str(error).strip())[0]
        raise UserError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {reason}):"
            " copy it again."
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with open(path, "rb") as file:
        return tensor_files.read_npz(file)


def _read_matlab(path: Path) -> dict[str, np.ndarray]:
    found = scipy.io.loadmat(path)
    return {name: x for name, x in found.items() if not name.startswith("__")}


def _read_torch(
    path: Path, state_dicts: Sequence[str], remedy: str
) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"Reading {path} needs PyTorch: run {install_command('torch')}, or give "
            "its tensors as a .npz or .safetensors file."
        ) from error
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    parts = {"": checkpoint}
    if state_dicts:
        entries = list(checkpoint) if isinstance(checkpoint, Mapping) else []
        if sorted(map(str, entries)) != sorted(state_dicts):
            found = ", ".join(map(str, entries)) or type(checkpoint).__name__
            raise UserError(
                f"{path} must hold {' and '.join(state_dicts)} and nothing else, but "
                f"it holds {found}: {remedy}"
            )
        parts = {name: checkpoint[name] for name in state_dicts}
    arrays: dict[str, np.ndarray] = {}
    for name, state_dict in parts.items():
        for key, tensor in state_dict.items():
            if not isinstance(tensor, torch.Tensor) or str(key) in arrays:
                of = f" of {name}" if name else ""
                raise UserError(
                    f"{path} holds {key}{of} twice, or not as a tensor: {remedy}"
                )
            arrays[str(key)] = tensor.detach().numpy()
    return arrays
