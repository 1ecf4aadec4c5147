"""Heat maps and their drawing."""

import dataclasses

import jax
import numpy as np
import pytest
from figure_fixtures import drawn

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation.figures import maps as figures
from hkdnet_jax.evaluation.figures import style
from hkdnet_jax.measuring.networks import random_params
from hkdnet_jax.model_files.model import Model, param_shapes
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.models.teacher import Teacher


def _model(**fields):
    config = dataclasses.replace(PRESETS["tiny"], **fields)
    network = Student(config, 2)
    return Model(network, random_params(param_shapes(network)), 2)


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


def test_maps_are_drawn_over_the_pair():
    ir, vis = np.full((2, 40, 60), 128, np.uint8)
    maps = dict.fromkeys(("DFAG", "corner", "corner mask"), np.zeros((40, 60)))
    maps["DFAG"] = np.linspace(0, 1, 60)[None].repeat(40, 0)
    picture = drawn(figures.draw_maps(ir, vis, maps))
    # Five panels, of which only the second has colour.
    assert picture.shape[1] == round(style.PAGE * 200)
    colour = np.ptp(picture[: len(picture) // 2].astype(int), axis=2).max(axis=0) > 40
    quarter = len(colour) // 4
    assert colour[quarter : 2 * quarter].sum() > quarter / 2
    assert not colour[:quarter].any() and not colour[2 * quarter :].any()


def test_heat_maps_of_a_network_without_a_module_lack_it():
    assert set(figures.heat_maps(_model(cea=False), *_pair())) == {"DFAG"}
    assert "DFAG" not in figures.heat_maps(_model(dfag=False), *_pair())
    with pytest.raises(UserError, match="need a student"):
        figures.heat_maps(Model(Teacher(), {}, 1), *_pair())
