"""From fused levels to what is written."""

import numpy as np

from hkdnet_jax.common import colour
from hkdnet_jax.common.levels import BYTES
from hkdnet_jax.inference import pictures
from hkdnet_jax.inference.inputs import Inputs

RNG = np.random.default_rng(0)
GRAY = RNG.random((2, 6, 8, 1)).astype(np.float32)


def inputs(rgb=None):
    return Inputs(*GRAY, (BYTES, BYTES), (), rgb)


def test_gray_levels_pass_and_colour_is_rounded_last():
    levels = RNG.integers(0, 256, (12, 16), np.uint8)
    assert pictures.picture(levels, inputs(), "8") is levels
    fused = RNG.random((12, 16)).astype(np.float32)
    rgb = RNG.random((6, 8, 3)).astype(np.float32)
    for depth, full, dtype in (("8", 255, np.uint8), ("16", 65535, np.uint16)):
        out = pictures.picture(fused, inputs(rgb), depth)
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, np.rint(colour.attach(fused, rgb) * full))
        gray = pictures.picture(fused, inputs(), depth)
        np.testing.assert_array_equal(gray, np.rint(fused * full))


def test_a_sheet_shows_all_three():
    rgb = RNG.random((6, 8, 3)).astype(np.float32)
    for dtype, full in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        result = np.full((12, 16), full, dtype)
        sheet = pictures.sheet(result, inputs(rgb))
        assert sheet.shape[1:] == (48, 3) and sheet.dtype == np.uint8
        panels = np.split(sheet[-12:], 3, axis=1)
        ir = np.rint(GRAY[0, ..., 0] * 255).repeat(2, 0).repeat(2, 1)
        np.testing.assert_array_equal(panels[0], np.dstack([ir] * 3))
        np.testing.assert_array_equal(
            panels[1], np.rint(rgb * 255).repeat(2, 0).repeat(2, 1)
        )
        assert (panels[2] == 255).all()
