"""TIFF and BigTIFF, by tifffile; where chroma is subsampled, or JPEG inside, by Pillow.

tifffile neither upsamples chroma nor notices that JPEG data end too early.
"""

import contextlib
import functools
import itertools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from hkdnet_jax.common.formats import orientation
from hkdnet_jax.common.formats.header import MOST_PIXELS, Header, NotSupported

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_XMP = 0x02BC
_INKS = 332  # the tag InkSet
_JPEGS = (6, 7)  # values of Compression
_MOST_PAGES = 2**16
_SIDEWAYS = (5, 6, 7, 8)
_ANY_DEPTH = (*range(1, 17), 32)
# For each PhotometricInterpretation: colour, smallest and largest number of samples per
# pixel (alpha and other extra samples follow those of the colour), bits of unsigned
# samples.
_COLOURS = {
    0: ("gray", 1, 2, _ANY_DEPTH),  # white is zero
    1: ("gray", 1, 2, _ANY_DEPTH),
    2: ("RGB", 3, 6, _ANY_DEPTH),
    3: ("palette", 1, 2, range(1, 17)),
    5: ("CMYK", 4, 6, (8, 16)),
    6: ("YCbCr", 3, 4, (8,)),
}
_CHANNELS = {"RGB": 3, "CMYK": 4, "YCbCr": 3}
_KINDS = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
_DEPTHS = {"signed": (8, 16, 32), "floating-point": (16, 32, 64)}


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start."""
    with _open(file) as tiff:
        return _header(tiff.pages[0], len(_pictures(_File.of(file, tiff))))


def decode(file: BinaryIO, header: Header, page: int) -> np.ndarray:
    """Decodes one picture; see `image_formats.decode`."""
    with _open(file) as tiff:
        index = _pictures(_File.of(file, tiff))[page]
        found = tiff.pages[index]
        if _header(found, header.pages) != header:
            raise NotSupported(f"a TIFF whose page {page + 1} differs from the first")
        if header.decoder == "tifffile":
            return _decode(found, header)
    from PIL import TiffImagePlugin

    file.seek(0)
    with TiffImagePlugin.TiffImageFile(file) as image:
        image.seek(index)
        return np.asarray(image.convert("L" if image.mode in ("L", "LA") else "RGB"))


@contextlib.contextmanager
def _open(file: BinaryIO) -> Iterator[Any]:
    """Opens a file as a tifffile.TiffFile."""
    import tifffile

    # tifffile logs odd metadata, which does not concern the user; pixels that cannot be
    # read raise an exception.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(file) as tiff:
        yield tiff


@dataclass(frozen=True)
class _File:
    """An open TIFF, equal to others of the same file with the same content."""

    identity: tuple
    tiff: Any = field(compare=False)

    @classmethod
    def of(cls, file: BinaryIO, tiff: Any) -> "_File":
        try:
            stat = os.fstat(file.fileno())
        except (OSError, AttributeError):  # a file in memory or in a bucket
            return cls((id(tiff),), tiff)
        return cls((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns), tiff)


# A stack is opened for each of its pages, of which all are looked at here.
@functools.lru_cache(4)
def _pictures(file: _File) -> tuple[int, ...]:
    """The places of the pages that are pictures, not thumbnails or masks."""
    found, offsets = [0], set()
    for index, page in enumerate(itertools.islice(file.tiff.pages, _MOST_PAGES)):
        if page.offset in offsets:  # a circle, which tifffile would follow for ever
            break
        offsets.add(page.offset)
        if index and not (page.is_reduced or page.is_mask):
            found.append(index)
    return tuple(found)


def _header(page: Any, count: int) -> Header:
    colour, bits, kind = _pixel_format(page)
    size, turned = (page.imagelength, page.imagewidth), _orientation(page)
    if page.imagedepth != 1 or not page.shape:
        raise NotSupported(f"a TIFF of volumes, {page.imagedepth} planes deep")
    if page.is_tiled and page.tilewidth * page.tilelength > MOST_PIXELS:
        raise ValueError(f"its tiles are {page.tilewidth}x{page.tilelength} pixels")
    decoder = "tifffile"
    chroma = colour == "YCbCr" and page.is_subsampled
    if chroma and page.compression == 1:
        raise NotSupported("a TIFF of subsampled YCbCr that is not compressed")
    if bits == 8 and (chroma or page.compression in _JPEGS):
        # Pillow turns a TIFF upright while decoding it.
        size = size[::-1] if turned in _SIDEWAYS else size
        decoder, turned = "pillow", 1
    extra = max(0, page.samplesperpixel - _CHANNELS.get(colour, 1))
    return Header("TIFF", decoder, colour, bits, size, turned, kind, extra, count)


def _pixel_format(page: Any) -> tuple[str, int, str]:
    """Returns the colour, the bits per sample and the kind of samples.

    Raises:
      NotSupported: pixels of this format are not read.
    """
    bits, samples = page.bitspersample, page.samplesperpixel
    kind = _KINDS.get(page.sampleformat, "undefined")
    photometric = int(page.photometric)
    name = f"photometric interpretation {photometric}"
    with contextlib.suppress(AttributeError):
        name += f", {page.photometric.name}"
    colour, fewest, most, depths = _COLOURS.get(photometric, (name, 0, 0, ()))
    if kind != "unsigned":
        depths = _DEPTHS.get(kind, ()) if colour in ("gray", "RGB") else ()
    if bits not in depths or not fewest <= samples <= most:
        raise NotSupported(
            f"a TIFF of {bits}-bit {kind} samples, {samples} per pixel ({colour})"
        )
    if colour == "CMYK" and page.tags.valueof(_INKS, 1) != 1:
        raise NotSupported("a TIFF of inks that are not cyan, magenta, yellow, black")
    return colour, bits, kind


def _orientation(page: Any) -> int:
    xmp = page.tags.valueof(_XMP)
    return orientation.first(
        orientation.valid(page.tags.valueof(orientation.TAG)),
        orientation.of_xmp(xmp) if isinstance(xmp, bytes) else None,
    )


def _decode(page: Any, header: Header) -> np.ndarray:
    if len(page.dataoffsets) < np.prod(page.chunked) or 0 in page.databytecounts:
        # tifffile would fill the missing parts with zeros.
        raise ValueError("parts of its pixels are missing")
    stored = page.asarray()
    if page.axes == "SYX":
        stored = np.moveaxis(stored, 0, -1)
    if header.colour == "RGB":
        return _widen(stored[..., :3], header)
    if header.colour == "CMYK":
        return _cmyk_to_rgb(stored[..., :4])
    if header.colour == "YCbCr":
        from PIL import Image

        size, content = stored.shape[1::-1], stored[..., :3].tobytes()
        return np.asarray(Image.frombytes("YCbCr", size, content).convert("RGB"))
    first = stored if stored.ndim == 2 else stored[..., 0]
    if header.colour == "palette":
        return _colours(page.colormap)[first.astype(np.intp)]
    gray = first.astype(np.uint8) if header.bits == 1 else first
    return _widen(_inverted(gray, header) if page.photometric == 0 else gray, header)


def _inverted(gray: np.ndarray, header: Header) -> np.ndarray:
    """Undoes WhiteIsZero."""
    if header.samples == "floating-point":
        return 1 - gray
    # Of two's complements, the mirror image of the range is the complement.
    return ~gray if header.samples == "signed" else 2**header.bits - 1 - gray


def _widen(levels: np.ndarray, header: Header) -> np.ndarray:
    """Expands fewer than 8 bits to 0..255; other levels stay."""
    if header.bits >= 8:
        return levels
    largest = 2**header.bits - 1
    wide = levels.astype(np.uint16)
    return ((2 * 255 * wide + largest) // (2 * largest)).astype(np.uint8)


def _colours(colormap: np.ndarray) -> np.ndarray:
    """The palette as [colours, 3] uint8."""
    # Entries have 16 bits, of which some writers fill only the lower half.
    shift = 8 if colormap.max() > 255 else 0
    return (colormap >> shift).astype(np.uint8).T


def _cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Converts without a colour profile, as Pillow does.

    Each channel is ``max - K - C (max - K) / max``, rounded.
    """
    largest = np.iinfo(cmyk.dtype).max
    inks = cmyk.astype(np.uint64)
    paper = largest - inks[..., 3:]
    light = paper - (2 * inks[..., :3] * paper + largest) // (2 * largest)
    return light.astype(cmyk.dtype)
