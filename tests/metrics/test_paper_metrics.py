"""The six metrics of the paper: against the plain transcription, and their laws."""

import functools

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_images import ALL, PAPER, H, W, golden_windows, noise, scene

from hkdnet_jax import metrics
from hkdnet_jax.measuring import plain_metrics
from hkdnet_jax.metrics import fmi

pytestmark = pytest.mark.usefixtures("compiled_for_speed")


def score(images, names=ALL):
    return metrics.score(*(np.ascontiguousarray(image) for image in images), names)


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
    got = score(images, (name,))[name]
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["SCD", "AG", "CC"])
@given(images=hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 255)))
@settings(max_examples=60, deadline=None)
def test_equals_the_plain_one_on_what_hypothesis_draws(name, images):
    want = plain_metrics.PAPER[name](*images)
    np.testing.assert_allclose(score(images, (name,))[name], want, rtol=1e-9, atol=1e-9)


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
    got = score(images)
    for name in PAPER:
        if name != "FMI_w":  # seconds in plain Python
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


@pytest.mark.parametrize("level", [5, 77, 195, 255])
def test_fmi_of_flat_images_has_a_value(level):
    flat = [np.full((H, W), value, np.uint8) for value in (level, 9, 30)]
    images = scene()
    for triple in (flat, (flat[0], *images[1:]), (*images[:2], flat[0])):
        values = score(triple)
        assert np.isfinite([values["FMI_dct"], values["FMI_w"]]).all()


def test_fmi_is_the_mean_over_both_sources():
    ir, vis, fused = scene()
    of_ir, of_vis, of_both = (
        score(images) for images in ((ir, ir, fused), (vis, vis, fused), scene())
    )
    for name in ("FMI_dct", "FMI_w"):
        mean = (of_ir[name] + of_vis[name]) / 2
        assert of_both[name] == pytest.approx(mean, rel=1e-12)
        assert abs(of_ir[name] - of_vis[name]) > 0.01


@pytest.mark.parametrize("name", ["FMI_dct", "FMI_w"])
def test_fmi_of_an_image_with_itself_is_one(name):
    for image in (*scene(), *noise(1, H, W), *patterns().values()):
        assert score((image,) * 3)[name] == pytest.approx(1, abs=1e-12)


