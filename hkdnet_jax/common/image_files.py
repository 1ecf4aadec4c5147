"""Reads image files as one luminance channel, and encodes them by their suffix."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hkdnet_jax.common import image_formats, levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import as_path

_FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
IMAGE_SUFFIXES = tuple(_FORMAT_OF_SUFFIX)
_JPEG_QUALITY = 95


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file, upright.

    Attributes:
      pixels: [H, W] gray or [H, W, 3] RGB, contiguous, in native byte order: uint8,
        uint16, uint32, int8, int16, int32, float16, float32 or float64; as stored, so
        that NaN stays NaN and 12-bit levels stay 0..4095, but 1, 2 and 4 bits become
        0..255.
      bits: bits per sample as stored.
      full: the levels that the samples can hold, black first: 0..255, 0..4095 ...;
        0..1 for floating point.
      pages: number of pictures in the file.
      notes: sentences for the user, without the name of the file.
    """

    pixels: np.ndarray
    bits: int
    full: levels.Range
    pages: int = 1
    notes: tuple[str, ...] = ()

    @property
    def is_colour(self) -> bool:
        """Whether the pixels have three channels."""
        return self.pixels.ndim == 3


def read(path: Path | str, page: int = 0) -> Picture:
    """Reads one picture of a file, as its header describes it.

    Args:
      path: the file.
      page: which of the file's pictures, from 0.

    Raises:
      UserError: the file is missing or broken, is of a kind that is not read, or has no
        such page.
    """
    with _read_errors(path):
        pixels, header = image_formats.decode(as_path(path).read_bytes())
    if page:
        raise UserError(f"{path} has no page {page + 1}.")
    pixels = np.ascontiguousarray(_upright(pixels, header.orientation))
    return Picture(pixels, header.bits, levels.full_range(pixels.dtype, header.bits))


def image_size(path: Path | str) -> tuple[int, int]:
    """Reads the (height, width) of the image that `read_gray` returns, from the header.

    Raises:
      UserError: the header cannot be read, or describes a file that `read_gray` would
        refuse.
    """
    with _read_errors(path), as_path(path).open("rb") as file:
        return image_formats.read_header(file).upright_size


def read_gray(path: Path | str) -> np.ndarray:
    """Reads a PNG, JPEG, BMP or TIFF file as one luminance channel.

    The file may be gray, RGB, RGBA (alpha is ignored), palette, CMYK or YCbCr.  Colour
    becomes BT.601 luma as in MATLAB's rgb2gray,
    ``0.298936 R + 0.587043 G + 0.114021 B``, rounded.  The orientation stored in the
    file is applied.

    Returns:
      [H, W] uint8, or uint16 if the file holds more than 8 bits per channel; 12-bit
      levels stay 0..4095.

    Raises:
      UserError: the file is missing or broken, or has another pixel format (such as
        floating point).
    """
    with _read_errors(path):
        image, header = image_formats.decode(as_path(path).read_bytes())
    return np.ascontiguousarray(_upright(levels.luma(image), header.orientation))


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Converts uint16 to uint8 by rounding x/257, so that 65535 becomes 255.

    A uint8 image is returned unchanged.

    Raises:
      TypeError: the dtype is neither uint8 nor uint16.
    """
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise TypeError(f"expected uint8 or uint16, got {image.dtype}")
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def encode(image: np.ndarray, out: Path) -> bytes:
    """Encodes a picture in the format that the suffix of `out` names.

    Args:
      image: uint8 [H, W] or [H, W, 3].
      out: a path with one of IMAGE_SUFFIXES; nothing is written to it.

    Returns:
      The content of the image file.

    Raises:
      ValueError: the array has another dtype or shape.
      UserError: the format cannot hold so many pixels.
    """
    if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (3,)):
        found = f"{'x'.join(map(str, image.shape))} {image.dtype}"
        raise ValueError(f"a picture must be uint8 HxW or HxWx3, not {found}")
    kind = _FORMAT_OF_SUFFIX[out.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, kind, **options)
    except OSError as error:
        # A JPEG file has at most 65,535 pixels along each side.
        height, width = image.shape[:2]
        raise UserError(
            f"{out} cannot hold {width}x{height} pixels ({error}): give a name that "
            "ends in .png."
        ) from error
    return buffer.getvalue()


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a stored [H, W, ...] image upright, given its EXIF orientation (1..8)."""
    if orientation in (5, 6, 7, 8):
        image = np.swapaxes(image, 0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


@contextlib.contextmanager
def _read_errors(path: Path | str) -> Iterator[None]:
    """Turns any exception from reading `path` into a UserError that names the path."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give the path of an image file."
        ) from error
    except image_formats.NotSupported as error:
        raise UserError(
            f"{path} is {error}; save it as 8-bit or 16-bit gray or colour."
        ) from error
    # The decoders raise many types of exception on broken files (OSError, SyntaxError,
    # ValueError, struct.error, IndexError ...), so all are caught.
    except Exception as error:
        detail = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            # Pillow's message names the object in memory that held the file's content.
            detail = "it is not a PNG, JPEG, BMP or TIFF file"
        raise UserError(
            f"{path} cannot be read as an image ({detail}); replace or remove it."
        ) from error
