"""PNG: every colour type and depth, and animations.

The decoders get the chunks that hold pixels and no others, so that damaged or huge
metadata cannot hide good pixels.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import PngImagePlugin

from hkdnet_jax.common.formats import orientation
from hkdnet_jax.common.formats.header import Header, NotSupported

START = b"\x89PNG\r\n\x1a\n"
_STILL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANIMATED = (*_STILL, b"tRNS", b"acTL", b"fcTL", b"fdAT")
# Colour type -> colour, channels beside it, possible bits.
_COLOURS = {
    0: ("gray", 0, (1, 2, 4, 8, 16)),
    2: ("RGB", 0, (8, 16)),
    3: ("palette", 0, (1, 2, 4, 8)),
    4: ("gray", 1, (8, 16)),
    6: ("RGB", 1, (8, 16)),
}
_MOST_METADATA = 2**18  # bytes of a chunk that are searched; an orientation comes early


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start.

    Raises:
      ValueError: it is not that of a PNG.
    """
    file.seek(len(START))
    header, stated, pages, transparent = None, {}, 1, False
    for kind, length in _chunks(file):
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise ValueError("its first chunk is no header")
            header = struct.unpack(">IIBB", file.read(10))
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            source, found = _orientation(kind, file.read(min(length, _MOST_METADATA)))
            stated.setdefault(source, found)
        elif kind == b"tRNS":
            transparent = True
        elif kind == b"acTL" and length == 8:
            pages = max(1, struct.unpack(">I", file.read(4))[0])
    if header is None:
        raise ValueError("it ends in its header")
    width, height, bits, colour_type = header
    colour, extra, possible = _COLOURS.get(colour_type, ("", 0, ()))
    if bits not in possible:
        raise ValueError(f"colour type {colour_type} of {bits} bits is none of PNG's")
    return Header(
        "PNG",
        "imagecodecs" if bits == 16 else "pillow",
        colour,
        bits,
        (height, width),
        orientation.first(*(stated.get(source) for source in ("exif", "raw", "xmp"))),
        extra=max(extra, int(transparent)),
        pages=pages,
    )


def decode(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes one picture; see `image_formats.decode`."""
    content = file.read()
    if page == 0:
        content = _only(content, _STILL)
        if header.bits == 16:
            return _decode_16_bits(content, header)
        with PngImagePlugin.PngImageFile(io.BytesIO(content)) as image:
            return np.asarray(image.convert(_mode(header)))
    if header.bits == 16:
        raise NotSupported("an animated PNG of 16 bits")
    with PngImagePlugin.PngImageFile(io.BytesIO(_only(content, _ANIMATED))) as image:
        image.seek(page)
        frame = image.convert("LA" if header.colour == "gray" else "RGBA")
        return np.asarray(frame.convert(_mode(header)))


def _mode(header: Header) -> str:
    return "L" if header.colour == "gray" else "RGB"


def _decode_16_bits(content: bytes, header: Header) -> np.ndarray:
    import imagecodecs

    samples = imagecodecs.png_decode(content)
    if header.colour == "RGB":
        return samples[..., :3]
    return samples if samples.ndim == 2 else samples[..., 0]


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields the type and the length of each chunk, with the file at its body."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = file.tell()
        yield kind, length
        file.seek(body + length + 4)


def _only(content: bytes, kinds: tuple[bytes, ...]) -> bytes:
    """Returns the PNG with the chunks of these types alone."""
    parts = [START]
    for kind, length in _chunks(file := io.BytesIO(content[len(START) :])):
        if kind in kinds:
            start = len(START) + file.tell() - 8
            parts.append(content[start : start + length + 12])
        if kind == b"IEND":
            break
    return b"".join(parts)


def _orientation(kind: bytes, body: bytes) -> tuple[str, int | None]:
    """The kind of metadata in a chunk, and the orientation that it states."""
    if kind == b"eXIf":
        return "exif", orientation.of_exif(body)
    keyword, _, text = body.partition(b"\0")
    if kind == b"iTXt":
        packed, text = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
    else:
        packed, text = kind == b"zTXt", text[1:] if kind == b"zTXt" else text
    if packed:
        try:
            text = zlib.decompressobj().decompress(text, _MOST_METADATA)
        except zlib.error:
            return "", None
    if keyword == b"XML:com.adobe.xmp":
        return "xmp", orientation.of_xmp(text)
    if keyword.lower() in (b"raw profile type exif", b"raw profile type app1"):
        return "raw", orientation.of_raw_profile(text)
    return "", None
