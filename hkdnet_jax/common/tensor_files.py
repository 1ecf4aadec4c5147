"""Reads files of named arrays, in which nothing is trusted and nothing is unpickled."""

import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors

# The headers of the largest models here take 0.1 MB.  safetensors itself refuses none
# below 100 MB, whose JSON may take gigabytes when it is parsed.
MOST_HEADER_BYTES = 4 * 2**20
# The arrays of the largest models here take 0.2 GB; those of VGG16 0.6 GB.
MOST_NPZ_BYTES = 4 * 2**30


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Reads the metadata and the arrays of a safetensors file.

    Raises:
      ValueError: the header is longer than any model's.
      safetensors.SafetensorError: the file is damaged or of another kind.
      OSError: the file cannot be read.
    """
    with file.open("rb") as raw:
        start = raw.read(8)
    if len(start) == 8 and struct.unpack("<Q", start)[0] > MOST_HEADER_BYTES:
        raise ValueError(
            f"its header is of {struct.unpack('<Q', start)[0]} bytes, more than the "
            f"{MOST_HEADER_BYTES} that a model takes"
        )
    # With one open handle the metadata and the arrays come from the same version, even
    # if another process replaces the file meanwhile.
    with safetensors.safe_open(file, framework="np") as opened:
        return opened.metadata() or {}, opened.get_tensors()


def read_npz(raw: BinaryIO) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file that is open at its start.

    The caller opens it, because NumPy does not close a damaged file that it opened.

    Raises:
      ValueError: an entry is a pickle, or the arrays are larger than any model's.
      zipfile.BadZipFile, zlib.error, EOFError, OSError: the file is damaged.
    """
    with zipfile.ZipFile(raw) as archive:
        stated = sum(member.file_size for member in archive.infolist())
    if stated > MOST_NPZ_BYTES:
        raise ValueError(
            f"its arrays take {stated} bytes, more than the {MOST_NPZ_BYTES} that a "
            "model takes"
        )
    raw.seek(0)
    # np.load may take a file of another kind for a pickle or a single array.
    try:
        with np.lib.npyio.NpzFile(raw, allow_pickle=False) as opened:
            return dict(opened.items())
    except MemoryError as error:
        raise ValueError("an array states more elements than fit in memory") from error
