"""Large images that are enlarged in strips of rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models import strips
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import FusionPart, Student
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.runtime import sharding

TINY = PRESETS["tiny"]
W = 7


@functools.cache
def params(scale):
    return ref.random_params(param_shapes(Student(TINY, scale)), 3)


def images(height, number=1):
    pair = np.random.default_rng(height).random((2, number, height, W, 1), np.float32)
    return tuple(map(jnp.asarray, pair))


def strips_of(monkeypatch, rows, scale, number=1):
    """Makes strips of about so many rows."""
    row = 4 * TINY.width * scale**2 * number * W
    monkeypatch.setattr(strips, "STRIP_BYTES", rows * row)


def run(network, *arguments):
    return jax.jit(network.apply)({"params": params(network.scale)}, *arguments)


def loops(network, *pair):
    """How many loops a network has."""
    apply = functools.partial(network.apply, {"params": params(network.scale)})
    return str(jax.make_jaxpr(apply)(*pair)).count(" scan[")


# 33 rows are three strips of 11; of 34 and 40 the last strips share some rows.  At x2
# the DFAB's widest features, three times as many channels, are larger than a strip too.
# In the last case all features are large, and what waits for others does so.
@pytest.mark.parametrize(
    ("scale", "height", "rows", "added"),
    [(2, 33, 16, 2), (3, 34, 16, 1), (4, 40, 16, 1), (4, 41, 21, 1), (2, 33, 0, 2)],
)
def test_an_image_in_strips_is_the_image(monkeypatch, scale, height, rows, added):
    strips_of(monkeypatch, rows, scale)
    network = Student(dataclasses.replace(TINY, global_skip=True), scale)
    parted = network.clone(in_strips=True)
    pair = images(height)
    assert loops(parted, *pair) == loops(network, *pair) + added
    want, features = run(network, *pair)
    got, fewer = run(parted, *pair)
    assert set(features) - set(fewer) == {"upsampled", "tail"}
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_images_of_other_sizes_than_their_arrays_in_strips(monkeypatch):
    strips_of(monkeypatch, 16, 2, number=3)
    network = Student(TINY, 2)
    # The first fills its array, the second ends within a strip, the third before one.
    extent = Extent(jnp.array([40, 31, 9]), jnp.array([W, 5, 6]))
    pair = images(40, number=3)
    got = run(network.clone(in_strips=True), *pair, extent)[0]
    want = run(network, *pair, extent)[0]
    inside = extent.scaled(2).inside(want)
    np.testing.assert_allclose(
        jnp.where(inside, got, 0),
        jnp.where(inside, want, 0),
        rtol=0,
        atol=1e-6 * np.abs(want).max(),
    )


def test_bfloat16_in_strips(monkeypatch):
    strips_of(monkeypatch, 16, 2)
    network = Student(TINY, 2, jnp.bfloat16)
    pair = images(40)

    exact = run(Student(TINY, 2), *pair)[0]
    whole, parted = (
        float(jnp.sqrt(jnp.mean((run(one, *pair)[0] - exact) ** 2)))
        for one in (network, network.clone(in_strips=True))
    )
    # The compiler rounds in other places, but no more often.
    assert 0 < parted < 1.1 * whole


def test_a_small_image_is_one_strip():
    network = Student(TINY, 2, in_strips=True)
    assert loops(network, *images(40)) == loops(Student(TINY, 2), *images(40))


@pytest.mark.parametrize("axis", [sharding.DATA, sharding.HEIGHT])
def test_rows_of_several_devices_are_not_cut(monkeypatch, axis):
    strips_of(monkeypatch, 16, 2)
    mesh = sharding.mesh_over(jax.devices(), axis)
    network = Student(TINY, 2)
    forward = functools.partial(call.forward, network, params(2))
    jaxpr = jax.make_jaxpr(sharding.on_mesh(forward, mesh))(*images(40, number=4))
    added = str(jaxpr).count(" scan[") - loops(network, *images(40))
    assert added == 2 * (axis == sharding.DATA)


def test_branches_take_turns_with_large_images_only(monkeypatch):
    strips_of(monkeypatch, 16, 2)
    part = FusionPart(TINY, in_strips=True)

    def barriers(height):
        apply = functools.partial(part.apply, {"params": params(2)["fusion"]})
        return str(jax.make_jaxpr(apply)(*images(height))).count("population_count")

    # The branches have the features of the small image, a strip those of the large one.
    # Two barriers are for the two results of the DFAB's strips; of large images another
    # is for the second branch, and one for what the modules of CEA read.
    assert (barriers(60), barriers(80)) == (2, 4)
