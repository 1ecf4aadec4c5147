"""`score` and `select`: what they take, what they return, and from where."""

import inspect
import math
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from metric_images import ALL, EXTRA, MIN_SIDES, PAPER, H, W, noise, scene

from hkdnet_jax import metrics
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import to_8_bit
from hkdnet_jax.metrics import METRICS, fmi, score, select

pytestmark = pytest.mark.usefixtures("compiled_for_speed")


@pytest.fixture(scope="module")
def standard():
    return score(*scene(), ALL)


# --- the table ----------------------------------------------------------------------


def test_names_and_their_order():
    assert metrics.PAPER == PAPER and metrics.EXTRA == EXTRA
    assert tuple(METRICS) == ALL + metrics.DETAIL


def test_smallest_sides():
    sides = {name: metric.min_side for name, metric in METRICS.items()}
    assert sides == MIN_SIDES | dict.fromkeys(metrics.DETAIL, 36)


def test_directions():
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"Nabf"}


# --- select -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("paper", PAPER),
        ("all", ALL),
        ("AG", ("AG",)),
        ("CC,AG", ("CC", "AG")),
        (" FMI_w , Nabf ", ("FMI_w", "Nabf")),
    ],
)
def test_select(spec, names):
    assert select(spec) == names


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("AG,fmi", "'fmi'"),
        ("ag", "'ag'"),
        ("", "''"),
        ("AG,", "''"),
        ("paper,EN", "'paper'"),
        ("AG,CC,AG", "AG"),
    ],
)
def test_select_says_what_is_wrong(spec, word):
    with pytest.raises(UserError) as error:
        select(spec)
    sentence = str(error.value)
    assert word in sentence and "MS_SSIM" in sentence and sentence.endswith(".")
    assert "\n" not in sentence


# --- what comes back ----------------------------------------------------------------


def test_float64_scalars_in_the_order_asked_for():
    names = ("Nabf", "AG", "SCD")
    values = score(*scene(0, 12, 13), names)
    assert tuple(values) == names
    for value in values.values():
        assert isinstance(value, np.ndarray) and value.shape == ()
        assert value.dtype == np.float64 and math.isfinite(value)


def test_the_six_are_the_default():
    assert inspect.signature(score).parameters["names"].default == PAPER


def test_a_metric_alone_is_the_same_as_among_others(standard):
    for name in ("SCD", "MS_SSIM", "VIF"):
        alone = score(*scene(), (name,))
        assert alone[name] == pytest.approx(standard[name], rel=1e-12)


def test_every_metric_has_a_value_of_a_scene(standard):
    assert all(math.isfinite(standard[name]) for name in ALL)


def test_no_metric_asked_for():
    assert score(*scene(), ()) == {}


def test_an_unknown_metric():
    with pytest.raises(KeyError):
        score(*scene(), ("AG", "sharpness"))


def test_a_batch_equals_its_images_one_by_one():
    triples = [scene(0), noise(1, H, W), tuple(np.full((3, H, W), 9, np.uint8))]
    batch = [np.stack(images) for images in zip(*triples, strict=True)]
    together = score(*batch, ALL)
    for i, triple in enumerate(triples):
        alone = score(*triple, ALL)
        for name in ALL:
            assert together[name].shape == (3,) and together[name].dtype == np.float64
            np.testing.assert_allclose(
                together[name][i], alone[name], rtol=1e-11, atol=1e-12, err_msg=name
            )


def test_without_jit(monkeypatch):
    images = scene(0, 11, 12)
    want = score(*images, ("FMI_dct",))
    monkeypatch.setattr(fmi, "_TILES_AT_ONCE", 1)  # all that such an image fills
    with jax.disable_jit():
        got = score(*images, ("FMI_dct",))
    assert got["FMI_dct"] == pytest.approx(want["FMI_dct"], rel=1e-11)


def test_views_and_read_only_images(standard):
    images = []
    for image in scene():
        wide = np.zeros((2 * H, W + 4), np.uint8)
        wide[::2, 4:] = image
        images.append(wide[::2, 4:])
        images[-1].flags.writeable = False
    values = score(*images, ALL)
    assert {name: float(values[name]) for name in ALL} == {
        name: float(standard[name]) for name in ALL
    }


