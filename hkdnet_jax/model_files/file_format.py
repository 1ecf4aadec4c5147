"""Model directories: folders with a `model.safetensors`, safe to load anywhere.

`model.safetensors` is complete in itself: its metadata holds a format marker, the
model's configuration, and a checksum of the configuration and the parameters. It is
written by one atomic rename, so a configuration never meets the parameters of another
model, even if the writer is killed. A training run's workdir is a model directory once
the run has validated.

Parameters are nested dicts of arrays; in the file a parameter's name is its path
joined with '/'. Nothing is ever unpickled. This module imports neither orbax nor
TensorFlow.
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
    """Writes a model directory, and replaces the model that it may hold.

    Args:
      directory: see `paths.as_path`; created if it is missing.
      config: nested dict that JSON can represent (tuples come back as lists).
      params: nested dict of NumPy or JAX arrays, with non-empty str keys without '/'.
        JAX arrays must be complete or replicated on this process.

    Raises:
      UserError: the file cannot be written.
      TypeError: JSON has no form for something in the configuration.
      ValueError: a number in the configuration is not finite, or a key of the
        parameters is invalid.
    """
    directory = as_path(directory)
    text = to_json(dict(config))
    # safetensors copies raw memory, so the arrays must be in C order. (Not by
    # ascontiguousarray, which turns scalars into vectors.)
    arrays = {k: np.asarray(v, order="C") for k, v in flatten(params).items()}
    metadata = {"format": _FORMAT, "config": text, "sha256": _checksum(text, params)}
    content = safetensors.numpy.save(arrays, metadata)
    write_atomically(directory / WEIGHTS_FILE, content)


def load_model(directory: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model directory.

    Args:
      directory: see `paths.as_path`.

    Returns:
      The configuration, and the parameters as a nested dict of NumPy arrays.

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
            f"{directory} is not a model directory, because it holds no "
            f"{WEIGHTS_FILE}: give the folder that training wrote it to, or let the "
            "training run reach its first validation, which writes it."
        )
    try:
        # With one open handle the configuration and the parameters come from the same
        # version, even if another process replaces the file meanwhile.
        with (
            _on_this_machine(file) as local,
            safetensors.safe_open(local, framework="np") as opened,
        ):
            metadata = opened.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(
                    f"{file} is not an HKDnet model (its format is "
                    f"{metadata.get('format')!r}, not {_FORMAT!r}): give a folder that "
                    "this program's training wrote."
                )
            arrays = opened.get_tensors()
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(
            f"{file} is damaged or not a safetensors file ({error}): copy or train it "
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
    """Yields the file itself, or a local copy that is deleted after the block."""
    if is_local(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.name
        copy.write_bytes(file.read_bytes())
        yield copy


def _checksum(config: str, params: Mapping[str, Any]) -> str:
    return hashlib.sha256((config + fingerprint(params)).encode()).hexdigest()
