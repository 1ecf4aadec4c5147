"""Image file formats: which file is of which format, and what its header says.

The content decides, not the name.  Each format has a module in `formats`, which decodes
as its header says, never as a library happens to return the pixels.  The functions let
the libraries' exceptions pass; `image_files` turns them into one-sentence errors.
"""

import io
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from hkdnet_jax.common.formats import jpeg, npy, pillow, png, pnm, tiff
from hkdnet_jax.common.formats.header import Header, NotSupported


class _Format(NamedTuple):
    """The functions of one format."""

    read_header: Callable[[BinaryIO], Header]
    decode: Callable[[BinaryIO, Header, int], np.ndarray]


_OF_START = {
    png.START: _Format(png.read_header, png.decode),
    jpeg.START: _Format(jpeg.read_header, jpeg.decode),
    npy.START: _Format(npy.read_header, npy.decode),
    b"BM": _Format(pillow.read_bmp, pillow.decode_bmp),
    **dict.fromkeys(tiff.STARTS, _Format(tiff.read_header, tiff.decode)),
    **dict.fromkeys(pnm.STARTS, _Format(pnm.read_header, pnm.decode)),
}
_WEBP = _Format(pillow.read_webp, pillow.decode_webp)
# What is not read, by its own name: start of the content, or of an ISO media file's
# type after its eight first bytes.
_REFUSED = {
    b"GIF8": "a GIF",
    b"\0\0\0\x0cjP  ": "a JPEG 2000",
    b"\xff\x4f\xff\x51": "a JPEG 2000",
    b"\xff\x0a": "a JPEG XL",
    b"\0\0\0\x0cJXL ": "a JPEG XL",
    b"II\xbc\x01": "a JPEG XR",
    b"\x76\x2f\x31\x01": "an OpenEXR",
    b"#?RADIANCE": "a Radiance HDR",
    b"8BPS": "a Photoshop",
    b"SIMPLE  =": "a FITS",
    b"\x89HDF": "an HDF5",
    b"DDS ": "a DDS",
    b"%PDF": "a PDF",
    b"FFF\0": "a FLIR radiometric",
    b"\x1a\x45\xdf\xa3": "a Matroska video",
    b"PK\x03\x04": "a ZIP",
}
_ISO_MEDIA = {b"avi": "an AVIF", b"hei": "a HEIC", b"hev": "a HEIC", b"mif": "a HEIF"}
_LONGEST_START = 16


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start.

    Raises:
      NotSupported: the file is intact, but of a kind that is not read.
      ValueError: the picture is absurdly large.
      Exception: the header cannot be understood; the type depends on the library.
    """
    header = _format(file).read_header(file)
    header.check_size()
    return header


def decode(content: bytes | BinaryIO, page: int = 0) -> tuple[np.ndarray, Header]:
    """Decodes one picture of a file, without turning it upright.

    Args:
      content: the file's content, or the file, open at its start.
      page: which of its pictures, from 0.

    Returns:
      The pixels and the header.  The pixels are [H, W] for gray and [H, W, 3] RGB
      otherwise, in native byte order: uint8 for up to 8 bits, which fill 0..255; uint16
      for up to 16, which keep their levels; or a dtype of 32 bits, signed or floating
      point.  Alpha is left out, and colours that were multiplied by it stay so.

    Raises:
      NotSupported: the file is intact, but of a kind that is not read.
      IndexError: it has no such page.
      Exception: the content is broken; the type depends on the library.
    """
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    header = read_header(file)
    if not 0 <= page < header.pages:
        raise IndexError(f"it has no page {page + 1}, only {header.pages}")
    file.seek(0)
    pixels = _format(file).decode(file, header, page)
    if pixels.shape[:2] != header.size:
        raise ValueError("its number of pixels is not the one in its header")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), header


def _format(file: BinaryIO) -> _Format:
    """Finds the format of a file that is open at its start.

    Raises:
      NotSupported: the format is known and not read.
      ValueError: the content is of no known format.
    """
    start = file.read(_LONGEST_START)
    file.seek(0)
    for known, found in _OF_START.items():
        if start.startswith(known):
            return found
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _WEBP
    for known, name in _REFUSED.items():
        if start.startswith(known):
            raise NotSupported(f"{name} file")
    if start[4:8] == b"ftyp":
        raise NotSupported(f"{_ISO_MEDIA.get(start[8:11], 'an MP4 or MOV')} file")
    raise ValueError(
        "it is not a PNG, JPEG, BMP, TIFF, WebP, PNM, PFM or NPY file"
        if start
        else "it is empty"
    )
