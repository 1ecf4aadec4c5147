"""Reads image files as one luminance channel, and encodes them by their suffix."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from hkdnet_jax.common import image_formats, levels
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.formats.header import Header, NotSupported
from hkdnet_jax.common.formats.orientation import upright
from hkdnet_jax.common.paths import as_path, is_local

_FORMAT_OF_SUFFIX = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".npy": "NPY",
}
OUTPUT_SUFFIXES = tuple(_FORMAT_OF_SUFFIX)
IMAGE_SUFFIXES = (
    *OUTPUT_SUFFIXES,
    *(".webp", ".pbm", ".pgm", ".ppm", ".pnm", ".pam", ".pfm"),
)
# The depth of a picture that is written -> its dtype.
DTYPE_OF_DEPTH = {"8": np.uint8, "16": np.uint16, "float": np.float32}
DEPTHS = tuple(DTYPE_OF_DEPTH)
_DEPTHS_OF_FORMAT = {"PNG": ("8", "16"), "TIFF": DEPTHS, "NPY": DEPTHS}
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


def read(path: Path | str, page: int | None = None) -> Picture:
    """Reads one picture of a file, as its header describes it.

    Args:
      path: the file.
      page: which of the file's pictures, from 0; None for the first, with a note that
        counts the others.

    Raises:
      UserError: the file is missing or broken, is of a kind that is not read, or has no
        such page.
    """
    with _read_errors(path), _open(path) as file:
        return _picture(file, path, page)


def _picture(file: BinaryIO, name: Path | str, page: int | None) -> Picture:
    """Decodes a file that is open at its start; see `read`."""
    pixels, header = image_formats.decode(file, page or 0)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).any():
        raise UserError(f"{name} holds no number, only NaN: replace or remove it.")
    pixels = np.ascontiguousarray(upright(pixels, header.orientation))
    notes = _notes(pixels, header, page is None)
    return Picture(pixels, header.bits, header.full, header.pages, notes)


def _notes(pixels: np.ndarray, header: Header, first_alone: bool) -> tuple[str, ...]:
    notes = []
    if pixels.dtype.kind == "f" and np.isnan(pixels).any():
        notes.append("Pixels that are NaN become black.")
    if header.extra:
        notes.append("Alpha and other channels beside the colour are ignored.")
    if header.pages > 1 and first_alone:
        notes.append(
            f"It has {header.pages} pages, of which only the first is used; --pages "
            "all uses all."
        )
    return tuple(notes)


def is_deep(path: Path | str) -> bool:
    """Whether a file holds more than 8 bits per sample, or signed ones.

    Raises:
      UserError: see `image_size`.
    """
    with _read_errors(path), _open(path) as file:
        return image_formats.read_header(file).full != levels.BYTES


def page_count(path: Path | str) -> int:
    """Reads the number of pictures in a file from its header.

    Raises:
      UserError: see `image_size`.
    """
    with _read_errors(path), _open(path) as file:
        return image_formats.read_header(file).pages


def image_size(path: Path | str) -> tuple[int, int]:
    """Reads the (height, width) of the image that `read_gray` returns, from the header.

    Raises:
      UserError: the header cannot be read, or describes a file that `read_gray` would
        refuse.
    """
    with _read_errors(path), _open(path) as file:
        return image_formats.read_header(file).upright_size


def size_of_bytes(content: bytes, name: str) -> tuple[int, int]:
    """Like `image_size`, for the bytes of a file; `name` is for error messages."""
    with _read_errors(name):
        return image_formats.read_header(io.BytesIO(content)).upright_size


def read_gray(path: Path | str) -> np.ndarray:
    """Reads the first picture of a file as one channel of 8 or 16 bits.

    Colour becomes BT.601 luma, see `levels.luma`; alpha is ignored.  The orientation
    stored in the file is applied.

    Returns:
      [H, W] uint8, or uint16 if the file holds more than 8 bits per channel; its white
      is 65535, also that of 12-bit files.

    Raises:
      UserError: the file is missing or broken, or holds signed, 32-bit or
        floating-point levels.
    """
    return _gray(read(path, 0), path)


def gray_of_bytes(content: bytes, name: str) -> np.ndarray:
    """Like `read_gray`, for the bytes of a file; `name` is for error messages."""
    with _read_errors(name):
        return _gray(_picture(io.BytesIO(content), name, 0), name)


def _gray(picture: Picture, name: Path | str) -> np.ndarray:
    pixels = picture.pixels
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{name} holds {pixels.dtype} levels, which have no fixed black and white: "
            "save it as 8-bit or 16-bit gray or colour."
        )
    gray, white = levels.luma(pixels), int(picture.full.high)
    if white in (255, 65535):
        return gray
    # Halves up; levels above a white that the file states are white.
    wide = (2 * 65535 * gray.astype(np.uint64) + white) // (2 * white)
    return wide.clip(max=65535).astype(np.uint16)


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


def quantize(unit: np.ndarray, depth: str) -> np.ndarray:
    """Rounds levels in [0, 1] to what a file of this depth holds.

    Args:
      unit: float32 of any shape; values outside [0, 1] are clipped.
      depth: "8" or "16" for integers up to 255 or 65535, "float" for float32 in [0, 1].
    """
    clipped, dtype = np.clip(unit, 0, 1), DTYPE_OF_DEPTH[depth]
    if depth == "float":
        return clipped.astype(dtype)
    return np.rint(clipped * np.float32(np.iinfo(dtype).max)).astype(dtype)


def check_depth(out: Path, depth: str) -> None:
    """Checks that a file of this name can hold levels of this depth.

    Raises:
      UserError: its format cannot.
    """
    if depth in _DEPTHS_OF_FORMAT.get(_FORMAT_OF_SUFFIX[out.suffix.lower()], ("8",)):
        return
    suffixes = ".tiff or .npy" if depth == "float" else ".png, .tiff or .npy"
    raise UserError(
        f"{out} cannot hold levels of depth {depth}: give a name that ends in "
        f"{suffixes}."
    )


def encode(image: np.ndarray, out: Path) -> bytes:
    """Encodes a picture in the format that the suffix of `out` names.

    Args:
      image: [H, W] or [H, W, 3]; uint8, or a deeper dtype that the format can hold, see
        `check_depth`.
      out: a path with one of OUTPUT_SUFFIXES; nothing is written to it.

    Returns:
      The content of the image file.

    Raises:
      ValueError: the array has another dtype or shape.
      UserError: the format cannot hold so many pixels, or levels of this depth.
    """
    depths = [depth for depth, dtype in DTYPE_OF_DEPTH.items() if image.dtype == dtype]
    if not depths or image.ndim < 2 or image.shape[2:] not in ((), (3,)):
        found = f"{'x'.join(map(str, image.shape))} {image.dtype}"
        raise ValueError(
            "a picture must be HxW or HxWx3 of dtype uint8, uint16 or float32, not "
            f"{found}"
        )
    check_depth(out, depths[0])
    kind = _FORMAT_OF_SUFFIX[out.suffix.lower()]
    buffer = io.BytesIO()
    if kind == "NPY":
        np.save(buffer, image)
    elif image.dtype == np.uint8:
        _save(image, kind, buffer, out)
    elif kind == "TIFF":
        import tifffile  # Pillow writes no colour of 16 bits or floating point

        colour = "rgb" if image.ndim == 3 else "minisblack"
        tifffile.imwrite(buffer, image, photometric=colour)
    else:
        import imagecodecs

        return imagecodecs.png_encode(image)
    return buffer.getvalue()


def _save(image: np.ndarray, kind: str, buffer: io.BytesIO, out: Path) -> None:
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {}
    try:
        Image.fromarray(image).save(buffer, kind, **options)
    except OSError as error:
        # A JPEG file has at most 65,535 pixels along each side.
        height, width = image.shape[:2]
        raise UserError(
            f"{out} cannot hold {width}x{height} pixels ({error}): give a name that "
            "ends in .png."
        ) from error


def _open(path: Path | str) -> BinaryIO:
    """Opens a file; a pipe, which would wait for a writer, or a device is refused."""
    path = as_path(path)
    if is_local(path) and path.exists() and not path.is_file():
        raise ValueError("it is a folder" if path.is_dir() else "it is no regular file")
    return path.open("rb")


@contextlib.contextmanager
def _read_errors(path: Path | str) -> Iterator[None]:
    """Turns any exception from reading `path` into a UserError that names the path."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"{path} does not exist; give the path of an image file."
        ) from error
    except NotSupported as error:
        raise UserError(
            f"{path} is {error}; save it as 8-bit or 16-bit gray or colour."
        ) from error
    # The decoders raise many types of exception on broken files (OSError, SyntaxError,
    # ValueError, struct.error, IndexError ...), so all are caught.
    except Exception as error:
        detail = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            f"{path} cannot be read as an image ({detail}); replace or remove it."
        ) from error
