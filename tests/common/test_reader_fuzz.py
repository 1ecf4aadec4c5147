"""Mutated files of every format give a picture or the one documented error."""

import io
import struct
import tempfile
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_bytes import (
    CMYK8,
    GRAY8,
    GRAY16,
    RGB8,
    RGB16,
    SHAPE,
    by_pillow,
    chunk,
    of_mode,
    png,
    samples,
    tiff,
)
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size, is_deep, page_count, read

DEGREES = GRAY8.astype(np.float32) / 7


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def exif() -> bytes:
    data = Image.Exif()
    data[0x0112] = 6
    data[0x010E] = "a camera"
    return data.tobytes()


def pnm(kind: str, image: np.ndarray) -> bytes:
    head = f"{kind}\n{SHAPE[1]} {SHAPE[0]}\n{np.iinfo(image.dtype).max}\n".encode()
    return head + image.astype(image.dtype.newbyteorder(">")).tobytes()


PICTURES = [Image.fromarray(x) for x in (RGB8, RGB8[::-1])]
ANIMATED = {"save_all": True, "append_images": PICTURES[1:]}
FILES = {
    "png": png(GRAY8[..., None], chunk(b"eXIf", exif().removeprefix(b"Exif\0\0"))),
    "png 16": png(RGB16, chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")),
    "png palette": by_pillow(PICTURES[0].convert("P"), "PNG"),
    "png animated": by_pillow(PICTURES[0], "PNG", **ANIMATED),
    "jpeg": by_pillow(PICTURES[0], "JPEG", exif=exif()),
    "jpeg progressive": by_pillow(PICTURES[0], "JPEG", progressive=True),
    "jpeg cmyk": by_pillow(of_mode("CMYK", CMYK8), "JPEG"),
    "jpeg 12": imagecodecs.jpeg8_encode(GRAY16 >> 4, level=90, bitspersample=12),
    "jpeg lossless": imagecodecs.ljpeg_encode(GRAY16, bitspersample=16),
    "bmp": by_pillow(PICTURES[0], "BMP"),
    "bmp palette": by_pillow(PICTURES[0].convert("P"), "BMP"),
    "webp": by_pillow(PICTURES[0], "WEBP", exif=exif()),
    "webp animated": by_pillow(PICTURES[0], "WEBP", **ANIMATED),
    "tiff": tiff(GRAY16, photometric="minisblack"),
    "tiff white is zero": tiff(samples(4), photometric="miniswhite", bitspersample=4),
    "tiff float": tiff(DEGREES, compression="zlib", predictor=True, rowsperstrip=4),
    "tiff tiles": tiff(RGB8, photometric="rgb", tile=(16, 16), compression="lzw"),
    "tiff planar": tiff(
        np.moveaxis(RGB16, -1, 0),
        photometric="rgb",
        planarconfig="separate",
        compression="packbits",
        byteorder=">",
    ),
    "tiff big": tiff(GRAY8, bigtiff=True, compression="zstd"),
    "tiff jpeg": tiff(RGB8, photometric="rgb", compression="jpeg"),
    "tiff chroma": by_pillow(
        PICTURES[0].convert("YCbCr"), "TIFF", compression="tiff_lzw"
    ),
    "tiff palette": by_pillow(PICTURES[0].convert("P"), "TIFF"),
    "tiff fax": by_pillow(PICTURES[0].convert("1"), "TIFF", compression="group4"),
    "tiff pages": tiff(np.stack([GRAY16] * 3), photometric="minisblack"),
    "pgm": pnm("P5", GRAY16),
    "ppm text": b"P3 2 1 255\n1 2 3 4 5 6\n",
    "pam": b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 2\nMAXVAL 255\nENDHDR\n12345678",
    "pfm": b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 1, 2, 3, float("nan")),
    "npy": npy(DEGREES),
    "npy pages": npy(np.stack([RGB8] * 2)),
}
# What breaks arithmetic on sizes, counts and offsets.
EXTREMES = [0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """The content of one of FILES with a few changes, most of them near its start."""
    content = bytearray(FILES[draw(st.sampled_from(sorted(FILES)))])
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([64, 256, len(content)]))
        place = draw(st.integers(0, max(0, min(end, len(content)) - 1)))
        kind = draw(st.sampled_from(["bits", "number", "cut", "remove", "insert"]))
        if kind == "bits" and content:
            content[place] ^= draw(st.integers(1, 255))
        elif kind == "number":
            code = draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
            value = draw(st.sampled_from(EXTREMES)) % 2 ** (8 * struct.calcsize(code))
            content[place : place + struct.calcsize(code)] = struct.pack(code, value)
        elif kind == "cut":
            del content[place:]
        elif kind == "remove":
            del content[place : place + draw(st.integers(1, 16))]
        else:
            content[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(content)


def check(content: bytes) -> bool:
    """Reads a file in every way; returns whether it is a picture."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        read_all = True
        for function in (read, image_size, page_count, is_deep):
            try:
                result = function(path)
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                read_all = False
                continue
            if function is read:
                assert result.pixels.shape[2:] in ((), (3,))
                assert result.pixels.dtype.isnative and result.pixels.size
                assert image_size(path) == result.pixels.shape[:2]
        return read_all


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_mutated_is_read(name):
    assert check(FILES[name])


@settings(deadline=None, max_examples=400)
@example(b"P7\n" + b"#" * 4000)
@example(b"P7\n" + b"\n" * 4000)
@example(b"P5" + b" #\n" * 1300)
@example(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")  # a directory that follows itself
@given(mutations())
def test_mutated_files_give_a_picture_or_a_user_error(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about TIFFs of odd metadata
        check(content)
