"""NumPy's NPY: an array [H, W], [H, W, channels], or pages of them."""

import io
import math
from typing import BinaryIO

import numpy as np

from hkdnet_jax.common.formats.header import Header, NotSupported

START = b"\x93NUMPY"
_SAMPLES = {"b": "unsigned", "u": "unsigned", "i": "signed", "f": "floating-point"}
_MOST_CHANNELS = 4


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start.

    Raises:
      NotSupported: the array is none of pictures.
      ValueError: it is not the header of an array.
    """
    shape, dtype, _ = _read(file)
    readable = dtype.kind in _SAMPLES and dtype.itemsize <= (
        8 if dtype.kind == "f" else 4
    )
    pages, size, channels = _layout(shape)
    if not readable or channels == 0:
        found = "x".join(map(str, shape)) or "no dimension"
        raise NotSupported(f"an NPY array of {found} and dtype {dtype}")
    return Header(
        "NPY",
        "numpy",
        "RGB" if channels >= 3 else "gray",
        1 if dtype.kind == "b" else dtype.itemsize * 8,
        size,
        samples=_SAMPLES[dtype.kind],
        extra=int(channels in (2, 4)),
        pages=pages,
    )


def decode(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes one picture; see `image_formats.decode`."""
    shape, dtype, by_columns = _read(file)
    if by_columns:
        array = np.frombuffer(file.read(), dtype, math.prod(shape))
        array = array.reshape(shape, order="F")
        array = array.reshape(header.pages, *header.size, -1)[page]
    else:
        count = math.prod(shape) // header.pages
        file.seek(page * count * dtype.itemsize, io.SEEK_CUR)
        content = file.read(count * dtype.itemsize)
        array = np.frombuffer(content, dtype, count).reshape(*header.size, -1)
    array = array[..., :3] if header.colour == "RGB" else array[..., 0]
    return array.astype(np.uint8) * 255 if header.bits == 1 else array


def _layout(shape: tuple[int, ...]) -> tuple[int, tuple[int, int], int]:
    """Pages, (height, width) and channels of an array; no channels if it is no picture.

    A last dimension of at most four counts the channels.
    """
    channels = 1
    if len(shape) > 2 and shape[-1] <= _MOST_CHANNELS:
        *shape, channels = shape
    if len(shape) == 2:
        return 1, tuple(shape), channels
    if len(shape) == 3 and shape[0]:
        return shape[0], tuple(shape[1:]), channels
    return 1, (0, 0), 0


def _read(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, dtype, and whether the first index changes fastest."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, by_columns, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise NotSupported(f"an NPY file of version {version[0]}")
    return shape, dtype, by_columns
