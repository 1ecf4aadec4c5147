"""One pair of arrays: the network's numbers, levels, and arguments that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import H, W, make_pair, random_params
from fuse_fixtures import config_of, network_of, raw_output

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference import pair
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import call, file_format
from hkdnet_jax.model_files.call import NORMALIZE
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_equals_the_network_applied_directly(models, scale):
    model = Model.load(models[scale])
    ir, vis = make_pair()
    fused = fuse_pair(model, ir, vis)
    assert fused.shape == (scale * H, scale * W) and fused.dtype == np.uint8
    assert model.scale == scale
    raw = raw_output(models[scale], scale, ir / 255, vis / 255)
    np.testing.assert_array_equal(fused, arrays.to_uint8(raw))
    assert len(np.unique(fused)) > 20  # a picture, not a saturated plane


def test_roles_are_not_swapped(models):
    model = Model.load(models[1])
    ir, vis = make_pair()
    a, b = fuse_pair(model, ir, vis), fuse_pair(model, vis, ir)
    assert np.abs(a.astype(int) - b).max() > 5


def test_depths_of_the_same_content_agree(models):
    model = Model.load(models[2])
    ir, vis = make_pair()
    ir16, vis16 = (x.astype(np.uint16) * 257 for x in (ir, vis))
    for normalize in NORMALIZE:
        ranges = {"ir_range": "full", "vis_range": "full"}
        expected = fuse_pair(model, ir, vis, normalize=normalize)
        for a, b in ((ir16, vis16), (ir16, vis), (ir, vis16)):
            got = fuse_pair(model, a, b, normalize=normalize, **ranges)
            np.testing.assert_array_equal(got, expected)


def test_minmax_uses_each_image_own_range(models):
    model = Model.load(models[2])
    rng = np.random.default_rng(1)
    # Ranges that divide 255 resp. 65535, so that NumPy can stretch them in integers.
    a = rng.integers(0, 51, (H, W), endpoint=True)
    b = rng.integers(0, 257, (H, W), endpoint=True)
    a.flat[:2], b.flat[:2] = (0, 51), (0, 257)
    ir, vis = (10 + a).astype(np.uint8), (700 + b).astype(np.uint16)
    full_ir, full_vis = (5 * a).astype(np.uint8), (255 * b).astype(np.uint16)
    expected = fuse_pair(model, full_ir, full_vis).astype(int)
    got = fuse_pair(model, ir, vis, normalize="minmax").astype(int)
    assert np.abs(got - expected).max() <= 1
    unit = fuse_pair(model, ir, vis, vis_range="full").astype(int)
    assert np.abs(unit - expected).max() > 30


def test_flat_inputs_are_fused(models):
    model = Model.load(models[2])
    flat = np.full((H, W), 77, np.uint8)
    black = np.zeros((H, W), np.uint8)
    got = fuse_pair(model, flat, flat, normalize="minmax")
    np.testing.assert_array_equal(got, fuse_pair(model, black, black))


@pytest.mark.parametrize("scale", [1, 2])
def test_stretch_maps_the_outputs_range(models, scale):
    model = Model.load(models[scale])
    ir, vis = make_pair()
    raw = np.asarray(raw_output(models[scale], scale, ir / 255, vis / 255), np.float64)
    expected = np.round((raw - raw.min()) / np.ptp(raw) * 255)
    got = fuse_pair(model, ir, vis, stretch=True)
    assert (got.min(), got.max()) == (0, 255)
    assert np.abs(got - expected).max() <= 1
    plain = fuse_pair(model, ir, vis)
    # One output has levels to spare; the other loses some by clipping unless stretched.
    assert np.ptp(plain) < 255 if scale == 1 else raw.min() < -0.1 or raw.max() > 1.1
    assert np.abs(plain - expected).max() > 5


def test_smallest_size_is_fused(models):
    smallest = np.zeros((MIN_SIDE, MIN_SIDE), np.uint8)
    fused = fuse_pair(Model.load(models[1]), smallest, smallest)
    assert fused.shape == smallest.shape


def test_weights_are_arguments_of_one_program_per_size(models, tmp_path):
    other = random_params(network_of(2), seed=99)
    file_format.save_model(tmp_path / "other", config_of(2), other)
    ir, vis = make_pair()
    a = fuse_pair(Model.load(models[2]), ir, vis)
    programs = call._forward._cache_size()
    model = Model.load(tmp_path / "other")
    b = fuse_pair(model, ir, vis)
    fuse_pair(model, ir.astype(np.uint16), vis, "minmax", stretch=True)
    assert call._forward._cache_size() == programs
    assert np.abs(a.astype(int) - b).max() > 5


def test_memory_that_really_runs_out():
    with (
        pytest.raises(UserError, match=r"a\.png is 5x4 pixels, .* memory"),
        pair.explain_out_of_memory("a.png", 4, 5),
    ):
        # 2^48 bytes: more than a process can address, so no system grants them.
        jax.jit(lambda x: jnp.broadcast_to(x, (2**24, 2**24)) + x)(jnp.uint8(1))
