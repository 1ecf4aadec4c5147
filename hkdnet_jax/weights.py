"""Model directories: folders with a `model.safetensors`, safe to load anywhere.

`model.safetensors` is complete in itself: its metadata holds a format marker, the
model's configuration, and a checksum of both this and the parameters. It is written in
one atomic rename, so a configuration can never meet parameters of another model,
whenever the writer was killed. A training run's workdir is a model directory once it
has validated.

Parameters are nested dicts of arrays; in the file a parameter's name is its path
joined with '/'. Nothing is ever unpickled. Imports neither orbax nor TensorFlow.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.errors import UserError

WEIGHTS_FILE = "model.safetensors"

_FORMAT = "hkdnet-jax-model-2"
_LISTED = 10  # names of each kind that an error lists before it says "and N more"


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a file so that other readers see the old one or the whole new one.

    The folder is created when it is missing. Raises UserError when the disk is full or
    the folder cannot be written.
    """
    path = Path(path)
    # The process id keeps two processes from writing into one temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): free some space there, or "
            "choose a folder that you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def to_json(value: Any) -> str:
    """JSON text, indented, in the given key order; NaN and infinity: ValueError."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def save_model(
    directory: str | Path, config: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    """Write a model directory, replacing the model that it may hold.

    Args:
        directory: created when it is missing.
        config: nested dict that JSON can hold (tuples come back as lists).
        params: nested dict, with non-empty str keys free of '/', of NumPy or JAX
            arrays. JAX arrays must be whole or replicated on this process.
    """
    directory = Path(directory)
    text = to_json(dict(config))
    # safetensors copies raw memory, so the arrays must lie in C order. (Not
    # ascontiguousarray: it turns scalars into vectors.)
    arrays = {k: np.asarray(v, order="C") for k, v in flatten(params).items()}
    metadata = {"format": _FORMAT, "config": text, "sha256": _checksum(text, params)}
    content = safetensors.numpy.save(arrays, metadata)
    write_atomically(directory / WEIGHTS_FILE, content)


def load_model(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model directory: (config, nested dict of NumPy arrays).

    Raises UserError when there is no model, or the file is damaged or of another kind.
    """
    directory = Path(directory)
    file = directory / WEIGHTS_FILE
    if not directory.exists():
        raise UserError(
            f"{directory} does not exist: give the folder that holds {WEIGHTS_FILE}."
        )
    if not directory.is_dir():
        raise UserError(
            f"{directory} is a file, not a model directory: give the folder that holds "
            f"{WEIGHTS_FILE}."
        )
    if not file.exists():
        raise UserError(
            f"{directory} is no model directory, for it holds no {WEIGHTS_FILE}: give "
            "the folder that training wrote it to, or let the training run reach its "
            "first validation, which writes it."
        )
    try:
        # One open handle: should another process replace the file meanwhile, the
        # configuration and the parameters still come from the same version.
        with safetensors.safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(
                    f"{file} is no HKDnet model (its format is "
                    f"{metadata.get('format')!r}, not {_FORMAT!r}): give a folder that "
                    "this program's training wrote."
                )
            arrays = opened.get_tensors()
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is damaged or no safetensors file ({error}): copy or train it "
            "again."
        ) from error
    params = _unflatten(arrays)
    if metadata.get("sha256") != _checksum(metadata.get("config", ""), params):
        raise UserError(
            f"{file} is damaged (its content does not match its checksum): copy or "
            "train it again."
        )
    return json.loads(metadata["config"]), params


def _checksum(config: str, params: Mapping[str, Any]) -> str:
    return hashlib.sha256((config + fingerprint(params)).encode()).hexdigest()


def check_params(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise UserError unless the names, shapes and dtypes are the expected ones.

    Args:
        params: nested dict of arrays.
        expected: nested dict of jax.ShapeDtypeStruct (or arrays), e.g. what
            `jax.eval_shape` of the model's init gives.
    """
    have = {k: describe(v) for k, v in flatten(params).items()}
    want = {k: describe(v) for k, v in flatten(expected).items()}
    differences = list_differences(have, want)
    if differences:
        raise UserError(
            f"The weights do not fit the model ({differences}): load weights of this "
            "model, or choose the configuration that they were trained with."
        )


def list_differences(have: Mapping[str, str], want: Mapping[str, str]) -> str:
    """Say which names are missing, unexpected or described differently; '' if none.

    Args:
        have: name -> description (see `describe`) of what is there.
        want: name -> description of what should be there.
    """
    missing = [name for name in want if name not in have]
    unexpected = [name for name in have if name not in want]
    wrong = [
        f"{name} is {have[name]} instead of {want[name]}"
        for name in want
        if name in have and have[name] != want[name]
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrong", wrong))
    return "; ".join(f"{kind}: {_shorten(names)}" for kind, names in groups if names)


def describe(array: Any) -> str:
    """Shape and dtype in words, e.g. '3x3x64x64 float32' or 'scalar int32'."""
    shape = "x".join(map(str, array.shape)) or "scalar"
    return f"{shape} {np.dtype(array.dtype).name}"


def fingerprint(params: Mapping[str, Any]) -> str:
    """Hex SHA-256 over the names, shapes, dtypes and bytes of all parameters.

    Equal for equal parameters on every machine, whatever order the dicts are in.
    """
    digest = hashlib.sha256()
    for name, value in sorted(flatten(params).items()):
        digest.update(f"{name}\n{describe(value)}\n".encode())
        array = np.asarray(value)
        if array.dtype.byteorder == ">":  # the file holds the other order
            array = array.astype(array.dtype.newbyteorder("<"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested dict to one dict whose keys are the paths joined with '/'.

    Raises ValueError for keys that could not be restored (empty, holding '/', no str)
    and for empty dicts, which a file of arrays cannot hold.
    """
    flat = {}
    for key, value in params.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"parameter key {key!r} must be a non-empty str without /")
        if not isinstance(value, Mapping):
            flat[key] = value
        elif not value:
            raise ValueError(f"parameter dict {key!r} is empty")
        else:
            flat |= {f"{key}/{name}": leaf for name, leaf in flatten(value).items()}
    return flat


def _unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Undo `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested


def _shorten(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
