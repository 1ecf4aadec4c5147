"""PBM, PGM, PPM, PAM and PFM, against arrays and OpenCV."""

import io

import cv2
import numpy as np
import pytest
from image_bytes import (
    GRAY8,
    GRAY16,
    RGB8,
    RGB16,
    SHAPE,
    assert_pixels,
    packed,
    samples,
)

from hkdnet_jax.common.image_formats import NotSupported, decode, read_header

HEIGHT, WIDTH = SHAPE
ONES = samples(1)


def raster(image: np.ndarray) -> bytes:
    return image.astype(image.dtype.newbyteorder(">")).tobytes()


def text(image: np.ndarray) -> bytes:
    return "\n".join(
        " ".join(map(str, row)) for row in image.reshape(HEIGHT, -1)
    ).encode()


@pytest.mark.parametrize(
    ("kind", "image"), [("P5", GRAY8), ("P5", GRAY16), ("P6", RGB8), ("P6", RGB16)]
)
def test_binary(kind, image):
    largest = np.iinfo(image.dtype).max
    for comment in ("", "# a camera 12 34\n"):
        head = f"{kind}\n{comment}{WIDTH} {HEIGHT}\n{comment}{largest}\n".encode()
        assert_pixels(head + raster(image), image)
    head = f"{kind}\n{WIDTH} {HEIGHT}\n{largest}\n".encode()
    again = np.frombuffer(head + raster(image), np.uint8)
    again = cv2.imdecode(again, cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(again if image.ndim == 2 else again[..., ::-1], image)


@pytest.mark.parametrize(
    ("kind", "image"), [("P2", GRAY8), ("P2", GRAY16), ("P3", RGB8), ("P3", RGB16)]
)
def test_text(kind, image):
    largest = np.iinfo(image.dtype).max
    head = f"{kind} {WIDTH}\t{HEIGHT} # size\n{largest}\n".encode()
    assert_pixels(head + text(image) + b"\n# the end", image)


def test_bitmaps_hold_ink():
    expected = np.where(ONES == 1, 0, 255).astype(np.uint8)
    size = f"{WIDTH} {HEIGHT}\n".encode()
    assert_pixels(b"P4\n" + size + b"".join(packed(ONES, 1)), expected)
    assert_pixels(b"P1\n" + size + text(ONES), expected)
    assert_pixels(b"P1\n" + size + text(ONES).replace(b" ", b""), expected)


@pytest.mark.parametrize("largest", [1, 100, 254, 255])
def test_largest_levels_of_8_bits_fill_the_range(largest):
    levels = np.minimum(GRAY8, largest).astype(np.uint8)
    content = f"P5 {WIDTH} {HEIGHT} {largest}\n".encode() + raster(levels)
    expected = np.floor(levels.astype(int) * 255 / largest + 0.5).astype(np.uint8)
    assert_pixels(content, expected)
    assert read_header(io.BytesIO(content)).full == (0, 255)


@pytest.mark.parametrize("largest", [256, 1000, 4095, 16383, 65535])
def test_deeper_levels_stay(largest):
    levels = np.minimum(GRAY16, largest).astype(np.uint16)
    content = f"P5 {WIDTH} {HEIGHT} {largest}\n".encode() + raster(levels)
    assert_pixels(content, levels)
    assert read_header(io.BytesIO(content)).full == (0, largest)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_pam(channels, bits):
    image = samples(bits, channels)
    fields = f"HEIGHT {HEIGHT}\nWIDTH {WIDTH}\nDEPTH {channels}\nMAXVAL {2**bits - 1}"
    content = f"P7\n# camera\n{fields}\nTUPLTYPE X\nENDHDR\n".encode() + raster(image)
    assert_pixels(content, image[..., :3] if channels > 2 else image[..., 0])
    assert read_header(io.BytesIO(content)).extra == (channels in (2, 4))


@pytest.mark.parametrize(("order", "scale"), [("<", "-1.0"), (">", "1")])
def test_pfm_stands_upside_down(order, scale):
    for kind, levels in (("Pf", samples(16)), ("PF", samples(16, 3))):
        degrees = (levels / 700 - 20).astype(np.float32)
        degrees[0, 0] = np.nan
        head = f"{kind}\n{WIDTH} {HEIGHT}\n{scale}\n".encode()
        content = head + degrees[::-1].astype(f"{order}f4").tobytes()
        assert_pixels(content, degrees)
        header = read_header(io.BytesIO(content))
        assert (header.samples, header.full) == ("floating-point", (0, 1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"P5 34 21 255\n" + bytes(9), "."),
        (b"P2 34 21 255\n1 2 3", "missing"),
        (b"P5 34 21\n", "header"),
        (b"P5 34 21 0\n" + bytes(34 * 21), "largest level, 0"),
        (b"P5 34 21 99999\n" + bytes(34 * 21 * 2), "largest level, 99999"),
        (b"P5 34 21 100\n" + b"\xff" * 34 * 21, "levels above 100"),
        (b"P5 999999 999999 255\n" + bytes(9), "999999x999999 pixels"),
        (b"P5 0 21 255\n", "0x21 pixels"),
        (b"P7\nWIDTH 34\nENDHDR\n", "PAM"),
        (b"P7\n" + b"\n" * 4000 + b"x", "PAM|does not end"),
        (b"P5 " + b"#" * 9000, "header"),
        (b"PF 3 3 x\n", "header"),
    ],
)
def test_what_is_broken_is_noticed(content, says):
    with pytest.raises(Exception, match=says):
        decode(content)


def test_five_channels_are_refused_by_name():
    fields = b"HEIGHT 9\nWIDTH 9\nDEPTH 5\nMAXVAL 255"
    with pytest.raises(NotSupported, match="a PAM of 5 channels"):
        decode(b"P7\n" + fields + b"\nENDHDR\n" + bytes(405))
