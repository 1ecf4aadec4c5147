"""PBM, PGM, PPM, PAM and PFM.

Read here because no library that is kept reads them exactly: Pillow halves the depth of
16-bit colour and stretches levels, netpbmfile returns PFM upside down.
"""

import re
from typing import BinaryIO, NamedTuple

import numpy as np

from hkdnet_jax.common.formats.header import Header, NotSupported

STARTS = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7\n", b"PF", b"Pf")
_CHANNELS = {b"P1": 1, b"P2": 1, b"P3": 3, b"P4": 1, b"P5": 1, b"P6": 3}
_CHANNELS |= {b"PF": 3, b"Pf": 1}
_LONGEST = 4096  # bytes of a header, comments included
_BLANK = rb"(?:\s|#[^\n\r]*[\n\r])"


class _Raster(NamedTuple):
    """How the samples stand in the file, from byte `start` on."""

    header: Header
    channels: int
    maxval: int
    byte_order: str
    start: int


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start."""
    return _parse(file.read(_LONGEST)).header


def decode(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes the picture; see `image_formats.decode`."""
    content = file.read()
    raster = _parse(content[:_LONGEST])
    (height, width), kind = header.size, content[:2]
    count = height * width * raster.channels
    if header.format == "PFM":
        levels = _binary(content, raster, f"{raster.byte_order}f4", count)
        # The lowest row comes first.
        levels = levels.reshape(height, width, -1)[::-1].astype(np.float32)
        return levels[..., 0] if raster.channels == 1 else levels
    if kind == b"P4":
        packed = _binary(content, raster, "u1", height * -(-width // 8))
        levels = np.unpackbits(packed.reshape(height, -1), axis=1)[:, :width]
    elif kind in (b"P1", b"P2", b"P3"):
        levels = _text(content[raster.start :], kind == b"P1", count)
    else:
        levels = _binary(content, raster, "u1" if raster.maxval < 256 else ">u2", count)
    levels = levels.reshape(height, width, -1)
    if levels.max() > raster.maxval:
        raise ValueError(f"it holds levels above {raster.maxval}, its largest")
    if kind in (b"P1", b"P4"):
        levels = 1 - levels  # ink is 1
    levels = levels[..., :3] if header.colour == "RGB" else levels[..., 0]
    if raster.maxval >= 256:
        return levels.astype(np.uint16)
    # Halves up; exact for any largest level of 8 bits.
    doubled = 2 * 255 * levels.astype(np.uint32) + raster.maxval
    return (doubled // (2 * raster.maxval)).astype(np.uint8)


def _binary(content: bytes, raster: _Raster, dtype: str, count: int) -> np.ndarray:
    return np.frombuffer(content, dtype, count, raster.start)


def _text(content: bytes, bits: bool, count: int) -> np.ndarray:
    content = re.sub(rb"#[^\n\r]*", b"", content)
    # Digits of a bitmap need no blanks between them.
    words = re.findall(rb"[01]", content) if bits else content.split()
    if len(words) < count:
        raise ValueError("parts of its pixels are missing")
    return np.array(words[:count]).astype(np.int64).astype(np.uint32)


def _parse(start: bytes) -> _Raster:
    kind = start[:2]
    if kind == b"P7":
        return _parse_pam(start)
    words = 2 if kind in (b"P1", b"P4") else 3
    number = rb"([-+.\deE]+)" if kind in (b"PF", b"Pf") else rb"(\d+)"
    pattern = (_BLANK + rb"+(\d+)") * 2 + (_BLANK + rb"+" + number) * (words - 2)
    found = re.match(rb"P." + pattern + rb"\s", start)
    if found is None:
        raise ValueError("its header is none of PNM's")
    width, height = int(found[1]), int(found[2])
    if kind in (b"PF", b"Pf"):
        order = "<" if float(found[3]) < 0 else ">"
        colour = "RGB" if kind == b"PF" else "gray"
        header = Header(
            "PFM", "numpy", colour, 32, (height, width), samples="floating-point"
        )
        return _Raster(header, _CHANNELS[kind], 0, order, found.end())
    maxval = int(found[3]) if words == 3 else 1
    return _integers((height, width), _CHANNELS[kind], maxval, found.end())


def _parse_pam(start: bytes) -> _Raster:
    text, end, _ = start.partition(b"\nENDHDR\n")
    lines = (line.split(None, 1) for line in text.splitlines()[1:])
    fields = {line[0]: line[1] for line in lines if len(line) == 2}
    try:
        height, width, channels, maxval = (
            int(fields[name]) for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL")
        )
    except (KeyError, ValueError) as error:
        raise ValueError("its header is none of PAM's") from error
    if not end:
        raise ValueError("its header does not end")
    if not 1 <= channels <= 4:
        raise NotSupported(f"a PAM of {channels} channels")
    return _integers((height, width), channels, maxval, len(text) + len(end))


def _integers(size: tuple[int, int], channels: int, maxval: int, start: int) -> _Raster:
    if not 1 <= maxval <= 65535:
        raise ValueError(f"its largest level, {maxval}, is not from 1 to 65535")
    header = Header(
        "PNM",
        "numpy",
        "RGB" if channels >= 3 else "gray",
        maxval.bit_length(),
        size,
        extra=int(channels in (2, 4)),
        white=maxval,
    )
    return _Raster(header, channels, maxval, ">", start)
