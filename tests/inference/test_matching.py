"""Two sizes become one: the plan, and what it does to images."""

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.inference import matching
from hkdnet_jax.inference.matching import Plan, plan, plan_note


@pytest.mark.parametrize(
    ("ir", "vis", "scale", "expected"),
    [
        ((120, 160), (1080, 1440), None, Plan((1080, 1440), (1080, 1440), (4, 1))),
        ((256, 320), (1024, 1280), None, Plan((1024, 1280), (1024, 1280), (4, 1))),
        ((120, 160), (360, 480), None, Plan((360, 480), (360, 480), (3, 1))),
        ((120, 160), (300, 400), None, Plan((300, 400), (300, 400), (2, 1))),
        ((120, 160), (150, 200), None, Plan((150, 200), (150, 200), (1, 1))),
        ((120, 160), (480, 640), 2, Plan((240, 320), (480, 640), (2, 1))),
        ((480, 640), (240, 320), None, Plan((480, 640), (240, 320), (1, 2))),
        ((512, 640), (961, 1201), None, Plan((961, 1201), (961, 1201), (1, 1))),
        ((512, 640), (1080, 1440), None, Plan((1080, 1350), (1080, 1350), (2, 1))),
        ((120, 160), (512, 640), None, Plan((480, 640), (480, 640), (4, 1))),
    ],
)
def test_plans(ir, vis, scale, expected):
    assert plan(ir, vis, scale) == expected


def test_another_view_is_refused():
    with pytest.raises(ValueError, match="differ by 42%: crop them"):
        plan((512, 640), (1080, 1920))


def test_a_plan_in_words():
    sizes = (512, 640), (1080, 1440)
    assert plan_note(plan(*sizes), *sizes) == (
        "Of 640x512 and 1440x1080 pixels, the infrared image is enlarged x2 by the "
        "student, the infrared image is resampled to 1350x1080, the visible image is "
        "cropped in the middle to 1350x1080."
    )


def test_the_middle_is_kept():
    image = np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(matching.crop(image, (2, 3)), image[1:3, 1:4])
    assert matching.crop(np.zeros((5, 5, 3)), (5, 4)).shape == (5, 4, 3)


def test_resampling_is_pillows():
    image = np.random.default_rng(0).random((12, 16)).astype(np.float32)
    out = matching.resample(image, (30, 41))
    plain = Image.fromarray(image).resize((41, 30), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(out, np.clip(np.asarray(plain), 0, 1))
    assert matching.resample(image, (12, 16)) is image
