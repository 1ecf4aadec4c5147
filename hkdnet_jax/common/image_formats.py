"""Image file formats: reads headers, and decodes pixels by one library for each kind.

Pillow decodes PNG of up to 8 bits, JPEG, BMP and a few kinds of TIFF; imagecodecs
decodes PNG of 16 bits, of which Pillow keeps only the high byte; tifffile decodes all
other TIFF.  The last two are imported only when a file needs them.

The functions let the libraries' exceptions pass; `image_files` turns them into
one-sentence errors.
"""

import contextlib
import io
import logging
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

# Naming the formats keeps a mislabelled file away from Pillow's other decoders, some of
# which start external programs.
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP")
_PILLOW_COLOURS = {"1": "gray", "L": "gray", "P": "palette", "CMYK": "CMYK"}
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {0: "gray", 2: "RGB", 3: "palette", 4: "gray", 6: "RGB"}
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 0x0112  # the tag, in EXIF data and in TIFF
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width
_XMP = 0x02BC
# PNG chunks in which Pillow looks for an orientation: type and start of the body.
_ORIENTING_CHUNKS = (
    b"eXIf",
    b"tEXtRaw profile type exif\0",
    b"zTXtRaw profile type exif\0",
    b"iTXtXML:com.adobe.xmp\0",
)
# For each PhotometricInterpretation: colour, smallest and largest number of samples per
# pixel (alpha and other extra samples follow those of the colour), bits per sample.
_TIFF_COLOURS = {
    0: ("gray", 1, 2, (1, 2, 4, 8, 12, 16)),  # white is zero
    1: ("gray", 1, 2, (1, 2, 4, 8, 12, 16)),
    2: ("RGB", 3, 6, (8, 16)),
    3: ("palette", 1, 2, (1, 2, 4, 8)),
    5: ("CMYK", 4, 6, (8, 16)),
    6: ("YCbCr", 1, 3, (8,)),
}
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 6: "complex"}
_PREMULTIPLIED = 1  # value of ExtraSamples
_JPEG_IN_TIFF = 7  # value of Compression


class NotSupported(Exception):
    """An intact file is of a kind that is not read; says which, as "a TIFF of ..."."""


@dataclass(frozen=True)
class Header:
    """What a file's header says about its first image.

    Attributes:
      format: "PNG", "JPEG", "BMP" or "TIFF".
      decoder: "pillow", "imagecodecs" or "tifffile": the library for the samples.
      colour: "gray", "RGB", "palette", "CMYK" or "YCbCr", as stored, without alpha.
      bits: bits per sample as stored, 1 to 16; 8 for every JPEG and BMP.
      size: (height, width) of the image that the decoder returns.
      orientation: EXIF orientation, 1..8, of the image that the decoder returns.
    """

    format: str
    decoder: str
    colour: str
    bits: int
    size: tuple[int, int]
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) of the image after it is turned upright."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def read_header(file: BinaryIO) -> Header:
    """Reads the header of a file that is open at its start.

    Raises:
      NotSupported: the file is intact, but of a kind that is not read.
      Exception: the header cannot be understood; the type depends on the library.
    """
    start = file.read(4)
    file.seek(0)
    return _tiff_header(file) if start in _TIFF_STARTS else _pillow_header(file)


def decode(content: bytes) -> tuple[np.ndarray, Header]:
    """Decodes a file's content, without turning the image upright.

    Returns:
      The pixels and the header.  The pixels are [H, W] for gray and [H, W, 3] RGB
      otherwise; uint8, or uint16 for more than 8 bits (12-bit levels stay 0..4095).
      Alpha is left out.

    Raises:
      NotSupported: the file is intact, but of a kind that is not read.
      Exception: the content is broken; the type depends on the library.
    """
    header = read_header(io.BytesIO(content))
    pixels = _DECODERS[header.decoder](content, header)
    if pixels.shape[:2] != header.size:
        raise ValueError("its number of pixels is not the one in its header")
    return pixels, header


# --- headers ------------------------------------------------------------------------


def _pillow_header(file: BinaryIO) -> Header:
    # Asking Pillow for the orientation of a PNG makes it decode the entire file, as the
    # chunk that holds one may follow the pixels; few files have such a chunk.
    is_png = file.read(len(_PNG_START)) == _PNG_START
    may_be_turned = not is_png or _has_orienting_chunk(file)
    file.seek(0)
    with Image.open(file, formats=_PILLOW_FORMATS) as image:
        size = (image.height, image.width)
        orientation = image.getexif().get(_ORIENTATION, 1) if may_be_turned else 1
        if not is_png:
            name = "JPEG" if image.format == "MPO" else image.format
            colour = _PILLOW_COLOURS.get(image.mode, "RGB")
            return Header(name, "pillow", colour, 8, size, orientation)
    file.seek(len(_PNG_START) + 16)  # in the first chunk, after the size
    bits, colour_type = file.read(2)
    decoder = "imagecodecs" if bits == 16 else "pillow"
    return Header("PNG", decoder, _PNG_COLOURS[colour_type], bits, size, orientation)


