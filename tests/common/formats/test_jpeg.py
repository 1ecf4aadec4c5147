"""JPEG: 8 and 12 bits, lossless, colours, and metadata that may be damaged."""

import io

import cv2
import imagecodecs
import numpy as np
import pytest
from image_bytes import RGB8, SHAPE, assert_pixels, by_pillow
from PIL import Image

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

SMOOTH = cv2.GaussianBlur(RGB8, (9, 9), 3)
RAMP16 = np.add.outer(np.arange(SHAPE[0]) * 900, np.arange(SHAPE[1]) * 1300)
RAMP16 = RAMP16.astype(np.uint16)


def exif(orientation: int, order: str = "little") -> bytes:
    def short(*values):
        return b"".join(value.to_bytes(2, order) for value in values)

    start = b"II*\0" if order == "little" else b"MM\0*"
    place = (8).to_bytes(4, order)
    entry = short(0x0112, 3) + (1).to_bytes(4, order) + short(orientation, 0)
    return b"Exif\0\0" + start + place + short(1) + entry + bytes(4)


def with_segment(content: bytes, marker: int, body: bytes) -> bytes:
    length = (len(body) + 2).to_bytes(2, "big")
    return content[:2] + bytes([0xFF, marker]) + length + body + content[2:]


def jpeg(image: np.ndarray, **options) -> bytes:
    return by_pillow(Image.fromarray(image), "JPEG", quality=95, **options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_8_bits_agree_with_opencv(options):
    for image in (SMOOTH, SMOOTH[..., 0]):
        content = jpeg(image, **options)
        stored = np.frombuffer(content, np.uint8)
        expected = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED)
        expected = expected[..., ::-1] if image.ndim == 3 else expected
        pixels, header = decode(content)
        assert (header.bits, header.full) == (8, (0, 255))
        assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_in_exif(orientation, order):
    content = with_segment(jpeg(SMOOTH), 0xE1, exif(orientation, order))
    assert read_header(io.BytesIO(content)).orientation == orientation
    assert_pixels(content, decode(jpeg(SMOOTH))[0])


def test_orientation_in_xmp():
    for text in (b' tiff:Orientation="6"/>', b"<tiff:Orientation>6</tiff:Orientation>"):
        xmp = b"http://ns.adobe.com/xap/1.0/\0" + text
        content = with_segment(jpeg(SMOOTH), 0xE1, xmp)
        assert read_header(io.BytesIO(content)).orientation == 6
        # EXIF counts first.
        content = with_segment(content, 0xE1, exif(3))
        assert read_header(io.BytesIO(content)).orientation == 3


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE1, b"Exif\0\0"),
        (0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        (0xE1, exif(6)[:20]),
        (0xE1, exif(9)),
        (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 999),
        (0xE1, b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="z"'),
        (0xE2, b"ICC_PROFILE\0\1\1broken"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\1\0broken"),
        (0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff\xff\xff\xff"),
        (0xE0, b"JFXX\0\x10"),
        (0xFE, b"\xff" * 99),
    ],
)
def test_damaged_metadata_hide_no_pixels(marker, body):
    content = with_segment(jpeg(SMOOTH), marker, body)
    assert_pixels(content, decode(jpeg(SMOOTH))[0])
    assert read_header(io.BytesIO(content)).orientation == 1


def test_padding_between_segments():
    plain = jpeg(SMOOTH)
    assert_pixels(plain[:2] + b"\xff\xff\xff" + plain[2:], decode(plain)[0])


def test_12_bits():
    levels = np.clip(RAMP16 // 16, 0, 4095)
    content = imagecodecs.jpeg8_encode(levels, level=99, bitspersample=12)
    content = with_segment(content, 0xE1, exif(6))
    pixels, header = decode(content)
    assert (header.bits, header.full, header.orientation) == (12, (0, 4095), 6)
    assert pixels.dtype == np.uint16
    assert np.abs(pixels.astype(int) - levels).max() <= 8
    rgb = np.stack([levels, 4095 - levels, levels // 2], axis=-1)
    content = imagecodecs.jpeg8_encode(
        rgb, level=99, bitspersample=12, subsampling="444"
    )
    assert np.abs(decode(content)[0].astype(int) - rgb).max() <= 16


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_lossless(bits):
    levels = (RAMP16 >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    content = imagecodecs.ljpeg_encode(levels, bitspersample=bits)
    assert_pixels(content, levels)
    assert read_header(io.BytesIO(content)).full == (0, 2**bits - 1)


def test_several_pictures_are_one_jpeg():
    image = Image.fromarray(RGB8)
    content = by_pillow(image, "MPO", save_all=True, append_images=[image])
    header = read_header(io.BytesIO(content))
    assert (header.format, header.pages) == ("JPEG", 1)
    assert decode(content)[0].shape == RGB8.shape


def test_what_is_not_read_is_named():
    content = bytearray(jpeg(SMOOTH))
    place = content.index(b"\xff\xc0")
    content[place + 1] = 0xC5
    with pytest.raises(NotSupported, match="process SOF5, with 3 components"):
        read_header(io.BytesIO(bytes(content)))
    content[place + 1] = 0xC0
    content[place + 4] = 9
    with pytest.raises(NotSupported, match=r"of 9 bits"):
        decode(bytes(content))


def test_pixels_that_are_missing_are_noticed():
    whole = jpeg(SMOOTH)
    for length in (len(whole) * 2 // 3, len(whole) // 3, 20, 3):
        with pytest.raises(Exception, match=r"."):
            decode(whole[:length])


def test_absurd_sizes_are_refused_by_the_header():
    content = bytearray(jpeg(SMOOTH))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = b"\xff\xdc\xff\xdc"
    with pytest.raises(ValueError, match="65500x65500 pixels, of which at most"):
        decode(bytes(content))
