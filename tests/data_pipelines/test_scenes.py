"""Procedural scenes: pure, any size, and with the statistics the project needs.

The bounds are wide around what real pairs show (RoadScene and TNO: gradient-magnitude
correlation of IR and VIS from -0.02 to 0.45 per image, mean gradient 0.011 to 0.039).
"""

import copy

import numpy as np
import pytest
from PIL import Image

from data_pipelines import scene_painters as painters
from data_pipelines import scenes
from data_pipelines.scene_canvas import (
    SUPERSAMPLE,
    Light,
    _shrink,
    develop_infrared,
    develop_visible,
)

DEVELOP = develop_infrared, develop_visible


def unit(image):
    return image.astype(np.float64) / 255


def gradient(image):
    """Magnitude of central differences, interior only."""
    down, across = np.gradient(unit(image))
    return np.hypot(down, across)[1:-1, 1:-1]


def shrink(image, factor):
    """Average factor x factor blocks of a float image."""
    height, width = image.shape
    blocks = image.reshape(height // factor, factor, width // factor, factor)
    return blocks.mean((1, 3))


def fine(image):
    """What is lost by halving a float image: its detail at the pixel."""
    return image - np.kron(shrink(image, 2), np.ones((2, 2)))


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.fixture(scope="module")
def gallery():
    return [scenes.render(3, index, 128, 128) for index in range(20)]


def test_same_arguments_give_the_same_bits_in_any_order():
    first = {i: scenes.render(5, i, 48, 64) for i in (0, 1, 2)}
    np.random.seed(1)  # the global state must not matter
    state = np.random.get_state()[1].copy()
    for i in (2, 0, 1):
        for a, b in zip(first[i], scenes.render(5, i, 48, 64), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # nor be touched


def test_results_do_not_share_memory_between_calls():
    ir, vis = scenes.render(5, 0, 32, 32)
    kept = ir.copy(), vis.copy()
    ir[:], vis[:] = 0, 0
    for a, b in zip(kept, scenes.render(5, 0, 32, 32), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_index_or_seed_is_another_scene():
    # Distinct even where seed and index add up to, or concatenate to, the same.
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (11, 1), (1, 11)]
    images = [shrink(unit(scenes.render(s, i, 64, 64)[0]), 4) for s, i in keys]
    for a in range(len(keys)):
        for b in range(a):
            assert np.abs(images[a] - images[b]).mean() > 0.01, (keys[a], keys[b])


@pytest.mark.parametrize(
    "size", [(16, 16), (17, 33), (480, 640), (16, 200), (200, 16), (31, 64)]
)
def test_every_size_gives_uint8_images_that_are_not_flat(size):
    for index in range(1 if size == (480, 640) else 4):
        for image in scenes.render(0, index, *size):
            assert image.shape == size
            assert image.dtype == np.uint8
            assert image.std() > 3


def test_numpy_integers_are_accepted():
    a = scenes.render(np.int64(1), np.uint8(2), np.int32(20), np.int16(24))
    np.testing.assert_array_equal(a[0], scenes.render(1, 2, 20, 24)[0])


def test_another_size_shows_the_same_scene():
    scores = []
    for index in range(6):
        small, large = (scenes.render(1, index, n, n) for n in (64, 192))
        scores += [
            correlation(a, shrink(unit(b), 3))
            for a, b in zip(small, large, strict=True)
        ]
    assert np.median(scores) > 0.95
    assert min(scores) > 0.8


def test_neither_modality_is_flat_and_the_range_is_used(gallery):
    for kind, name in enumerate(("ir", "vis")):
        images = [unit(pair[kind]) for pair in gallery]
        deviations = np.array([image.std() for image in images])
        assert deviations.min() > 0.03, name  # the darkest nights too
        assert 0.1 < np.median(deviations) < 0.3, name
        assert 0.2 < np.median([image.mean() for image in images]) < 0.7, name
        spans = [np.ptp(np.percentile(image, [1, 99])) for image in images]
        assert np.median(spans) > 0.5, name
        saturated = [((image == 0) | (image == 1)).mean() for image in images]
        assert np.median(saturated) < 0.1, name


def test_scenes_have_bright_days_and_dark_nights(gallery):
    means = np.array([unit(vis).mean() for _, vis in gallery])
    assert means.max() - means.min() > 0.2


def test_edges_are_correlated_but_not_identical(gallery):
    scores = np.array([correlation(*map(gradient, pair)) for pair in gallery])
    assert 0.15 < np.median(scores) < 0.65
    assert scores.min() > 0.0
    assert scores.max() < 0.9


def test_each_modality_has_edges_of_its_own(gallery):
    for mine, other in ((0, 1), (1, 0)):
        shares = []
        for pair in gallery:
            strong = gradient(pair[mine]) > np.percentile(gradient(pair[mine]), 90)
            weak = gradient(pair[other]) < np.percentile(gradient(pair[other]), 60)
            shares.append((strong & weak).sum() / strong.sum())
        assert np.median(shares) > 0.1


def test_hot_targets_are_bright_in_ir_only(gallery):
    shares = []
    for ir, vis in gallery:
        hot = ir > np.percentile(ir, 97)
        dull = vis < vis.mean() + vis.std()
        shares.append((hot & dull).mean())
        # They stand out from the scene, not merely from the noise.
        assert unit(ir)[hot].mean() > unit(ir).mean() + 0.15
    assert np.median(shares) > 0.01


def test_there_is_detail_down_to_the_pixel(gallery):
    for kind in (0, 1):
        lost, strength = [], []
        for pair in gallery:
            lost.append(np.abs(fine(unit(pair[kind]))).mean())
            strength.append(gradient(pair[kind]).mean())
        assert np.median(lost) > 0.006  # sensor noise alone would be about 0.004
        assert 0.01 < np.median(strength) < 0.06


def test_pixel_detail_is_scene_not_noise():
    # A render of twice the size knows the detail that this size shows.
    scores = []
    for index in range(4):
        for a, b in zip(
            scenes.render(2, index, 96, 96),
            scenes.render(2, index, 192, 192),
            strict=True,
        ):
            scores.append(correlation(fine(unit(a)), fine(shrink(unit(b), 2))))
    assert np.median(scores) > 0.6


@pytest.fixture
def canvas():
    """A gray world by daylight, temperature 0.4 and reflectance 0.3 everywhere."""
    c = scenes._canvas(np.random.default_rng(0), 48, 48)
    c.mood = scenes.MOODS["day"]
    c.ir[:], c.vis[:], c.depth[:] = 0.4, 0.3, 10.0
    return c


def test_a_person_is_hot(canvas):
    painters.person(canvas, np.random.default_rng(1), 6.0, 0.0)
    body = canvas.depth == 6.0
    assert 0.01 < body.mean() < 0.3
    assert np.median(canvas.ir[body]) > 0.6


def test_glass_hides_a_person_from_ir_but_not_from_vis(canvas):
    plain = canvas.vis.copy()
    painters.shelter(canvas, np.random.default_rng(1), 6.0, 0.0)
    seen = np.abs(canvas.vis - plain) > 0.05
    inside = seen[18:, 30:66]
    assert inside.mean() > 0.05
    head_to_knee = canvas.ir[:, 36:60][canvas.y[:, 0] < canvas.project(0, 0.3, 6)[1]]
    assert head_to_knee.max() < 0.6


def test_smoke_hides_from_vis_what_ir_still_sees(canvas):
    empty = copy.deepcopy(canvas)
    painters.person(canvas, np.random.default_rng(1), 8.0, 0.0)
    before = abs(canvas.ir - empty.ir).sum(), abs(canvas.vis - empty.vis).sum()
    for c in (canvas, empty):
        rng = np.random.default_rng(2)
        painters.smoke(c, rng, 6.0, 0.0, -1.0, 2.0, 0.0, 0.95)
    after = abs(canvas.ir - empty.ir).sum(), abs(canvas.vis - empty.vis).sum()
    assert after[0] > 0.85 * before[0]
    assert after[1] < 0.4 * before[1]


def test_a_lamp_lights_and_blinds_the_visible_camera_only():
    images = []
    for lights in ([], [Light(0.0, 0.5, 0.8, 0.1, 1.0)]):
        c = scenes._canvas(np.random.default_rng(0), 48, 48)
        c.mood = scenes.MOODS["night"]
        c.ir[:], c.vis[:], c.lights = 0.4, 0.3, lights
        images.append([f(c, np.random.default_rng(3)) for f in DEVELOP])
    (ir_dark, vis_dark), (ir_lit, vis_lit) = images
    np.testing.assert_array_equal(ir_dark, ir_lit)
    assert vis_lit[24, 24] > 0.9  # the lamp itself
    assert vis_lit[24, 24] > vis_lit[4, 4] + 0.3
    assert abs(vis_dark[24, 24] - vis_dark[4, 4]) < 0.2


def test_haze_hides_the_distance_from_vis_more_than_from_ir():
    c = scenes._canvas(np.random.default_rng(0), 48, 48)
    c.mood = scenes.MOODS["fog"]
    stripes = np.where(np.arange(96) // 8 % 2, 0.6, 0.2).astype(np.float32)
    c.ir[:], c.vis[:] = stripes, stripes
    c.depth[:48], c.depth[48:] = 90.0, 5.0
    ratios = []
    for develop in DEVELOP:
        image = develop(c, np.random.default_rng(3))
        ratios.append(image[:24].mean(0).std() / image[24:].mean(0).std())
    assert ratios[0] > 0.7
    assert ratios[1] < 0.3


def test_supersampling_averages_blocks():
    layer = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    expected = [
        [layer[i : i + SUPERSAMPLE, j : j + SUPERSAMPLE].mean() for j in range(0, 8, 2)]
        for i in range(0, 6, 2)
    ]
    np.testing.assert_allclose(_shrink(layer), expected, rtol=1e-6)


def test_write_pairs_round_trip(tmp_path):
    pairs = scenes.write_pairs(tmp_path / "new", 7, 3, 2, 24, 40)
    assert [pair.name for pair in pairs] == ["scene_0003", "scene_0004"]
    for index, pair in zip((3, 4), pairs, strict=True):
        assert pair.ir == tmp_path / "new" / "ir" / f"scene_000{index}.png"
        assert pair.vis == tmp_path / "new" / "vis" / f"scene_000{index}.png"
        for path, image in zip(
            (pair.ir, pair.vis), scenes.render(7, index, 24, 40), strict=True
        ):
            with Image.open(path) as stored:
                assert stored.mode == "L"
                np.testing.assert_array_equal(np.asarray(stored), image)
    assert len(list(tmp_path.rglob("*.*"))) == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((-1, 0, 32, 32), "-1"),
        ((0, -2, 32, 32), "-2"),
        ((0, 0, 15, 32), "15x32"),
        ((0, 0, 32, 0), "32x0"),
    ],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        scenes.render(*arguments)


def test_a_fractional_size_is_refused():
    with pytest.raises(TypeError):
        scenes.render(0, 0, 32.5, 32)


@pytest.mark.parametrize(
    ("start", "count", "size"), [(0, 0, 32), (0, -1, 32), (-1, 1, 32), (0, 1, 8)]
)
def test_write_pairs_refuses_bad_arguments_and_writes_nothing(
    tmp_path, start, count, size
):
    with pytest.raises(ValueError):
        scenes.write_pairs(tmp_path / "x", 0, start, count, size, size)
    assert not (tmp_path / "x").exists()


def test_targets_are_the_warm_people_and_vehicles():
    found = [scenes.render_scene(4, index, 96, 128) for index in range(8)]
    for index, scene in enumerate(found):
        np.testing.assert_array_equal(scene.ir, scenes.render(4, index, 96, 128)[0])
        np.testing.assert_array_equal(scene.vis, scenes.render(4, index, 96, 128)[1])
        assert scene.targets.shape == scene.ir.shape
        assert scene.targets.dtype == np.int16 and scene.targets.min() == 0
        assert scene.mood in scenes.MOODS
    inside = np.concatenate([s.ir[s.targets > 0] for s in found])
    outside = np.concatenate([s.ir[s.targets == 0] for s in found])
    assert len(inside) > 300
    assert inside.mean() > outside.mean() + 40


def test_smoke_leaves_a_target_and_glass_hides_it(canvas):
    painters.person(canvas, np.random.default_rng(0), 6.0, 0.0)
    whole = (canvas.targets == 1).sum()
    assert whole > 100
    painters.smoke(canvas, np.random.default_rng(0), 5.0, 0.0, 0.0, 1.5, 0.4, 0.95)
    assert (canvas.targets == 1).sum() == whole
    painters.front_wall(canvas, np.random.default_rng(0), 4.0, -30.0, 30.0, 20.0)
    assert not canvas.targets.any()