def test_fmi_ignores_the_contrast_of_each_image():
    ir, vis, fused = (image // 2 for image in scene())
    once, twice = score((ir, vis, fused)), score((2 * ir, vis, 2 * fused))
    for name in ("FMI_dct", "FMI_w"):
        assert twice[name] == pytest.approx(once[name], rel=1e-9)


def test_fmi_reads_its_windows_column_by_column():
    images = scene(20, 10, 10)
    turned = score([image.T for image in images], ("FMI_dct",))["FMI_dct"]
    assert 1e-4 < abs(turned - score(images, ("FMI_dct",))["FMI_dct"]) < 0.1


BARS = (12, 0, 200), (12, 40, 255), (255, 255, 255)


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
    assert score(images, ("FMI_w",))["FMI_w"] == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("level", [0, 1, 77, 255])
def test_fmi_of_equal_flat_images_is_one(level):
    flat = np.full((H, W), level, np.uint8)
    values = score((flat, flat, flat))
    for name in ("FMI_dct", "FMI_w"):
        assert values[name] == pytest.approx(1, abs=1e-12)


# --- CC and SCD ---------------------------------------------------------------------


def test_cc_ignores_an_affine_change_of_the_fused_image():
    ir, vis, fused = scene()
    fused //= 3
    value = score((ir, vis, fused))["CC"]
    for changed in (2 * fused, 3 * fused + 7, fused + 50):
        assert score((ir, vis, changed))["CC"] == pytest.approx(value, rel=1e-12)
    negative = score((ir, vis, 255 - fused))["CC"]
    assert negative == pytest.approx(-value, rel=1e-12)


def test_scd_ignores_an_offset_of_the_fused_image_but_not_its_contrast():
    ir, vis, fused = scene()
    fused //= 3
    value = score((ir, vis, fused))["SCD"]
    assert score((ir, vis, fused + 60))["SCD"] == pytest.approx(value, rel=1e-12)
    # The difference to the other source is then another image.
    assert abs(score((ir, vis, 2 * fused))["SCD"] - value) > 0.1


def test_cc_and_scd_at_their_bounds():
    ir, vis, _ = (image // 2 for image in scene())
    assert score((ir, vis, ir + vis))["SCD"] == pytest.approx(2, rel=1e-12)
    assert score((ir, ir, ir))["CC"] == pytest.approx(1, rel=1e-12)
    assert score((ir, ir, 255 - ir))["CC"] == pytest.approx(-1, rel=1e-12)
    assert score((ir, 255 - ir, ir))["CC"] == pytest.approx(0, abs=1e-12)


def test_differences_do_not_saturate():
    ir, vis, _ = noise(7, H, W)
    fused = (ir // 2 + vis // 2).astype(np.uint8)  # below either in many places
    want = sum(
        np.corrcoef((fused.astype(float) - other).ravel(), source.ravel())[0, 1]
        for source, other in ((ir, vis), (vis, ir))
    )
    assert score((ir, vis, fused))["SCD"] == pytest.approx(want, rel=1e-11)


@pytest.mark.parametrize("level", [0, 3, 77, 255])
@pytest.mark.parametrize("place", range(3))
def test_a_flat_image_has_no_correlation(level, place):
    images = list(scene())
    images[place] = np.full((H, W), level, np.uint8)
    values = score(images)
    assert np.isnan(values["CC"])
    assert np.isnan(values["SCD"]) == (place < 2)


def test_a_flat_image_has_no_correlation_though_its_mean_rounds():
    # A sum over 49 pixels times 1/49 is not always the level that all of them have.
    flat = np.repeat(np.arange(256, dtype=np.uint8), 49).reshape(256, 7, 7)
    others = np.repeat(np.stack(noise(4, 7, 7))[:2, None], 256, axis=1)
    values = score((flat, *others), ("CC", "SCD"))
    assert np.isnan(values["CC"]).all() and np.isnan(values["SCD"]).all()
    assert np.isnan(score((*others, flat), ("CC",))["CC"]).all()


def test_scd_has_no_value_where_the_fused_image_is_a_source():
    ir, vis, _ = scene()
    assert np.isnan(score((ir, vis, ir))["SCD"])
    assert np.isnan(score((ir, vis, vis + 9))["SCD"])


# --- AG -----------------------------------------------------------------------------


def test_ag_of_ramps_by_hand():
    y, x = np.mgrid[:H, :W]
    for ramp, slope in ((3 * x, 3.0), (4 * y + 0 * x, 4.0), (3 * x + 2 * y, 13**0.5)):
        image = ramp.astype(np.uint8)
        want = H * W * slope / 255 / 2**0.5 / ((H - 1) * (W - 1))
        assert score((image,) * 3)["AG"] == pytest.approx(want, rel=1e-12)


def test_ag_of_a_checkerboard_and_of_a_pixel_by_hand():
    # Central differences do not see a checkerboard; the one-sided ones at the four
    # edges do: 1 across or down, both in the corners.
    image = patterns()["checkerboard"]
    edge = (2 * (H - 2) + 2 * (W - 2)) * 0.5**0.5 + 4
    want = edge / ((H - 1) * (W - 1))
    assert score((image,) * 3)["AG"] == pytest.approx(want, rel=1e-12)
    # One pixel inside: a half in each of its four neighbours.
    want = 4 * 0.5 * 0.5**0.5 / ((H - 1) * (W - 1))
    image = patterns()["one pixel"]
    assert score((image,) * 3)["AG"] == pytest.approx(want, rel=1e-12)


def test_ag_looks_at_the_fused_image_alone():
    ir, vis, fused = scene()
    other = score((vis // 3, ir * 0, fused))
    assert other["AG"] == standard()["AG"]


# --- MS_SSIM ------------------------------------------------------------------------


def test_ms_ssim_of_an_image_with_itself():
    for image in (*scene(), *noise(1, H, W)):
        assert score((image,) * 3)["MS_SSIM"] == pytest.approx(1, abs=1e-4)


def test_ms_ssim_ignores_the_level_but_not_the_contrast():
    ir, vis, fused = (image // 2 for image in scene())
    value = score((ir, vis, fused))["MS_SSIM"]
    moved = score((ir + 20, vis + 3, fused + 100))["MS_SSIM"]
    assert moved == pytest.approx(value, rel=1e-9)
    assert score((ir, vis, fused // 4))["MS_SSIM"] < value - 0.05


def test_ms_ssim_has_no_value_below_zero():
    ir, _, _ = noise(8, H, W)
    assert np.isnan(score((ir, ir, 255 - ir))["MS_SSIM"])


@pytest.mark.parametrize("flat", [(0,), (1,), (2,), (0, 1), (0, 2)])
def test_ms_ssim_with_flat_images_equals_the_plain_one(flat):
    images = list(scene())
    for place in flat:
        images[place] = np.full((H, W), 40 + 60 * place, np.uint8)
    want = plain_metrics.ms_ssim(*images)
    assert score(images)["MS_SSIM"] == pytest.approx(want, rel=1e-9)


def test_ms_ssim_of_opposed_sources_has_no_structure_to_look_for():
    # The reference patches are then flat: q = C / (s_f^2 + C).
    ir, _, fused = scene()
    value, of_flat = score((ir, 255 - ir, fused)), score((ir * 0, ir * 0, fused))
    assert value["MS_SSIM"] == pytest.approx(of_flat["MS_SSIM"], rel=1e-6)


def test_ms_ssim_of_flat_images_is_one():
    ir, vis, fused = (np.full((H, W), level, np.uint8) for level in (0, 255, 9))
    assert score((ir, vis, fused))["MS_SSIM"] == pytest.approx(1, abs=1e-12)


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
    values = score((flat, flat, flat))
    assert np.isnan(values["SCD"]) and np.isnan(values["CC"])
    assert values["AG"] == pytest.approx(0, abs=1e-15)
    assert values["MS_SSIM"] == pytest.approx(1, abs=1e-12)
