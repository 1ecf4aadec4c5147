"""The student with a continuous upsampler: any factor, by loops over pixels."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from command_fixtures import TINIEST

from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models import strips
from hkdnet_jax.models.blocks import ContinuousUpsampler
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.ops.places import Places, Window, enlarged, in_units

CONFIG = dataclasses.replace(TINIEST, upsampler="continuous")
C = CONFIG.width
H, W = 11, 9


@functools.cache
def params():
    return ref.random_params(param_shapes(Student(CONFIG, 2)), 3)


@functools.cache
def images(height=H, width=W, number=2):
    rng = np.random.default_rng(height)
    pair = rng.random((2, number, height, width, 1), np.float32)
    return tuple(map(jnp.asarray, pair))


@functools.cache
def whole(scale, height=H, width=W):
    network = Student(CONFIG, scale)
    run = jax.jit(network.apply)
    return jax.device_get(run({"params": params()}, *images(height, width)))


def mixture(p, centre, scale):
    """Weights of the four filters at a centre, counted in small pixels."""
    phase = centre % 1 - 0.5
    hat = np.interp(4 * (phase + 0.5) - 0.5, np.arange(4), np.arange(4))
    linear = np.maximum(0, 1 - np.abs(hat - np.arange(4)))
    hidden = ref.relu(ref.dense(p["hidden"], np.array([2 * phase, 2 / scale - 1])))
    return linear + ref.dense(p["weights"], hidden)


def enlarge(p, x, scale):
    """The upsampler by the definition, pixel by pixel."""
    z = ref.conv(p["filters"], x).reshape(*x.shape[:3], 4, 4, x.shape[3])
    sides = [int(np.ceil(scale * side - 0.5)) for side in x.shape[1:3]]
    out = np.zeros((len(x), *sides, x.shape[3]))
    for i in range(sides[0]):
        for j in range(sides[1]):
            at = [(k + 0.5) / scale for k in (i, j)]
            weights = [
                mixture(p[k], a, scale)
                for k, a in zip(("rows", "columns"), at, strict=True)
            ]
            nearest = z[:, int(at[0]), int(at[1])]
            out[:, i, j] = np.einsum("a,b,nabc->nc", *weights, nearest)
    return out


@pytest.mark.parametrize("scale", [1.5, 2.6667, 3])
def test_against_loops(scale):
    image, out = whole(scale)
    want, parts = ref.student(params(), *images(), CONFIG, scale, enlarge)
    assert image.shape == (2, enlarged(H, scale), enlarged(W, scale), 1)
    for got, value in ((out["upsampled"], parts["upsampled"]), (image, want)):
        assert np.abs(got - value).max() < 2e-4 * np.abs(value).max()


def test_sides_are_rounded_and_every_centre_is_inside():
    assert [enlarged(5, s) for s in (2, 1.5, 2.5, 3.9)] == [10, 7, 12, 19]
    assert enlarged(640, 1080 / 640) == 1080 and enlarged(480, 4 / 3) == 640
    sides = np.arange(8, 700, dtype=np.int32)
    for scale in np.random.default_rng(0).uniform(1.5, 4, 40).round(4):
        large = enlarged(sides, float(scale))
        assert np.abs(large - sides * scale).max() <= 0.5 + 1e-9
        assert np.all((large - 0.5) / scale < sides)
        traced = jax.jit(lambda x, s=float(scale): enlarged(x, s))(sides)
        np.testing.assert_array_equal(traced, large)
    places = Places.of(0, 200_00, 5000, in_units(4))
    np.testing.assert_array_equal(places.nearest, np.arange(20_000) // 4)
    np.testing.assert_allclose(places.phase, np.tile([-3, -1, 1, 3], 5000) / 8)


def test_at_factor_4_it_starts_as_sub_pixel_convolution():
    x = np.random.default_rng(0).normal(size=(1, 5, 4, 3)).astype(np.float32)
    places = [Places.of(0, 4 * side, side, in_units(4)) for side in x.shape[1:3]]
    layer = ContinuousUpsampler()
    args = jnp.asarray(x), *places, in_units(4)

    @jax.jit
    def at_start():
        start = layer.init(jax.random.key(0), *args)
        return layer.apply(start, *args), start["params"]["filters"]

    got, filters = at_start()
    want = ref.pixel_shuffle(ref.conv(filters, x), 4)
    np.testing.assert_allclose(got, want, atol=1e-5)


# Of 11 rows and of 40, in strips of which the last one shares rows.
@pytest.mark.parametrize(("height", "scale"), [(40, 2.5), (43, 1.5), (40, 4)])
def test_in_strips(monkeypatch, height, scale):
    row = 4 * C * 16 * scale * W * 2
    monkeypatch.setattr(strips, "STRIP_BYTES", 16 * row)
    network = Student(CONFIG, scale, in_strips=True)
    run = functools.partial(network.apply, {"params": params()})
    assert " scan[" in str(jax.make_jaxpr(run)(*images(height)))
    got, features = jax.jit(run)(*images(height))
    assert "upsampled" not in features
    want = whole(scale, height)[0]
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("cut", [False, True])
def test_images_that_do_not_fill_their_arrays(monkeypatch, cut):
    if cut:
        monkeypatch.setattr(strips, "STRIP_BYTES", 1)
    scale, sizes = 2.5, ((H, W), (37, W - 2))
    extent = Extent(*np.array(sizes, np.int32).T)
    ir, vis = (x.at[0, H:].set(0.5) for x in images(40))
    network = Student(CONFIG, scale, in_strips=cut)
    run = jax.jit(network.apply)
    got, _ = run({"params": params()}, ir, vis, extent)
    for i, (h, w) in enumerate(sizes):
        own = [x[i : i + 1, :h, :w] for x in (ir, vis)]
        want, _ = jax.jit(Student(CONFIG, scale).apply)({"params": params()}, *own)
        part = got[i : i + 1, : enlarged(h, scale), : enlarged(w, scale)]
        np.testing.assert_allclose(part, want, atol=3e-6 * np.abs(want).max())


def test_a_window_is_a_part_of_the_whole():
    image, out = whole(2.5)
    run = jax.jit(
        lambda top, left, units: Student(CONFIG, 2).apply(
            {"params": params()}, *images(), window=Window(top, left, 10, units)
        )
    )
    for top, left in ((0, 0), (5, 3), (enlarged(H, 2.5) - 10, enlarged(W, 2.5) - 10)):
        part, features = run(top, left, in_units(2.5))
        of = np.s_[:, top : top + 10, left : left + 10]
        for got, want in (
            (part, image),
            (features["tail"], out["tail"]),
            (features["upsampled"], out["upsampled"]),
        ):
            np.testing.assert_allclose(
                got, want[of], atol=2e-6 * np.abs(want).max(), rtol=0
            )


def test_every_parameter_has_a_gradient():
    def loss(p):
        network = Student(CONFIG, 2)
        window = Window(2, 1, 12, in_units(2.5))
        return jnp.sum(network.apply({"params": p}, *images(), window=window)[0] ** 2)

    gradients = jax.jit(jax.grad(loss))(params())
    moved = [np.any(leaf) for leaf in jax.tree.leaves(gradients["sr"]["upsampler"])]
    assert all(moved) and len(moved) == 10
