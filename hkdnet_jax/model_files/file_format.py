"""Model directories and exported weights, safe to load anywhere.

A model directory is a folder with a `model.safetensors`.  An exported file is one such
file of any name, or a `.npz` with the same arrays and metadata (`to_npz`).

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
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from hkdnet_jax.common import tensor_files
from hkdnet_jax.common.atomic_files import to_json, write_atomically
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path, is_local
from hkdnet_jax.common.trees import fingerprint, flatten, unflatten

WEIGHTS_FILE = "model.safetensors"
SAFETENSORS, NPZ = ".safetensors", ".npz"  # suffixes of exported weights
PROGRAMS = (".stablehlo", ".onnx")  # suffixes of what export writes besides
# The entry of a .npz file that holds the metadata, as JSON in a scalar of text.
_METADATA = "__metadata__"
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
    content = to_safetensors(config, params, {})
    write_atomically(as_path(directory) / WEIGHTS_FILE, content)


def to_safetensors(
    config: Mapping[str, Any], params: Mapping[str, Any], about: Mapping[str, str]
) -> bytes:
    """Returns the bytes of a file that `load_model` reads.

    Args:
      config: see `save_model`.
      params: see `save_model`.
      about: further metadata, for people and other programs.

    Raises:
      TypeError, ValueError: see `save_model`.
    """
    # safetensors copies raw memory, so the arrays must be in C order. (Not by
    # ascontiguousarray, which turns scalars into vectors.)
    arrays = {k: np.asarray(v, order="C") for k, v in flatten(params).items()}
    return safetensors.numpy.save(arrays, _metadata(config, params, about))


def to_npz(
    config: Mapping[str, Any], params: Mapping[str, Any], about: Mapping[str, str]
) -> bytes:
    """Returns the same as `to_safetensors` as an uncompressed .npz file.

    Each array has its flat name; `__metadata__` is a scalar of text that holds the
    metadata as JSON.  Nothing in it is pickled.
    """
    arrays = {k: np.asarray(v) for k, v in flatten(params).items()}
    metadata = np.array(to_json(_metadata(config, params, about)))
    content = io.BytesIO()
    np.savez(content, **{_METADATA: metadata}, **arrays)
    return content.getvalue()


def _metadata(
    config: Mapping[str, Any], params: Mapping[str, Any], about: Mapping[str, str]
) -> dict[str, str]:
    text = to_json(dict(config))
    own = {"format": _FORMAT, "config": text, "sha256": _checksum(text, params)}
    return {**about, **own}


def load_model(path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a model directory, or exported weights.

    Args:
      path: the directory, or a .safetensors or .npz file; see `paths.as_path`.

    Returns:
      The configuration, and the parameters as a nested dict of NumPy arrays.

    Raises:
      UserError: there is no model, or the file is damaged or of another kind.
    """
    file = _find(as_path(path))
    metadata, arrays = _read(file)
    if metadata.get("format") != _FORMAT:
        raise UserError(
            f"{file} is not an HKDnet model (its format is "
            f"{metadata.get('format')!r}, not {_FORMAT!r}): give a folder that "
            "this program's training wrote, or a file that its export wrote."
        )
    params = unflatten(arrays)
    if metadata.get("sha256") != _checksum(metadata.get("config", ""), params):
        raise UserError(
            f"{file} is damaged (its content does not match its checksum): copy, "
            "export or train it again."
        )
    return json.loads(metadata["config"]), params


def _find(directory: Any) -> Any:
    """The file that holds the weights."""
    file = directory / WEIGHTS_FILE
    if not directory.exists():
        raise UserError(
            f"{directory} does not exist: give the folder that holds {WEIGHTS_FILE}."
        )
    if not directory.is_dir() and directory.suffix in (SAFETENSORS, NPZ):
        return directory
    if not directory.is_dir() and directory.suffix in PROGRAMS:
        raise UserError(
            f"{directory} is a program, not weights: run it as docs/export.md shows, "
            f"or give a model directory, {SAFETENSORS} or {NPZ}."
        )
    if not directory.is_dir():
        raise UserError(
            f"{directory} is a file, not a model directory: give the folder that holds "
            f"{WEIGHTS_FILE}, or weights exported as {SAFETENSORS} or {NPZ}."
        )
    if not file.exists():
        raise UserError(
            f"{directory} is not a model directory, because it holds no "
            f"{WEIGHTS_FILE}: give the folder that training wrote it to, or let the "
            "training run reach its first validation, which writes it."
        )
    return file


def _read(file: Any) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays of a file of weights."""
    try:
        with _on_this_machine(file) as local:
            read = _read_npz if file.suffix == NPZ else tensor_files.read_safetensors
            return read(local)
    except (
        safetensors.SafetensorError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        kind = "an .npz" if file.suffix == NPZ else "a safetensors"
        reason = re.split(r"\.\s|\.$|\n", str(error).strip())[0]
        raise UserError(
            f"{file} is damaged or not {kind} file ({reason}): copy, export or train "
            "it again."
        ) from error


def _read_npz(file: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with file.open("rb") as raw:
        arrays = tensor_files.read_npz(raw)
    text = arrays.pop(_METADATA, None)
    metadata = json.loads(str(text)) if text is not None else {}
    return (metadata if isinstance(metadata, dict) else {}), arrays


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
