"""The six metrics of the paper: against the plain transcription, and their laws."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_images import PAPER, H, W, golden_windows, noise, scene

from hkdnet_jax import metrics
from hkdnet_jax.measuring import plain_metrics
from hkdnet_jax.metrics import fmi

pytestmark = pytest.mark.usefixtures("compiled_for_speed")


FMI = ("FMI_dct", "FMI_w")


def score(images, names=PAPER):
    return metrics.score(*(np.ascontiguousarray(image) for image in images), names)


def value_of(name, *images):
    return score(images, (name,))[name]


@functools.cache
def standard():
    """The values of the standard scene."""
    return score(scene())


# --- against the plain transcription ------------------------------------------------

SIZES = {
    "FMI_dct": [(3, 3), (3, 8), (10, 10)],
    "FMI_w": [(6, 13)],  # seconds in plain Python
    "SCD": [(1, 2), (2, 1), (5, 4), (17, 30)],
    "MS_SSIM": [(44, 44), (45, 61), (58, 47)],
    "AG": [(2, 2), (2, 9), (3, 2), (17, 30)],
    "CC": [(1, 2), (2, 1), (5, 4), (17, 30)],
}
CASES = [(name, shape) for name, shapes in SIZES.items() for shape in shapes]


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("kind", [scene, noise])
def test_equals_the_plain_one(name, shape, kind):
    images = kind(sum(shape), *shape)
    want = plain_metrics.PAPER[name](*images)
    got = value_of(name, *images)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["SCD", "AG", "CC"])
@given(images=hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)))
@settings(max_examples=60, deadline=None)
def test_equals_the_plain_one_on_what_hypothesis_draws(name, images):
    want = plain_metrics.PAPER[name](*images)
    np.testing.assert_allclose(value_of(name, *images), want, rtol=1e-9, atol=1e-9)


def patterns(place=2):
    """Images that others are not: name -> [H, W] uint8."""
    y, x = np.mgrid[:H, :W]
    pixel = np.zeros((H, W), np.uint8)
    pixel[10, 21] = 255
    saturated = scene()[place]
    saturated[:, : W // 2] = 255
    return {
        "checkerboard": np.uint8((y + x) % 2 * 255),
        "one pixel": pixel,
        "saturated": saturated,
    }


@pytest.mark.parametrize("pattern", patterns())
@pytest.mark.parametrize("place", range(3))
def test_equals_the_plain_one_on_patterns(pattern, place):
    images = list(scene())
    images[place] = patterns(place)[pattern]
    names = [name for name in PAPER if name != "FMI_w"]  # seconds in plain Python
    got = score(images, names)
    for name in names:
        want = plain_metrics.PAPER[name](*images)
        assert got[name] == pytest.approx(want, rel=1e-9, abs=1e-12), name


# --- FMI ----------------------------------------------------------------------------


def window_scores(x, f):
    """[n] scores of [n, 9] windows, as `score` computes them."""
    with jax.enable_x64(True):
        return np.asarray(jax.jit(fmi.window_score)(list(x.T), list(f.T)))


def test_fmi_of_the_reference_windows():
    _, x, f, want = zip(*golden_windows(), strict=True)
    got = window_scores(np.array(x), np.array(f))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)


WINDOWS = {
    "noise": lambda rng: rng.normal(size=(200, 9)),
    "rough": lambda rng: rng.integers(0, 3, (200, 9)).astype(float),
    "one value": lambda rng: np.eye(9)[rng.integers(0, 9, 200)] * 7,
    "flat": lambda rng: np.repeat(rng.normal(size=(200, 1)), 9, axis=1),
}


@pytest.mark.parametrize("kind", WINDOWS)
@pytest.mark.parametrize("other", [*WINDOWS, "near", "opposite"])
def test_fmi_of_windows(kind, other):
    rng = np.random.default_rng(6)
    x = WINDOWS[kind](rng)
    if other in WINDOWS:
        f = WINDOWS[other](rng)
    else:
        f = (1 if other == "near" else -1) * x + rng.normal(0, 0.01, x.shape)
    want = [plain_metrics.window_score(*pair) for pair in zip(x, f, strict=True)]
    np.testing.assert_allclose(window_scores(x, f), want, atol=1e-9)


@pytest.mark.parametrize("kind", WINDOWS)
def test_fmi_where_one_value_outweighs_the_others_by_far(kind):
    # As at the mean of a flat image among its DCT coefficients: the index hardly
    # varies, and what it varies is rounding.
    rng = np.random.default_rng(6)
    place, other_place = rng.integers(0, 9, (2, 200))
    steep, other_steep = (
        np.eye(9)[at] + 1e-15 * rng.normal(size=(200, 9)) for at in (place, other_place)
    )
    other = WINDOWS[kind](rng)
    for x, f in ((steep, other), (other, steep)):
        want = [plain_metrics.window_score(*pair) for pair in zip(x, f, strict=True)]
        np.testing.assert_allclose(window_scores(x, f), want, atol=1e-6)
    assert (np.abs(window_scores(steep, other_steep)) < 2).all()  # and no NaN


@pytest.mark.parametrize("share", [1e-6, 1e-8, 3e-9, 1e-9, 1e-12])
def test_fmi_where_the_bound_is_lost_in_rounding(share):
    # Nearly all on one place, the rest of either on different sides of it.
    x, f = np.eye(9)[1:8], np.eye(9)[1:8]
    x[:, 0], f[:, 8] = share, share
    assert np.isfinite(window_scores(x, f)).all()
    assert all(
        np.isfinite(plain_metrics.window_score(*pair))
        for pair in zip(x, f, strict=True)
    )


@pytest.mark.parametrize("level", [5, 195, 255])
def test_fmi_of_flat_images_has_a_value(level):
    flat = [np.full((H, W), value, np.uint8) for value in (level, 9, 30)]
    images = scene()
    for triple in (flat, (flat[0], *images[1:]), (*images[:2], flat[0])):
        assert np.isfinite([*score(triple, FMI).values()]).all()


def test_fmi_is_the_mean_over_both_sources():
    ir, vis, fused = scene()
    of_ir, of_vis, of_both = (
        score(images, FMI) for images in ((ir, ir, fused), (vis, vis, fused), scene())
    )
    for name in FMI:
        mean = (of_ir[name] + of_vis[name]) / 2
        assert of_both[name] == pytest.approx(mean, rel=1e-12)
        assert abs(of_ir[name] - of_vis[name]) > 0.01


@pytest.mark.parametrize("name", FMI)
def test_fmi_of_an_image_with_itself_is_one(name):
    for image in (*scene(), *noise(1, H, W), *patterns().values()):
        assert value_of(name, image, image, image) == pytest.approx(1, abs=1e-12)


def test_fmi_ignores_the_contrast_of_each_image():
    ir, vis, fused = (image // 2 for image in scene())
    once, twice = (score((k * ir, vis, k * fused), FMI) for k in (1, 2))
    for name in FMI:
        assert twice[name] == pytest.approx(once[name], rel=1e-9)


def test_fmi_reads_its_windows_column_by_column():
    images = scene(20, 10, 10)
    turned = score([image.T for image in images], ("FMI_dct",))["FMI_dct"]
    assert 1e-4 < abs(turned - value_of("FMI_dct", *images)) < 0.1


BARS = (12, 0, 200), (255, 255, 255)


@functools.cache
def barred(levels):
    """Three images whose lower parts are flat, farther than the wavelet reaches."""
    images = noise(5, 120, 3)
    for image, level in zip(images, levels, strict=True):
        image[5:] = level
    return images


@pytest.mark.parametrize("levels", BARS)
def test_fmi_of_flat_bars(levels):
    # Windows that are flat in both images score 1 whatever their levels; noise there
    # would score near 0.
    images = barred(levels)
    maps = [plain_metrics.wavelet_map(image) for image in images]
    positions = plain_metrics.window_positions(maps[0].shape)
    flat = np.mean(
        [np.ptp(maps[2][i : i + 3, j : j + 3]) == 0 for i, j in positions[::50]]
    )
    assert flat > 0.1
    want = plain_metrics.fmi_of_maps(*maps, positions)
    assert value_of("FMI_w", *images) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("level", [0, 1, 77, 255])
def test_fmi_of_equal_flat_images_is_one(level):
    flat = np.full((H, W), level, np.uint8)
    for value in score((flat, flat, flat), FMI).values():
        assert value == pytest.approx(1, abs=1e-12)


# --- CC and SCD ---------------------------------------------------------------------


def test_cc_ignores_an_affine_change_of_the_fused_image():
    ir, vis, fused = scene()
    fused //= 3
    value = value_of("CC", ir, vis, fused)
    for changed in (2 * fused, 3 * fused + 7, fused + 50):
        assert value_of("CC", ir, vis, changed) == pytest.approx(value, rel=1e-12)
    negative = value_of("CC", ir, vis, 255 - fused)
    assert negative == pytest.approx(-value, rel=1e-12)


def test_scd_ignores_an_offset_of_the_fused_image_but_not_its_contrast():
    ir, vis, fused = scene()
    fused //= 3
    value = value_of("SCD", ir, vis, fused)
    assert value_of("SCD", ir, vis, fused + 60) == pytest.approx(value, rel=1e-12)
    # The difference to the other source is then another image.
    assert abs(value_of("SCD", ir, vis, 2 * fused) - value) > 0.1


def test_cc_and_scd_at_their_bounds():
    ir, vis, _ = (image // 2 for image in scene())
    assert value_of("SCD", ir, vis, ir + vis) == pytest.approx(2, rel=1e-12)
    assert value_of("CC", ir, ir, ir) == pytest.approx(1, rel=1e-12)
    assert value_of("CC", ir, ir, 255 - ir) == pytest.approx(-1, rel=1e-12)
    assert value_of("CC", ir, 255 - ir, ir) == pytest.approx(0, abs=1e-12)


def test_differences_do_not_saturate():
    ir, vis, _ = noise(7, H, W)
    fused = (ir // 2 + vis // 2).astype(np.uint8)  # below either in many places
    want = sum(
        np.corrcoef((fused.astype(float) - other).ravel(), source.ravel())[0, 1]
        for source, other in ((ir, vis), (vis, ir))
    )
    assert value_of("SCD", ir, vis, fused) == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("level", [0, 3, 77, 255])
@pytest.mark.parametrize("place", range(3))
def test_a_flat_image_has_no_correlation(level, place):
    images = list(scene())
    images[place] = np.full((H, W), level, np.uint8)
    values = score(images, ("CC", "SCD"))
    assert np.isnan(values["CC"])
    assert np.isnan(values["SCD"]) == (place < 2)


def test_a_flat_image_has_no_correlation_though_its_mean_rounds():
    # A sum over 49 pixels times 1/49 is not always the level that all of them have.
    flat = np.repeat(np.arange(256, dtype=np.uint8), 49).reshape(256, 7, 7)
    others = np.repeat(np.stack(noise(4, 7, 7))[:2, None], 256, axis=1)
    values = score((flat, *others), ("CC", "SCD"))
    assert np.isnan(values["CC"]).all() and np.isnan(values["SCD"]).all()
    assert np.isnan(value_of("CC", *others, flat)).all()


def test_scd_has_no_value_where_the_fused_image_is_a_source():
    ir, vis, _ = scene()
    assert np.isnan(value_of("SCD", ir, vis, ir))
    assert np.isnan(value_of("SCD", ir, vis, vis + 9))


# --- AG -----------------------------------------------------------------------------


def test_ag_of_ramps_by_hand():
    y, x = np.mgrid[:H, :W]
    for ramp, slope in ((3 * x, 3.0), (4 * y + 0 * x, 4.0), (3 * x + 2 * y, 13**0.5)):
        image = ramp.astype(np.uint8)
        want = H * W * slope / 255 / 2**0.5 / ((H - 1) * (W - 1))
        assert value_of("AG", image, image, image) == pytest.approx(want, rel=1e-12)


def test_ag_of_a_checkerboard_and_of_a_pixel_by_hand():
    # Central differences do not see a checkerboard; the one-sided ones at the four
    # edges do: 1 across or down, both in the corners.
    image = patterns()["checkerboard"]
    edge = (2 * (H - 2) + 2 * (W - 2)) * 0.5**0.5 + 4
    want = edge / ((H - 1) * (W - 1))
    assert value_of("AG", image, image, image) == pytest.approx(want, rel=1e-12)
    # One pixel inside: a half in each of its four neighbours.
    want = 4 * 0.5 * 0.5**0.5 / ((H - 1) * (W - 1))
    image = patterns()["one pixel"]
    assert value_of("AG", image, image, image) == pytest.approx(want, rel=1e-12)


def test_ag_looks_at_the_fused_image_alone():
    ir, vis, fused = scene()
    assert value_of("AG", vis // 3, ir * 0, fused) == standard()["AG"]


# --- MS_SSIM ------------------------------------------------------------------------


def test_ms_ssim_of_an_image_with_itself():
    for image in (*scene(), *noise(1, H, W)):
        assert value_of("MS_SSIM", image, image, image) == pytest.approx(1, abs=1e-4)


def test_ms_ssim_ignores_the_level_but_not_the_contrast():
    ir, vis, fused = (image // 2 for image in scene())
    value = value_of("MS_SSIM", ir, vis, fused)
    moved = value_of("MS_SSIM", ir + 20, vis + 3, fused + 100)
    assert moved == pytest.approx(value, rel=1e-9)
    assert value_of("MS_SSIM", ir, vis, fused // 4) < value - 0.05


def test_ms_ssim_has_no_value_below_zero():
    ir, _, _ = noise(8, H, W)
    assert np.isnan(value_of("MS_SSIM", ir, ir, 255 - ir))


@pytest.mark.parametrize("flat", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_ms_ssim_with_flat_images_equals_the_plain_one(flat):
    images = list(scene())
    for place in flat:
        images[place] = np.full((H, W), 40 + 60 * place, np.uint8)
    want = plain_metrics.ms_ssim(*images)
    assert value_of("MS_SSIM", *images) == pytest.approx(want, rel=1e-9)


def test_ms_ssim_of_opposed_sources_has_no_structure_to_look_for():
    # The reference patches are then flat: q = C / (s_f^2 + C).
    ir, _, fused = scene()
    value, of_flat = (
        value_of("MS_SSIM", *sources, fused)
        for sources in ((ir, 255 - ir), (ir * 0, ir * 0))
    )
    assert value == pytest.approx(of_flat, rel=1e-6)


def test_ms_ssim_of_flat_images_is_one():
    ir, vis, fused = (np.full((H, W), level, np.uint8) for level in (0, 255, 9))
    assert value_of("MS_SSIM", ir, vis, fused) == pytest.approx(1, abs=1e-12)


# --- all ----------------------------------------------------------------------------


def test_the_sources_are_exchangeable():
    ir, vis, fused = scene()
    exchanged = score((vis, ir, fused))
    for name in PAPER:
        assert exchanged[name] == pytest.approx(standard()[name], rel=1e-12), name


def test_the_fused_image_is_not_a_source():
    ir, vis, fused = scene()
    exchanged = score((fused, vis, ir))
    for name in PAPER:
        assert abs(exchanged[name] - standard()[name]) > 1e-4, name


def test_turned_and_mirrored_images():
    images = scene(0, 44, 48)  # halved twice without a rest
    names = ("SCD", "MS_SSIM", "AG", "CC")
    value = score(images, names)
    for change in (np.flipud, np.fliplr, np.rot90):
        changed = score([change(image) for image in images], names)
        for name in names:
            assert changed[name] == pytest.approx(value[name], rel=1e-10), name


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images(level):
    flat = np.full((H, W), level, np.uint8)
    values = score((flat, flat, flat), ("SCD", "CC", "AG", "MS_SSIM"))
    assert np.isnan(values["SCD"]) and np.isnan(values["CC"])
    assert values["AG"] == pytest.approx(0, abs=1e-15)
    assert values["MS_SSIM"] == pytest.approx(1, abs=1e-12)
