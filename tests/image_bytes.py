"""Contents of image files, made in memory, and the pixels that they must decode to."""

import io
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image

from hkdnet_jax.common.image_formats import decode, read_header

RNG = np.random.default_rng(7)
SHAPE = (21, 34)  # odd and unequal, so that a swap or a shift shows


def samples(bits: int, *count: int) -> np.ndarray:
    dtype = np.uint16 if bits > 8 else np.uint8
    return RNG.integers(0, 2**bits, (*SHAPE, *count), dtype=dtype)


GRAY8, RGB8, CMYK8 = samples(8), samples(8, 3), samples(8, 4)
GRAY16, RGB16, CMYK16 = samples(16), samples(16, 3), samples(16, 4)


def tiff(image: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, image, **options)
    return file.getvalue()


def by_pillow(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def assert_pixels(content: bytes, expected: np.ndarray, page: int = 0) -> None:
    pixels, header = decode(content, page)
    assert pixels.dtype == expected.dtype and pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, expected)
    assert header == read_header(io.BytesIO(content))


def png(pixels: np.ndarray, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of [H, W, samples], with chunks before and after its data."""
    height, width, samples = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[samples]
    bits = pixels.dtype.itemsize * 8
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    data = before + chunk(b"IDAT", zlib.compress(rows)) + after
    return png_of(width, height, bits, colour_type, data)


def png_of(width: int, height: int, bits: int, colour_type: int, data: bytes) -> bytes:
    """A PNG with this header and these chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def packed(levels: np.ndarray, bits: int) -> list[bytes]:
    """The rows of [H, W], with this many bits per sample and no gaps but at the end."""
    shifts = np.arange(bits - 1, -1, -1)
    ones = (levels[..., None] >> shifts & 1).astype(np.uint8)
    return [row.tobytes() for row in np.packbits(ones.reshape(len(levels), -1), axis=1)]


def of_mode(mode: str, image: np.ndarray) -> Image.Image:
    """A picture of these channels, which are RGB if `Image.fromarray` makes it."""
    return Image.frombytes(mode, image.shape[1::-1], image.tobytes())
