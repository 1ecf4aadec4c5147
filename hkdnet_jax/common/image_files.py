"""Image files: read as one luminance channel, written in the format of their suffix."""

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from hkdnet_jax.common.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Naming the decoders keeps a mislabelled file away from Pillow's other ones (some of
# which start external programs).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_EXIF_ORIENTATION = 0x0112
_GRAY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr")


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) as `read_gray` returns it, from the file's header alone.

    Raises:
      UserError: the header cannot be read.
    """
    try:
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            # Asking a PNG without early EXIF data for it would decode the whole file;
            # a TIFF's size has its orientation applied already.
            if image.format in ("JPEG", "MPO") or "exif" in image.info:
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                if orientation in (5, 6, 7, 8):
                    width, height = height, width
    except Exception as error:
        raise _unreadable(path, error) from error
    return height, width


def read_gray(path: Path | str) -> np.ndarray:
    """Reads a PNG, JPEG, BMP or TIFF file as one luminance channel.

    Gray, RGB, RGBA (alpha ignored), palette and CMYK files; colour becomes BT.601 luma
    as MATLAB's rgb2gray, ``0.298936 R + 0.587043 G + 0.114021 B``, rounded.  EXIF
    orientation is applied.

    Returns:
      [H, W] uint8, or uint16 if the file holds 16 bits a channel.

    Raises:
      UserError: the file is missing or broken, or has another pixel format (such as
        floating point).
    """
    try:
        # Bytes, not the path: Pillow 13 memory-maps an uncompressed TIFF given by path,
        # and scrambles it if its orientation swaps width and height.
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if ";16" in _raw_mode(image) and image.mode[0] != "I":
                gray = _read_colour16(content, image.mode)
                image.load()
            else:
                gray = _to_gray(image)
            # After loading: only then is the EXIF data of every format complete, and
            # Pillow has turned a TIFF and taken its tag away.
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            mode = image.mode
    except Exception as error:
        raise _unreadable(path, error) from error
    if gray is None:
        raise UserError(
            f"{path} has the pixel format '{mode}'; save it as 8 or 16 bit gray or "
            "colour."
        )
    return np.ascontiguousarray(_upright(gray, orientation))


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """uint16 to uint8 by rounding x/257, so that 65535 becomes 255; uint8 unchanged."""
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise TypeError(f"expected uint8 or uint16, got {image.dtype}")
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _unreadable(path: Path | str, error: Exception) -> UserError:
    # Pillow's decoders raise many types on broken files (OSError, SyntaxError,
    # ValueError, struct.error, IndexError ...), so callers catch them all.
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist.")
    detail = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        # Its own words name the object in memory that held the file's content.
        detail = f"it is none of {', '.join(_FORMATS)}"
    return UserError(
        f"{path} cannot be read as an image ({detail}); replace or remove it."
    )


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its samples, in Pillow's words, such as "RGB;16B"."""
    if not image.tile:
        return ""
    args = image.tile[0].args
    return str(args if isinstance(args, str) else args[0])


def _to_gray(image: Image.Image) -> np.ndarray | None:
    """[H, W] uint8 or uint16; None for a pixel format that is not supported."""
    # Alpha is ignored; left in, a transparent palette makes Pillow warn.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in _GRAY_MODES:
        return np.asarray(image.convert("L"))
    if image.mode in _COLOUR_MODES:
        return _luma(np.asarray(image.convert("RGB")))
    return None


def _luma(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma of [H, W, >=3] in the same dtype, exact in integers."""
    # MATLAB's coefficients, which published metric values rest on: the rounded ones of
    # the standard (0.299, 0.587, 0.114) change one pixel in two hundred by a level.
    red, green, blue = (rgb[..., i].astype(np.uint64) for i in range(3))
    millionths = 298936 * red + 587043 * green + 114021 * blue
    return ((millionths + 500_000) // 1_000_000).astype(rgb.dtype)


def _read_colour16(content: bytes, mode: str) -> np.ndarray:
    """Luma of a file with 16 bits a sample and several samples a pixel, uint16.

    Pillow keeps only the high byte of such samples.  So the file is decoded twice: as
    if samples were big-endian (";16B" yields the first byte of each) and as if they
    were little-endian (";16L" yields the second).
    """

    def decode(new_raw_mode: str) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if new_raw_mode == "RGBA":
                image._mode = "RGBA"
            image.tile = [
                tile._replace(
                    args=new_raw_mode
                    if isinstance(tile.args, str)
                    else (new_raw_mode, *tile.args[1:])
                )
                for tile in image.tile
            ]
            image.load()
            return np.asarray(image)

    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        bands, order = _raw_mode(image).split(";16")
    if bands == "LA":
        # Two big-endian 16-bit samples fill the four bytes of one RGBA pixel.
        pixels = decode("RGBA").astype(np.uint16)
        return (pixels[..., 0] << 8) | pixels[..., 1]
    # "RGBa" (premultiplied) would be divided by alpha byte by byte: read it as is.
    bands = "RGBA" if mode == "RGBA" else bands
    first = decode(f"{bands};16B").astype(np.uint16)
    second = decode(f"{bands};16L").astype(np.uint16)
    if order == "B" or (order == "N" and sys.byteorder == "big"):
        return _luma((first << 8) | second)
    return _luma((second << 8) | first)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a stored [H, W] image as the EXIF orientation (1..8) says."""
    if orientation in (5, 6, 7, 8):
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


_JPEG_QUALITY = 95


def encode(image: np.ndarray, out: Path) -> bytes:
    """The content of an image file in the format that `out`'s suffix stands for."""
    kind = Image.registered_extensions()[out.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind == "JPEG" else {}
    buffer = io.BytesIO()
    try:
        Image.fromarray(image).save(buffer, kind, **options)
    except OSError as error:
        # A JPEG file has at most 65,535 pixels a side.
        height, width = image.shape
        raise UserError(
            f"{out} cannot hold {width}x{height} pixels ({error}): give a name that "
            "ends in .png."
        ) from error
    return buffer.getvalue()
