"""JPEG of 8 bits, of 12 bits, and lossless of up to 16 bits.

The decoders get no metadata, so that what is damaged there cannot hide good pixels.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import JpegImagePlugin

from hkdnet_jax.common.formats import orientation
from hkdnet_jax.common.formats.header import Header, NotSupported

START = b"\xff\xd8\xff"
_SCAN, _END = 0xDA, 0xD9
_APP1, _ADOBE = 0xE1, 0xEE
# Application data and comments: metadata, but for the one that tells the colours.
_METADATA = {*range(0xE0, 0xF0), 0xFE} - {_ADOBE}
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers that no segment follows
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = 0xC3
_LOSSY = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # sequential, progressive; the last arithmetic
_COLOURS = {1: "gray", 3: "RGB", 4: "CMYK"}


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start.

    Raises:
      NotSupported: it is a JPEG of a kind that is not read.
      ValueError: it is not that of a JPEG.
    """
    exif = xmp = frame = None
    for marker, start, length in _segments(file):
        if marker in _FRAMES and length >= 6:
            file.seek(start)
            frame = marker, *struct.unpack(">BHHB", file.read(6))
            # What stands behind belongs to the pixels.
            break
        if marker == _APP1:
            file.seek(start)
            body = file.read(length)
            if body.startswith(b"Exif\0"):
                exif = exif or orientation.of_exif(body)
            elif b"xap/1.0/\0" in body[:40]:
                xmp = xmp or orientation.of_xmp(body)
    if frame is None:
        raise ValueError("it ends before its size is said")
    process, bits, height, width, count = frame
    simple = bits == 8 and process in _LOSSY
    if not (simple or _by_imagecodecs(process, bits)) or count not in _COLOURS:
        raise NotSupported(
            f"a JPEG of process SOF{process - 0xC0}, with {count} components of "
            f"{bits} bits"
        )
    decoder = "pillow" if simple else "imagecodecs"
    turned = orientation.first(exif, xmp)
    return Header("JPEG", decoder, _COLOURS[count], bits, (height, width), turned)


def _by_imagecodecs(process: int, bits: int) -> bool:
    if process == _LOSSLESS:
        return 2 <= bits <= 16
    return bits == 12 and process in _LOSSY


def decode(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes the picture; see `image_formats.decode`."""
    content = _without_metadata(file.read())
    if header.decoder == "pillow":
        with JpegImagePlugin.JpegImageFile(io.BytesIO(content)) as image:
            return np.asarray(image.convert("L" if header.colour == "gray" else "RGB"))
    import imagecodecs

    if header.colour == "CMYK":
        raise NotSupported(f"a CMYK JPEG of {header.bits} bits")
    return imagecodecs.jpeg_decode(content)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """Yields marker, start and length of each segment's body, up to the first scan."""
    file.seek(2)
    while True:
        byte = file.read(1)
        while byte and byte != b"\xff":  # some cameras pad their segments
            byte = file.read(1)
        while byte == b"\xff":
            byte = file.read(1)
        if not byte or byte[0] == _END:
            return
        if byte[0] in _ALONE:
            continue
        size = file.read(2)
        if len(size) < 2:
            return
        start, length = file.tell(), int.from_bytes(size, "big") - 2
        if length < 0:
            raise ValueError("a segment has a negative length")
        yield byte[0], start, length
        if byte[0] == _SCAN:
            return
        file.seek(start + length)


def _without_metadata(content: bytes) -> bytes:
    parts = [content[:2]]
    for marker, start, length in _segments(io.BytesIO(content)):
        head = bytes([0xFF, marker]) + content[start - 2 : start]
        if marker == _SCAN:
            parts += [head, content[start:]]
        elif marker not in _METADATA:
            parts += [head, content[start : start + length]]
    return b"".join(parts)
