"""Cen: parameters by hand, its kernels by loops, and windows of any factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hkdnet_jax.baselines import cen, registry, training
from hkdnet_jax.baselines.cen import Cen, MetaLayer
from hkdnet_jax.baselines.weights import Weights, shapes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format


def made(tree, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), dict(tree)
    )


@pytest.fixture(scope="module")
def small():
    """A network of one block with random weights."""
    network = Cen(blocks=1)
    return network, made(shapes(network, inputs=2))


def conv(inputs, outputs, size):
    return size**2 * inputs * outputs + outputs


def test_parameters():
    block = conv(64, 32, 3) + conv(32, 32, 1) + conv(32, 32, 3) + 1
    block += conv(32, 32, 5) + conv(32, 32, 3) + 1 + conv(224, 64, 1)
    block += sum(conv(32 * i, 32, 3) + conv(32, 32, 3) + 1 for i in range(1, 5))
    meta = 3 * 256 + 256 + 256 * 576 + 576
    fusion = conv(24, 8, 1) + conv(16, 8, 1) + conv(2, 4, 3) + conv(4, 4, 3)
    ends = conv(1, 64, 3) + conv(64, 8, 1) + conv(8, 1, 3)
    leaves = jax.tree.leaves(shapes(Cen(), inputs=2))
    by_hand = 6 * block + 2 * meta + fusion + ends
    assert sum(int(np.prod(x.shape)) for x in leaves) == by_hand < 2e6


def test_kernels_are_made_of_factor_and_place():
    layer, rng = MetaLayer(), np.random.default_rng(0)
    features = rng.normal(size=(2, 5, 6, 8)).astype(np.float32)
    rows, columns = np.array([0.0, 1.6, 4.2]), np.array([0.0, 0.4, 2.0, 5.6])
    args = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32), 0.4
    params = made(
        jax.eval_shape(layer.init, jax.random.key(0), features, *args)["params"]
    )
    got = layer.apply({"params": params}, features, *args)
    hidden, kernel = params["hidden"], params["kernel"]
    padded = np.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            x = np.array([0.4, row % 1, column % 1]) @ hidden["kernel"] + hidden["bias"]
            x = np.maximum(x, 0) @ kernel["kernel"] + kernel["bias"]
            top, left = int(row), int(column)
            window = padded[:, top : top + 3, left : left + 3].reshape(2, 72)
            want = window @ x.reshape(72, 8)
            np.testing.assert_allclose(got[:, r, c], want, atol=1e-4)


def test_a_window_is_a_part_of_the_whole(small, monkeypatch):
    network, params = small
    ir, vis = (
        np.random.default_rng(1).uniform(0, 1, (2, 1, 9, 10, 1)).astype(np.float32)
    )

    def run(rows, columns):
        return network.apply({"params": params}, ir, vis, rows, columns, 2.5)

    monkeypatch.setattr(cen, "_STEPS", 0)  # which see only the window
    whole = run(jnp.arange(22), jnp.arange(25))
    window = run(3 + jnp.arange(7), 11 + jnp.arange(5))
    for large, part in zip(whole, window, strict=True):
        # The last convolution sees the window's border.
        large, part = large[:, 4:9, 12:15], part[:, 1:-1, 1:-1]
        np.testing.assert_allclose(large, part, atol=1e-5 * np.abs(part).max())
    fused, one, other = whole
    assert np.abs(fused - one).max() > 1e-3 and np.abs(one - other).max() > 1e-3


def test_equal_sources_are_fused_to_one_whichever_comes_first(small):
    network, params = small
    ir, vis = (
        np.random.default_rng(2).uniform(0, 1, (2, 1, 9, 11, 1)).astype(np.float32)
    )
    run = jax.jit(lambda a, b: network.apply({"params": params}, a, b)[0])
    np.testing.assert_allclose(run(ir, vis), run(vis, ir), atol=1e-5)


def test_the_loss_compares_with_the_right_part(monkeypatch):
    """A network that samples a smooth image at the right place has nearly no loss."""
    y, x = np.mgrid[:96, :96] / 96
    image = jnp.asarray(0.5 + 0.4 * np.sin(4 * x + 2 * y), jnp.float32)[
        None, :, :, None
    ]

    class Bilinear:
        @staticmethod
        def apply(params, ir, vis, rows, columns, factor):
            del params, vis
            at = [(p + 0.5) / factor - 0.5 for p in (rows, columns)]
            at = [jnp.clip(p, 0, 23) for p in at]
            grid = jnp.meshgrid(*at, indexing="ij")
            plane = ir[0, :, :, 0]
            out = jax.scipy.ndimage.map_coordinates(plane, grid, 1)[None, :, :, None]
            return out, out, out

    for seed in range(4):
        loss, terms = cen.RECIPE.loss(Bilinear, {}, image, image, jax.random.key(seed))
        assert float(loss) < 4 * 0.012
        assert float(loss) == pytest.approx(float(terms["source"] + terms["fused"]))


def test_a_method_of_any_scale(small, tmp_path):
    network, params = small
    config = {"kind": "cen"} | training.attributes(network)
    file_format.save_model(tmp_path / "cen", config, params)
    method = registry.find("cen", Weights(tmp_path))
    ir, vis = np.random.default_rng(3).uniform(0, 1, (2, 10, 12)).astype(np.float32)
    assert method(ir, vis, 2.5).shape == (25, 30)
    assert method(ir, vis, 1).shape == (10, 12)
    with pytest.raises(UserError, match="cen cannot enlarge 5 times: give 1 to 4"):
        method(ir, vis, 5)
