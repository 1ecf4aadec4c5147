"""The metrics beside the six: against independent ones, and worked by hand."""

import functools
import math

import extra_reference
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_images import EXTRA, MIN_SIDES, H, W, noise, scene

from hkdnet_jax import metrics

pytestmark = pytest.mark.usefixtures("compiled_for_speed")


def score(images, names=EXTRA):
    return metrics.score(*(np.ascontiguousarray(image) for image in images), names)


@functools.cache
def standard():
    return score(scene())


def image(rows):
    return np.array(rows, np.uint8)


def flat(level, height=H, width=W):
    return np.full((height, width), level, np.uint8)


# --- against the independent ones ---------------------------------------------------


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("kind", [scene, noise])
def test_equals_the_reference(name, kind):
    images = kind(3, H, W)
    want = extra_reference.EXTRA[name](*images)
    assert score(images, (name,))[name] == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("name", EXTRA)
def test_equals_the_reference_on_other_sizes(name):
    side = MIN_SIDES[name]
    for shape in ((side, side + 3), (side + 8, side)):
        images = scene(sum(shape), *shape)
        want = extra_reference.EXTRA[name](*images)
        got = score(images, (name,))[name]
        assert got == pytest.approx(want, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", EXTRA)
@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("level", [0, 77, 255])
def test_equals_the_reference_with_a_flat_image(name, place, level):
    images = list(scene())
    images[place] = flat(level)
    want = extra_reference.EXTRA[name](*images)
    got = score(images, (name,))[name]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["EN", "SD", "SF", "MI", "Qabf", "PSNR", "Nabf"])
@given(images=hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)))
@settings(max_examples=60, deadline=None)
def test_equals_the_reference_on_what_hypothesis_draws(name, images):
    want = extra_reference.EXTRA[name](*images)
    want = want if math.isfinite(want) else math.nan
    got = score(images, (name,))[name]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


# --- by hand ------------------------------------------------------------------------


def test_entropy_by_hand():
    def entropy(rows):
        return score((image(rows),) * 3, ("EN",))["EN"]

    assert entropy([[0, 0], [255, 255]]) == pytest.approx(1)
    assert entropy([[0, 1], [2, 3]]) == pytest.approx(2)
    assert entropy([[5, 5], [5, 9]]) == pytest.approx(0.8112781244591328)
    assert entropy([[7, 7], [7, 7]]) == 0
    every = np.arange(256).reshape(16, 16)
    assert entropy(every) == pytest.approx(8)


def test_standard_deviation_by_hand():
    def sd(rows):
        return score((image(rows),) * 3, ("SD",))["SD"]

    assert sd([[10, 14]]) == pytest.approx(2)
    assert sd([[0, 255], [255, 0]]) == pytest.approx(127.5)
    assert sd([[1, 2, 3, 4, 5]]) == pytest.approx(2**0.5)
    assert sd([[9, 9]]) == 0


def test_spatial_frequency_by_hand():
    def sf(rows):
        return score((image(rows),) * 3, ("SF",))["SF"]

    assert sf([[0, 3], [0, 3]]) == pytest.approx(3)
    assert sf([[0, 0], [4, 4]]) == pytest.approx(4)
    # Across: (9 + 9 + 0 + 16) / 4; down: (0 + 9 + 1) / 3.
    assert sf([[1, 4, 1], [1, 1, 5 - 4 + 1]]) == pytest.approx(
        ((9 + 9 + 0 + 1) / 4 + (0 + 9 + 1) / 3) ** 0.5
    )
    assert sf([[8, 8], [8, 8]]) == 0


def test_mutual_information_by_hand():
    def mi(a, b, f):
        return score((image(a), image(b), image(f)), ("MI",))["MI"]

    left, upper = [[0, 1], [0, 1]], [[0, 0], [1, 1]]
    # A copy tells everything, a relabelled copy too, an independent image nothing.
    assert mi(left, left, left) == pytest.approx(2)
    assert mi(left, upper, left) == pytest.approx(1)
    assert mi([[255, 9], [255, 9]], upper, left) == pytest.approx(1)
    assert mi(upper, upper, left) == pytest.approx(0, abs=1e-12)
    assert mi([[5, 5], [5, 5]], left, left) == pytest.approx(1)
    # p = (2/4, 1/4, 1/4) over the pairs (0,0), (0,1), (1,1).
    want = 0.5 * math.log2(0.5 / 0.375) + 0.25 * (math.log2(2 / 3) + 1)
    assert mi([[0, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 0], [1, 1]]) == pytest.approx(
        want
    )


def test_psnr_by_hand():
    def psnr(a, b, f):
        return score((flat(a), flat(b), flat(f)), ("PSNR",))["PSNR"]

    assert psnr(0, 0, 255) == pytest.approx(0, abs=1e-12)
    assert psnr(100, 120, 110) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(100, 110, 110) == pytest.approx(10 * math.log10(255**2 / 50))
    assert np.isnan(psnr(7, 7, 7))  # infinite


