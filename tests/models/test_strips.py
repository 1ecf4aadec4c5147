"""Large images that are enlarged in strips of rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from command_fixtures import TINIEST

from hkdnet_jax.model_files import call
from hkdnet_jax.models import super_resolution
from hkdnet_jax.models.student import FusionPart, Student
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.runtime import sharding

W = 7


@functools.cache
def params(scale):
    x = jnp.zeros((1, 4, 4, 1))
    shapes = jax.eval_shape(Student(TINIEST, scale).init, jax.random.key(0), x, x)
    return ref.random_params(shapes["params"], 3)


def images(height, number=1):
    pair = np.random.default_rng(height).random((2, number, height, W, 1), np.float32)
    return tuple(map(jnp.asarray, pair))


def strips_of(monkeypatch, rows, scale, number=1):
    """Makes strips of about so many rows."""
    row = 4 * TINIEST.width * scale**2 * number * W
    monkeypatch.setattr(super_resolution, "STRIP_BYTES", rows * row)


def run(network, *arguments):
    return jax.jit(network.apply)({"params": params(network.scale)}, *arguments)


def loops(network, *pair):
    """How many more loops the strips add to a network's own."""
    apply = functools.partial(network.apply, {"params": params(network.scale)})
    return str(jax.make_jaxpr(apply)(*pair)).count(" scan[")


# 33 rows are three strips of 11; of 34 and 40 the last strips share some rows.
@pytest.mark.parametrize(
    ("scale", "height", "rows"), [(2, 33, 16), (3, 34, 16), (4, 40, 16), (4, 41, 21)]
)
def test_an_image_in_strips_is_the_image(monkeypatch, scale, height, rows):
    strips_of(monkeypatch, rows, scale)
    network = Student(TINIEST, scale)
    parted = network.clone(in_strips=True)
    pair = images(height)
    assert loops(parted, *pair) == loops(network, *pair) + 1
    want, features = run(network, *pair)
    got, fewer = run(parted, *pair)
    assert set(features) - set(fewer) == {"upsampled", "tail"}
    assert got.shape == want.shape and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_images_of_other_sizes_than_their_arrays_in_strips(monkeypatch):
    strips_of(monkeypatch, 16, 2, number=3)
    network = Student(TINIEST, 2)
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
    network = Student(TINIEST, 2, jnp.bfloat16)
    pair = images(40)

    exact = run(Student(TINIEST, 2), *pair)[0]
    whole, parted = (
        float(jnp.sqrt(jnp.mean((run(one, *pair)[0] - exact) ** 2)))
        for one in (network, network.clone(in_strips=True))
    )
    # The compiler rounds in other places, but no more often.
    assert 0 < parted < 1.1 * whole


def test_a_small_image_is_one_strip():
    network = Student(TINIEST, 2, in_strips=True)
    assert loops(network, *images(40)) == loops(Student(TINIEST, 2), *images(40))


@pytest.mark.parametrize("axis", [sharding.DATA, sharding.HEIGHT])
def test_rows_of_several_devices_are_not_cut(monkeypatch, axis):
    strips_of(monkeypatch, 16, 2)
    mesh = sharding.mesh_over(jax.devices(), axis)
    network = Student(TINIEST, 2)
    forward = functools.partial(call.forward, network, params(2))
    jaxpr = jax.make_jaxpr(sharding.on_mesh(forward, mesh))(*images(40, number=4))
    added = str(jaxpr).count(" scan[") - loops(network, *images(40))
    assert added == (axis == sharding.DATA)


def test_branches_take_turns_with_large_images_only(monkeypatch):
    strips_of(monkeypatch, 16, 2)
    part = FusionPart(TINIEST, in_turns=True)

    def barriers(height):
        apply = functools.partial(part.apply, {"params": params(2)["fusion"]})
        return str(jax.make_jaxpr(apply)(*images(height))).count("population_count")

    # The branches have the features of the small image, a strip those of the large one.
    assert (barriers(60), barriers(80)) == (0, 1)
