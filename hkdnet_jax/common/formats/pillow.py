"""BMP and WebP, which Pillow reads alone."""

from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, ImageFile

from hkdnet_jax.common.formats import orientation
from hkdnet_jax.common.formats.header import Header

_COLOURS = {"1": "gray", "L": "gray", "P": "palette"}


def read_bmp(file: BinaryIO) -> Header:
    """Reads the header of a BMP that is open at its start."""
    with BmpImagePlugin.BmpImageFile(file) as image:
        colour, size = _COLOURS.get(image.mode, "RGB"), (image.height, image.width)
        return Header("BMP", "pillow", colour, 8, size, extra=_extra(image))


def read_webp(file: BinaryIO) -> Header:
    """Reads the header of a WebP that is open at its start."""
    with _open_webp(file) as image:
        turned = orientation.first(
            orientation.of_exif(image.info.get("exif") or b""),
            orientation.of_xmp(image.info.get("xmp") or b""),
        )
        size, pages = (image.height, image.width), image.n_frames
        extra = _extra(image)
        return Header(
            "WebP", "pillow", "RGB", 8, size, turned, extra=extra, pages=pages
        )


def decode_bmp(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes the picture; see `image_formats.decode`."""
    with BmpImagePlugin.BmpImageFile(file) as image:
        return np.asarray(image.convert("L" if header.colour == "gray" else "RGB"))


def decode_webp(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes one picture; see `image_formats.decode`."""
    with _open_webp(file) as image:
        image.seek(page)
        return np.asarray(image.convert("RGB"))


def _open_webp(file: BinaryIO) -> ImageFile.ImageFile:
    from PIL import WebPImagePlugin  # loads its library

    return WebPImagePlugin.WebPImageFile(file)


def _extra(image: ImageFile.ImageFile) -> int:
    return int(image.mode in ("LA", "PA", "RGBA"))
