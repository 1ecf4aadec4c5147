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
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hkdnet_jax.common.atomic_files import to_json, write_atomically
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local
from hkdnet_jax.common.trees import fingerprint, flatten, unflatten

WEIGHTS_FILE = "model.safetensors"
_FORMAT = "hkdnet-jax-model-2"


def save_model(
    directory: Any, config: Mapping[str, Any], params: Mapping[str, Any]
) -> None:
    """Write a model directory, replacing the model that it may hold.

    Args:
        directory: see `paths.as_path`; created when it is missing.
        config: nested dict that JSON can hold (tuples come back as lists).
        params: nested dict, with non-empty str keys free of '/', of NumPy or JAX
            arrays. JAX arrays must be whole or replicated on this process.
    """
    directory = as_path(directory)
    text = to_json(dict(config))
    # safetensors copies raw memory, so the arrays must lie in C order. (Not
    # ascontiguousarray: it turns scalars into vectors.)
    arrays = {k: np.asarray(v, order="C") for k, v in flatten(params).items()}
    metadata = {"format": _FORMAT, "config": text, "sha256": _checksum(text, params)}
    content = safetensors.numpy.save(arrays, metadata)
    write_atomically(directory / WEIGHTS_FILE, content)


def load_model(directory: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a model directory: (config, nested dict of NumPy arrays).

    Args:
        directory: see `paths.as_path`.

    Raises:
        UserError: there is no model, or the file is damaged or of another kind.
    """
    directory = as_path(directory)
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
        with (
            _on_this_machine(file) as local,
            safetensors.safe_open(local, framework="np") as opened,
        ):
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
    params = unflatten(arrays)
    if metadata.get("sha256") != _checksum(metadata.get("config", ""), params):
        raise UserError(
            f"{file} is damaged (its content does not match its checksum): copy or "
            "train it again."
        )
    return json.loads(metadata["config"]), params


@contextlib.contextmanager
def _on_this_machine(file: Any) -> Iterator[Path]:
    """The file itself, or a copy that lasts as long as the block."""
    if is_local(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_bytes(file.read_bytes())
        yield copy


def _checksum(config: str, params: Mapping[str, Any]) -> str:
    return hashlib.sha256((config + fingerprint(params)).encode()).hexdigest()
