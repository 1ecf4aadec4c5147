"""Colour on a fused luminance, against the definition of BT.601 and Pillow."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common import colour

WEIGHTS = np.array([0.298936, 0.587043, 0.114021])


def image(seed=0, size=(12, 15)):
    return np.random.default_rng(seed).random((*size, 3)).astype(np.float32)


def test_the_own_luma_gives_the_image_back():
    rgb = image()
    back = colour.attach((rgb @ WEIGHTS).astype(np.float32), rgb)
    np.testing.assert_allclose(back, rgb, atol=2e-6)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_luma_is_kept_and_nothing_leaves_the_range(scale):
    rgb = image()
    luma = np.random.default_rng(1).random((12 * scale, 15 * scale), np.float32)
    luma[:3] = 0
    luma[3:6] = 1
    out = colour.attach(luma, rgb)
    assert out.dtype == np.float32 and out.min() >= 0 and out.max() <= 1
    np.testing.assert_allclose(out @ WEIGHTS, luma, atol=3e-6)


def test_hue_is_kept_where_the_colour_is_too_strong():
    rgb = image(size=(4, 4))
    for level in (0.05, 0.5, 0.97):
        out = colour.attach(np.full((4, 4), level, np.float32), rgb)
        cut = 0
        for before, after in zip(rgb.reshape(-1, 3), out.reshape(-1, 3), strict=True):
            difference = before - before @ WEIGHTS, after - after @ WEIGHTS
            cosine = np.dot(*difference) / np.prod(
                [np.linalg.norm(x) for x in difference]
            )
            assert cosine > 1 - 1e-4
            hues = [colorsys.rgb_to_hsv(*map(float, x))[0] for x in (before, after)]
            assert abs((hues[0] - hues[1] + 0.5) % 1 - 0.5) < 0.01
            cut += np.linalg.norm(difference[1]) < 0.9 * np.linalg.norm(difference[0])
        assert cut > 0 or level == 0.5


def test_the_chroma_is_that_of_pillow_enlarged():
    """On levels that need no clipping, against Pillow's full-range YCbCr."""
    small = (image(2, (10, 14)) * 0.2 + 0.4).astype(np.float32)
    luma = np.full((20, 28), 0.5, np.float32)
    out = np.rint(colour.attach(luma, small) * 255).astype(np.uint8)
    ours = np.asarray(Image.fromarray(out).convert("YCbCr")).astype(int)
    ycc = Image.fromarray(np.rint(small * 255).astype(np.uint8)).convert("YCbCr")
    theirs = np.asarray(ycc.resize((28, 20), Image.Resampling.LANCZOS)).astype(int)
    assert abs(ours[..., 1:] - theirs[..., 1:]).max() <= 2
    assert abs(ours[..., 0] - 128).max() <= 1


def test_a_gray_image_gives_gray():
    gray = np.repeat(image()[..., :1], 3, axis=-1)
    luma = np.linspace(-0.2, 1.2, 24 * 30, dtype=np.float32).reshape(24, 30)
    out = colour.attach(luma, gray)
    np.testing.assert_allclose(
        out, np.clip(luma, 0, 1)[..., None].repeat(3, -1), atol=1e-6
    )


def test_what_is_coloured():
    gray = np.full((3, 4), 7, np.uint8)
    assert not colour.is_coloured(gray)
    assert not colour.is_coloured(np.dstack([gray] * 3))
    assert colour.is_coloured(np.dstack([gray, gray, gray + 1]))