def _has_orienting_chunk(file: BinaryIO) -> bool:
    """Returns whether a PNG, read up to its first chunk, may hold an orientation."""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        start = file.read(min(length, 26))
        if (kind + start).startswith(_ORIENTING_CHUNKS):
            return True
        file.seek(length - len(start) + 4, io.SEEK_CUR)
    return False


def _tiff_header(file: BinaryIO) -> Header:
    with _tiff_page(file) as page:
        colour, bits = _tiff_pixel_format(page)
        size, orientation = (page.imagelength, page.imagewidth), _tiff_orientation(page)
        jpeg = page.compression == _JPEG_IN_TIFF
        premultiplied = page.extrasamples[:1] == (_PREMULTIPLIED,)
    limit = 2 * (Image.MAX_IMAGE_PIXELS or np.inf)  # Pillow's, for the other formats
    if not 0 < size[0] * size[1] <= limit:
        raise ValueError(f"its header says {size[1]}x{size[0]} pixels")
    # tifffile neither upsamples chroma, nor divides by premultiplied alpha, nor notices
    # that JPEG data end too early.
    if bits == 8 and (colour == "YCbCr" or jpeg or (colour == "RGB" and premultiplied)):
        # Pillow turns a TIFF upright while decoding it.
        size = size[::-1] if orientation in _SIDEWAYS else size
        return Header("TIFF", "pillow", colour, bits, size, orientation=1)
    return Header("TIFF", "tifffile", colour, bits, size, orientation)


def _tiff_pixel_format(page: Any) -> tuple[str, int]:
    """Returns the colour and the bits per sample.

    Raises:
      NotSupported: pixels of this format are not read.
    """
    bits, samples = page.bitspersample, page.samplesperpixel
    unknown = (f"photometric interpretation {int(page.photometric)}", 0, 0, ())
    colour, fewest, most, depths = _TIFF_COLOURS.get(page.photometric, unknown)
    if page.sampleformat != 1 or bits not in depths or not fewest <= samples <= most:
        kind = _SAMPLE_FORMATS.get(page.sampleformat, "undefined")
        raise NotSupported(
            f"a TIFF of {bits}-bit {kind} samples, {samples} per pixel ({colour})"
        )
    return colour, bits


def _tiff_orientation(page: Any) -> int:
    if _ORIENTATION in page.tags:
        return page.tags.valueof(_ORIENTATION)
    xmp = page.tags.valueof(_XMP) or b""
    found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', xmp)
    return int(found[1]) if found else 1


@contextlib.contextmanager
def _tiff_page(file: BinaryIO) -> Iterator[Any]:
    """Opens the first tifffile.TiffPage of an open file."""
    import tifffile

    # tifffile logs odd metadata, which does not concern the user; pixels that cannot be
    # read raise an exception.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    with tifffile.TiffFile(file) as tiff:
        yield tiff.pages[0]


# --- decoders -----------------------------------------------------------------------


def _decode_by_pillow(content: bytes, header: Header) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=[header.format]) as image:
        # Alpha is ignored; left in, a transparent palette makes Pillow warn.
        image.info.pop("transparency", None)
        gray = image.mode in ("1", "L", "LA")
        return np.asarray(image.convert("L" if gray else "RGB"))


def _decode_png_16(content: bytes, header: Header) -> np.ndarray:
    import imagecodecs

    samples = imagecodecs.png_decode(content)
    if header.colour == "RGB":
        return samples[..., :3]
    return samples if samples.ndim == 2 else samples[..., 0]


def _decode_tiff(content: bytes, header: Header) -> np.ndarray:
    with _tiff_page(io.BytesIO(content)) as page:
        if len(page.dataoffsets) < np.prod(page.chunked) or 0 in page.databytecounts:
            # tifffile would fill the missing parts with zeros.
            raise ValueError("parts of its pixels are missing")
        stored = page.asarray()
        if page.axes == "SYX":
            stored = np.moveaxis(stored, 0, -1)
        white_is_zero, colormap = page.photometric == 0, page.colormap
    if header.colour == "RGB":
        return stored[..., :3]
    if header.colour == "CMYK":
        return _cmyk_to_rgb(stored[..., :4])
    first = stored if stored.ndim == 2 else stored[..., 0]
    if header.colour == "palette":
        return (colormap >> 8).astype(np.uint8).T[first.astype(np.uint8)]
    largest = 2**header.bits - 1
    gray = first.astype(np.uint16 if header.bits > 8 else np.uint8)
    gray = largest - gray if white_is_zero else gray
    return gray * (255 // largest) if header.bits < 8 else gray


_DECODERS = {
    "pillow": _decode_by_pillow,
    "imagecodecs": _decode_png_16,
    "tifffile": _decode_tiff,
}


def _cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    """Converts without a colour profile, as Pillow does.

    Each channel is ``max - K - C (max - K) / max``, rounded.
    """
    largest = np.iinfo(cmyk.dtype).max
    inks = cmyk.astype(np.uint64)
    paper = largest - inks[..., 3:]
    light = paper - (2 * inks[..., :3] * paper + largest) // (2 * largest)
    return light.astype(cmyk.dtype)