def test_ssim_of_flat_images_by_hand():
    values = score((flat(100), flat(50), flat(100)), ("SSIM",))
    c1 = 2.55**2
    other = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert values["SSIM"] == pytest.approx((1 + other) / 2, rel=1e-9)


def test_nabf_of_edges_from_nowhere_by_hand():
    # A ramp down the rows on flat sources. Inside, its slope is 3; the mirrored border
    # sees none in the first and last row. The flat sources' angle is 0, the ramp's
    # atan(0 / 3) is 0 too: no difference of direction.
    ramp = (3 * np.arange(10)[:, None] + np.zeros((1, 8))).astype(np.uint8)
    strength = 0.9999 / (1 + math.exp(19 * 0.5))
    angle = 0.9995 / (1 + math.exp(-22 * 0.5))
    want = 0.8 * (1 - math.sqrt(strength * angle))
    images = (flat(5, 10, 8), flat(80, 10, 8), ramp)
    assert score(images, ("Nabf",))["Nabf"] == pytest.approx(want, rel=1e-12)


# --- bounds and laws ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [scene, noise])
def test_three_equal_images(kind):
    x = kind(2, H, W)[0]
    values = score((x, x, x))
    assert values["SSIM"] == pytest.approx(1, abs=1e-9)
    assert values["VIF"] == pytest.approx(2, rel=1e-9)
    assert values["Nabf"] == 0
    assert values["MI"] == pytest.approx(2 * values["EN"], rel=1e-12)
    most = 0.9994 / (1 + math.exp(-7.5)) * 0.9879 / (1 + math.exp(-4.4))
    assert values["Qabf"] == pytest.approx(most, rel=1e-9)
    assert np.isnan(values["PSNR"])


def test_the_sources_are_exchangeable():
    ir, vis, fused = scene()
    exchanged = score((vis, ir, fused))
    for name in EXTRA:
        assert exchanged[name] == pytest.approx(standard()[name], rel=1e-10), name


def test_the_fused_image_is_not_a_source():
    ir, vis, fused = scene()
    exchanged = score((fused, vis, ir))
    for name in EXTRA:
        assert abs(exchanged[name] - standard()[name]) > 1e-4, name


def test_mirrored_images():
    for change in (np.flipud, np.fliplr):
        changed = score([change(x) for x in scene()])
        # VIF drops the last row or column where it halves an even size; Qabf does not
        # wrap directions.
        for name in set(EXTRA) - {"VIF", "Qabf"}:
            assert changed[name] == pytest.approx(standard()[name], rel=1e-9), name


def test_those_of_the_fused_image_alone():
    ir, vis, fused = scene()
    values = score((vis // 2, ir * 0, fused))
    for name in ("EN", "SD", "SF"):
        assert values[name] == standard()[name]


def test_offset_and_contrast():
    ir, vis, fused = (x // 2 for x in scene())
    value = score((ir, vis, fused))
    moved = score((ir, vis, fused + 100))
    for name in ("EN", "SD", "SF", "MI", "VIF", "Nabf"):
        assert moved[name] == pytest.approx(value[name], rel=1e-8), name
    for name in ("SSIM", "PSNR"):
        assert moved[name] < value[name]
    twice = score((ir, vis, 2 * fused))
    for name in ("SD", "SF"):
        assert twice[name] == pytest.approx(2 * value[name], rel=1e-12)
    for name in ("EN", "MI"):
        assert twice[name] == pytest.approx(value[name], rel=1e-12)
    all_twice = score((2 * ir, 2 * vis, 2 * fused))
    assert all_twice["Qabf"] == pytest.approx(value["Qabf"], rel=1e-12)
    assert all_twice["Nabf"] != pytest.approx(value["Nabf"], rel=1e-3)


def test_noise_is_an_artefact():
    ir, vis, fused = scene()
    rough = fused ^ noise(4, H, W, 0, 15)[0]
    values = score((ir, vis, rough))
    assert values["Nabf"] > standard()["Nabf"] + 0.01
    for name in ("Qabf", "VIF", "SSIM", "PSNR"):
        assert values[name] < standard()[name], name


@pytest.mark.parametrize("level", [0, 1, 77, 254, 255])
def test_flat_sources_have_nothing_to_keep(level):
    values = score((flat(level), flat(9), scene()[2]))
    assert np.isnan(values["VIF"]) and np.isnan(values["Qabf"])
    values = score((flat(level), *scene()[1:]))
    assert np.isnan(values["VIF"]) and math.isfinite(values["Qabf"])
    values = score((*scene()[:2], flat(level)))
    assert values["VIF"] == pytest.approx(0, abs=1e-9)