def test_the_images_are_left_alone():
    images = scene()
    copies = [image.copy() for image in images]
    score(*images, ALL)
    for image, copy in zip(images, copies, strict=True):
        np.testing.assert_array_equal(image, copy)


def test_sixteen_bits_reduced_to_eight(standard):
    images = [to_8_bit(image.astype(np.uint16) * 257) for image in scene()]
    values = score(*images, ALL)
    assert all(values[name] == standard[name] for name in ALL)


# --- no value -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL if MIN_SIDES[name] > 1])
def test_smaller_than_the_smallest_side(name):
    side = MIN_SIDES[name]
    assert math.isfinite(score(*scene(0, side, side), (name,))[name])
    for shape in ((side - 1, side + 20), (side + 20, side - 1)):
        images = scene(0, *shape)
        value = score(*images, (name,))[name]
        assert np.isnan(value) and value.shape == () and value.dtype == np.float64
        batch = [np.stack([image] * 2) for image in images]
        assert np.isnan(score(*batch, (name,))[name]).tolist() == [True, True]


def test_the_others_keep_their_value_on_a_small_image():
    names = ("MS_SSIM", "AG", "VIF", "SSIM")
    values = score(*scene(0, 12, 60), names)
    missing = {name for name in names if np.isnan(values[name])}
    assert missing == {"MS_SSIM", "VIF"}
    assert tuple(values) == names


@pytest.mark.parametrize("name", [name for name in ALL if MIN_SIDES[name] == 1])
def test_a_single_pixel(name):
    pixels = [np.full((1, 1), level, np.uint8) for level in (7, 90, 30)]
    value = score(*pixels, (name,))[name]
    assert np.isnan(value) == (name in ("SCD", "CC"))


# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int64, bool])
@pytest.mark.parametrize("place", range(3))
def test_other_types(dtype, place):
    images = list(scene(0, 8, 9))
    images[place] = images[place].astype(dtype)
    with pytest.raises(TypeError, match="uint8"):
        score(*images)


@pytest.mark.parametrize(
    "shapes",
    [
        [(8, 9), (8, 9), (9, 8)],
        [(8, 9), (8, 10), (8, 9)],
        [(1, 9), (8, 9), (8, 9)],
        [(2, 8, 9), (8, 9), (8, 9)],
        [(2, 8, 9), (1, 8, 9), (2, 8, 9)],
        [(9,)] * 3,
        [(1, 8, 9, 1)] * 3,
        [()] * 3,
    ],
)
def test_other_shapes(shapes):
    images = [np.zeros(shape, np.uint8) for shape in shapes]
    with pytest.raises(ValueError, match=r"size|shape"):
        score(*images)


# --- where and how it runs ----------------------------------------------------------


def test_x64_stays_off_elsewhere():
    score(*scene(), ALL)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32
    assert (jnp.arange(3) * 1.5).dtype == jnp.float32


def test_runs_where_x64_is_on_already(standard):
    with jax.enable_x64(True):
        values = score(*scene(), ALL)
    assert all(values[name] == standard[name] for name in ALL)


def test_runs_on_the_first_cpu_device_whatever_the_default_is(standard):
    names = ("SCD", "MS_SSIM", "SSIM")
    with jax.default_device(jax.devices()[3]):
        values = score(*scene(), names)
    for name in names:
        assert values[name] == pytest.approx(standard[name], rel=1e-12)


def test_threads_give_what_one_thread_gives():
    tasks = [(kind(seed, H, W), ALL) for seed in range(4) for kind in (scene, noise)]
    tasks += [(scene(n, 12 + n // 2, 60), ("SCD", "AG", "SSIM")) for n in range(4)]

    def run(task):
        # Another thread's float64 must not show here.
        assert jnp.ones(1).dtype == jnp.float32
        images, names = task
        values = score(*images, names)
        assert jnp.ones(1).dtype == jnp.float32
        return [float(value) for value in values.values()]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, tasks))
    for got, task in zip(together, tasks, strict=True):
        np.testing.assert_array_equal(got, run(task))


def test_no_metric_compiles_anything_for_a_size(caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        jax.clear_caches()
        score(*scene(0, 50, 60), ALL)  # FMI's tiles, once
        assert "Compiling" in caplog.text
        caplog.clear()
        for height, width in ((44, 47), (61, 45), (130, 70)):
            score(*scene(1, height, width), ALL)
    assert "Compiling" not in caplog.text
