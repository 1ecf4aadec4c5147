"""The data of the figures, and that each can be drawn."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import figures
from hkdnet_jax.measuring.networks import random_params
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher

ROWS = [
    {"step": 10, "train/loss": 3.0, "train/lr": 1e-3},
    {"step": 20, "train/loss": 2.0, "train/lr": 1e-3},
    {"step": 20, "val/psnr": 30.0, "val/MS_SSIM": None},
]


def drawn(figure):
    """The picture of a figure, uint8 [H, W, 3]."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_curves_of_a_run(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    curves = figures.run_curves(tmp_path)
    assert curves.keys() == {"train/loss", "train/lr", "val/psnr", "val/MS_SSIM"}
    steps, values = curves["train/loss"]
    assert list(steps) == [10, 20] and list(values) == [3.0, 2.0]
    assert len(curves["val/MS_SSIM"][0]) == 0
    groups = [["train/loss"], ["val/psnr", "val/ssim"], ["nothing"]]
    picture = drawn(figures.draw_curves(curves, groups))
    assert picture.shape[1] == 700 and picture.min() < 100  # 3.5 inches of 200 dots


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        figures.run_curves(tmp_path)


def _model(**fields):
    import dataclasses

    config = dataclasses.replace(PRESETS["tiny"], **fields)
    network = Student(config, 2)
    image = np.zeros((1, 16, 16, 1), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]
    return Model(network, random_params(shapes), 2)


def _pair(h=18, w=20):
    return np.random.default_rng(0).integers(0, 256, (2, h, w), np.uint8)


def test_heat_maps_show_what_each_module_adds():
    ir, vis = _pair()
    model = _model()
    maps = figures.heat_maps(model, ir, vis)
    assert set(maps) == {"DFAG", "corner", "position", "channel", "corner mask"}
    for values in maps.values():
        assert values.shape == (18, 20) and np.all(values >= 0) and np.any(values > 0)
    assert np.all(maps["corner mask"] <= 1)
    # A corner term is beta B M: it is 0 wherever no channel has a corner.
    assert np.all(maps["corner"][maps["corner mask"] == 0] == 0)
    # With every scale at 0, no module adds anything.
    still = jax.tree_util.tree_map_with_path(
        lambda path, x: 0 * x if path[-1].key in ("delta", "beta") else x, model.params
    )
    maps = figures.heat_maps(Model(model.network, still, 2), ir, vis)
    assert not np.any(maps["DFAG"]) and not np.any(maps["corner"])
    picture = drawn(figures.draw_maps(ir, vis, maps))
    assert picture.shape[1] > 5 * picture.shape[0]


def test_heat_maps_of_a_network_without_a_module_lack_it():
    assert set(figures.heat_maps(_model(cea=False), *_pair())) == {"DFAG"}
    assert "DFAG" not in figures.heat_maps(_model(dfag=False), *_pair())
    with pytest.raises(UserError, match="need a student"):
        figures.heat_maps(Model(Teacher(), {}, 1), *_pair())


def test_the_values_of_a_sweep():
    results = [
        {"variant": f"alpha = {a}", "val": {"CC": v, "SCD": None}, "test": {}}
        for a, v in ((0.5, 1.0), (0.1, 2.0), (0.5, 3.0))
    ]
    at, values = figures.sweep_values(results, "val")["CC"]
    assert list(at) == [0.1, 0.5] and list(values) == [2.0, 2.0]
    with pytest.raises(UserError, match="no results of test pairs"):
        figures.sweep_values(results, "test")
    with pytest.raises(UserError, match="is no value of a number"):
        figures.sweep_values([{"variant": "baseline", "val": {}}], "val")
