"""BMP and WebP."""

import io

import numpy as np
import pytest
from image_bytes import GRAY8, RGB8, RNG, assert_pixels, by_pillow, samples
from PIL import Image

from hkdnet_jax.common.image_formats import decode, read_header


def test_bmp():
    assert_pixels(by_pillow(Image.fromarray(GRAY8), "BMP"), GRAY8)
    assert_pixels(by_pillow(Image.fromarray(RGB8), "BMP"), RGB8)
    black = Image.fromarray(GRAY8 > 99)
    expected = np.where(GRAY8 > 99, 255, 0).astype(np.uint8)
    assert_pixels(by_pillow(black, "BMP"), expected)
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.fromarray(GRAY8).convert("P")
    image.putpalette(colours.tobytes())
    assert_pixels(by_pillow(image, "BMP"), colours[GRAY8])


def test_bmp_whose_rows_go_down():
    content = bytearray(by_pillow(Image.fromarray(RGB8), "BMP"))
    height = -int.from_bytes(content[22:26], "little")
    content[22:26] = height.to_bytes(4, "little", signed=True)
    assert_pixels(bytes(content), RGB8[::-1])


def test_webp():
    options = {"lossless": True, "exact": True}
    assert_pixels(by_pillow(Image.fromarray(RGB8), "WEBP", **options), RGB8)
    rgba = samples(8, 4)
    content = by_pillow(Image.fromarray(rgba), "WEBP", **options)
    assert_pixels(content, rgba[..., :3].copy())
    assert read_header(io.BytesIO(content)).extra == 1


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_orientation_of_a_webp(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = by_pillow(Image.fromarray(RGB8), "WEBP", lossless=True, exif=exif)
    assert read_header(io.BytesIO(content)).orientation == orientation
    broken = by_pillow(Image.fromarray(RGB8), "WEBP", lossless=True, exif=b"\xff" * 30)
    assert read_header(io.BytesIO(broken)).orientation == 1
    assert_pixels(broken, RGB8)


def test_pages_of_an_animated_webp():
    images = [RGB8, RGB8[::-1], RGB8[:, ::-1]]
    frames = [Image.fromarray(x) for x in images]
    options = {"lossless": True, "save_all": True, "append_images": frames[1:]}
    content = by_pillow(frames[0], "WEBP", **options)
    assert read_header(io.BytesIO(content)).pages == 3
    for index, expected in enumerate(images):
        assert_pixels(content, expected, page=index)


@pytest.mark.parametrize("kind", ["BMP", "WEBP"])
def test_what_is_broken_is_noticed(kind):
    whole = by_pillow(Image.fromarray(RGB8), kind)
    for length in (len(whole) * 2 // 3, 40, 20):
        with pytest.raises(Exception, match=r"."):
            decode(whole[:length])


def test_absurd_sizes_are_refused_by_the_header():
    content = bytearray(by_pillow(Image.fromarray(RGB8), "BMP"))
    content[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match="60000x60000 pixels, of which at most"):
        decode(bytes(content))
