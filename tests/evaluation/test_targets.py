"""The kept contrast of hot targets, where it is known and on made scenes."""

import numpy as np
import pytest

from data_pipelines.scenes import Scene, render_scene
from hkdnet_jax.evaluation import targets


def made(ir_levels, vis_levels, mood="smoke") -> Scene:
    """A scene with a person of 8x16 pixels; levels of the person and of the rest."""
    numbers = np.zeros((64, 64), np.int16)
    numbers[20:36, 28:36] = 1
    images = [
        np.where(numbers > 0, inside, outside).astype(np.uint8)
        for inside, outside in (ir_levels, vis_levels)
    ]
    return Scene(*images, numbers, mood)


def average(ir, vis):
    return np.uint8((ir.astype(int) + vis) // 2)


def test_kept_contrast_is_a_share_of_the_clearer_source():
    scene = made((200, 100), (140, 120))
    [(mask, near)] = targets.hot_targets(scene)
    kept = targets.kept_contrast(scene.ir, scene.vis, scene.ir, mask, near)
    assert kept == pytest.approx(1.0)
    # (100 + 20) / 2 of 100.
    fused = average(scene.ir, scene.vis)
    kept = targets.kept_contrast(scene.ir, scene.vis, fused, mask, near)
    assert kept == pytest.approx(0.6)


def test_a_dark_person_in_the_visible_image_counts_by_its_magnitude():
    scene = made((180, 100), (20, 220))
    [(mask, near)] = targets.hot_targets(scene)
    kept = targets.kept_contrast(scene.ir, scene.vis, scene.vis, mask, near)
    assert kept == pytest.approx(1.0)
    kept = targets.kept_contrast(scene.ir, scene.vis, scene.ir, mask, near)
    assert kept == pytest.approx(80 / 200)


def test_the_rim_and_other_targets_are_no_surroundings():
    scene = made((200, 100), (100, 100))
    scene.targets[20:36, 38:46] = 2
    (mask, near), _ = targets.hot_targets(
        Scene(np.where(scene.targets > 0, 200, 100), *(scene.vis, scene.targets, "day"))
    )
    assert not near[19, 28] and not near[25, 37] and near[18, 30]
    assert not near[20:36, 38:46].any() and not (mask & near).any()


def test_cold_and_small_targets_are_left_out():
    assert not list(targets.hot_targets(made((108, 100), (200, 100))))
    small = made((200, 100), (100, 100))
    small.targets[21:] = 0
    assert not list(targets.hot_targets(small))


def test_measure_groups_by_mood_and_glare():
    scenes = [
        made((200, 100), (140, 140)),
        made((200, 100), (100, 100)),
        made((200, 100), (250, 250), "night"),
    ]
    found = targets.measure(scenes, average)
    assert list(found) == ["glare", "smoke"]
    assert [len(x) for x in found.values()] == [1, 2]
    for values in found.values():
        np.testing.assert_allclose(values, 0.5, atol=0.01)


def test_made_scenes_know_their_targets():
    """A plain maximum keeps more of them than the average, and the infrared most."""
    scenes = [render_scene(77, index, 128, 160) for index in range(12)]
    kept = [
        np.concatenate(list(targets.measure(scenes, fuse).values()))
        for fuse in (average, np.maximum, lambda ir, vis: ir)
    ]
    assert len(kept[0]) >= 8
    means = [values.mean() for values in kept]
    assert means[0] < 0.6 < 0.65 < means[1] < means[2] <= 1
