"""PNG: every colour type and depth, damaged metadata, animations."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from image_bytes import (
    GRAY8,
    GRAY16,
    RGB8,
    RGB16,
    RNG,
    SHAPE,
    assert_pixels,
    by_pillow,
    chunk,
    packed,
    png,
    png_of,
    samples,
)
from PIL import Image

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

HEIGHT, WIDTH = SHAPE
EXIF_6 = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
LONG_TEXT = zlib.compress(b"a" * 3_000_000)


def stored_bits(levels: np.ndarray, bits: int, colour_type: int, **more) -> bytes:
    rows = b"".join(b"\0" + row for row in packed(levels, bits))
    data = more.get("before", b"") + chunk(b"IDAT", zlib.compress(rows))
    return png_of(WIDTH, HEIGHT, bits, colour_type, data)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_and_palette_of_few_bits(bits):
    levels = samples(bits)
    assert_pixels(stored_bits(levels, bits, 0), levels * np.uint8(255 // (2**bits - 1)))
    colours = RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    content = stored_bits(levels, bits, 3, before=chunk(b"PLTE", colours.tobytes()))
    assert_pixels(content, colours[levels])


@pytest.mark.parametrize("gray", [GRAY8, GRAY16], ids=["8", "16"])
def test_channels_beside_the_colour_are_left_out(gray):
    for colours in (
        gray[..., None],
        np.stack([gray, gray[::-1], ~gray], -1),
    ):
        content = png(np.concatenate([colours, ~gray[..., None]], axis=2))
        assert_pixels(content, colours[..., 0] if colours.shape[2] == 1 else colours)
        assert read_header(io.BytesIO(content)).extra == 1


@pytest.mark.parametrize("stored", [GRAY8, GRAY16, RGB8, RGB16])
def test_one_level_may_be_transparent(stored):
    level = stored[3, 4].astype(">u2").tobytes()
    content = png(stored.reshape(*SHAPE, -1), chunk(b"tRNS", level))
    assert_pixels(content, stored)
    assert read_header(io.BytesIO(content)).extra == 1


@pytest.mark.parametrize("stored", [GRAY8, GRAY16, RGB8, RGB16])
def test_interlaced(stored):
    # OpenCV writes none; the first pass of Adam7 is enough for one pixel.
    header = struct.pack(">IIBBBBB", 1, 1, stored.itemsize * 8, 0, 0, 0, 1)
    if stored.ndim == 3:
        header = header[:9] + b"\2" + header[10:]
    pixel = stored[:1, :1]
    rows = b"\0" + pixel.astype(stored.dtype.newbyteorder(">")).tobytes()
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    assert_pixels(content, pixel)


def wrong_crc(kind: bytes, body: bytes) -> bytes:
    return chunk(kind, body)[:-4] + b"\1\2\3\4"


DAMAGED = {
    "EXIF of zeros": chunk(b"eXIf", b"\0\0\x11\0\0\1\4\0" * 3),
    "EXIF that ends": chunk(b"eXIf", EXIF_6[:11]),
    "EXIF that points outside": chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
    "EXIF of many entries": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\1" * 30),
    "raw profile": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  xx\nzzzz\n"),
    "odd raw profile": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 9\n49492\n"),
    "packed profile": chunk(b"zTXt", b"Raw profile type exif\0\0no zlib data"),
    "long text": chunk(b"zTXt", b"Comment\0\0" + LONG_TEXT),
    "long profile": chunk(b"zTXt", b"Raw profile type exif\0\0" + LONG_TEXT),
    "long XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG_TEXT),
    "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="9"'),
    "text without end": chunk(b"tEXt", b"Comment"),
    "colour profile": chunk(b"iCCP", b"name\0\0no zlib data"),
    "palette of gray": chunk(b"sPLT", b"\0"),
    "CRC of pHYs": wrong_crc(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    "CRC of text": wrong_crc(b"tEXt", b"Comment\0x"),
    "gamma": chunk(b"gAMA", b"\0"),
    "time": chunk(b"tIME", b"\xff" * 7),
    "unknown": chunk(b"abCd", b"\xff" * 99),
    "animation": chunk(b"acTL", b""),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("stored", [GRAY8, RGB16], ids=["gray8", "rgb16"])
def test_damaged_metadata_hide_no_pixels(stored, damage, capfd):
    pixels = stored.reshape(*SHAPE, -1)
    for content in (png(pixels, before=damage), png(pixels, after=damage)):
        assert_pixels(content, stored)
        assert read_header(io.BytesIO(content)).orientation == 1
    # What is intact counts.
    content = png(pixels, before=damage, after=chunk(b"eXIf", EXIF_6))
    expected = 1 if damage[4:8] == b"eXIf" else 6
    assert read_header(io.BytesIO(content)).orientation == expected
    assert capfd.readouterr() == ("", "")


def test_pages_of_an_animation():
    colours = [cv2.GaussianBlur(x, (5, 5), 2) for x in (RGB8, RGB8[::-1].copy())]
    frames = [Image.fromarray(x) for x in colours]
    content = by_pillow(frames[0], "PNG", save_all=True, append_images=frames[1:])
    content = content[:33] + DAMAGED["raw profile"] + content[33:]
    assert read_header(io.BytesIO(content)).pages == 2
    for index, expected in enumerate(colours):
        assert_pixels(content, expected, page=index)
    grays = [Image.fromarray(x[..., 0]) for x in colours]
    content = by_pillow(grays[0], "PNG", save_all=True, append_images=grays[1:])
    assert_pixels(content, colours[1][..., 0].copy(), page=1)


def test_later_pages_of_16_bits_are_refused():
    control = chunk(b"acTL", struct.pack(">II", 2, 0))
    content = png(GRAY16[..., None], before=control)
    assert_pixels(content, GRAY16)
    with pytest.raises(NotSupported, match="animated PNG of 16 bits"):
        decode(content, 1)


@pytest.mark.parametrize("stored", [GRAY8, RGB16], ids=["gray8", "rgb16"])
def test_pixels_that_are_missing_or_damaged_are_noticed(stored):
    whole = png(stored.reshape(*SHAPE, -1))
    for length in (len(whole) - 40, len(whole) * 2 // 3, len(whole) // 3, 30, 9):
        with pytest.raises(Exception, match=r"."):
            decode(whole[:length])


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ((WIDTH, HEIGHT, 3, 0), "colour type 0 of 3 bits"),
        ((WIDTH, HEIGHT, 16, 3), "colour type 3 of 16 bits"),
        ((WIDTH, HEIGHT, 8, 5), "colour type 5 of 8 bits"),
        ((0, HEIGHT, 8, 0), "0x21 pixels"),
        ((2**31 - 1, 2**31 - 1, 8, 2), "2147483647x2147483647 pixels, of which at"),
        ((20_000, 20_000, 1, 0), "20000x20000 pixels, of which at most"),
    ],
)
def test_headers_that_are_refused(header, says):
    content = png_of(*header, chunk(b"IDAT", zlib.compress(b"\0" * 99)))
    for read in (decode, lambda content: read_header(io.BytesIO(content))):
        with pytest.raises(ValueError, match=says):
            read(content)
