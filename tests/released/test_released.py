"""The released network against PyTorch and OpenCV, which it was released in."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import released_fixtures as fixtures
from scipy.special import softmax

from hkdnet_jax.common import trees
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops import position_attention as op
from hkdnet_jax.released import network
from hkdnet_jax.released.conversion import convert
from hkdnet_jax.released.network import (
    Released,
    channel_mixture,
    corner_map,
    fuse_features,
)

TOLERANCE = 5e-5  # relative L2; found: up to 1e-6 for features, 5e-6 for images


def features(h=9, w=11, c=3, seed=0, n=2):
    values = np.random.default_rng(seed).normal(size=(n, h, w, c))
    return jnp.asarray(values, jnp.float32)


def distance(got, want) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.linalg.norm(got - want) / np.linalg.norm(want)


def outputs(scale, image, out):
    """Our arrays under the golden files' names."""
    return {
        "encoder_i": out["branch_ir"],
        "encoder_v": out["branch_vis"],
        "fused": out["fused"],
        "decoder": out["decoded"],
        f"image{scale}": image,
        f"tail{scale}": out["tail"],
    }


# --- the whole network ----------------------------------------------------------


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_array_equals_pytorch_on_a_cpu(scale):
    # These vectors were computed with features that the corner map had overwritten
    # (see the README beside them).
    golden = fixtures.golden("vectors")
    params = convert(fixtures.tensors(scale), scale)
    run = jax.jit(Released(scale, corner_skip="map").apply)
    got = outputs(scale, *run({"params": params}, golden["ir"], golden["vis"]))
    for name, array in got.items():
        found = distance(fixtures.thin(name, array), golden[name])
        assert found < TOLERANCE, (name, found)


def test_every_array_equals_pytorch_on_a_gpu_and_no_corner_pixel_flips():
    golden = fixtures.golden("vectors") | fixtures.golden("intact")
    params = convert(fixtures.tensors(2), 2)

    @jax.jit
    def run(params, ir, vis):
        return Released(2).apply(
            {"params": params},
            ir,
            vis,
            capture_intermediates=lambda module, _: module.name == "corner_in",
            mutable=["intermediates"],
        )

    (image, out), kept = run(params, golden["ir"], golden["vis"])
    got = outputs(2, image, out)
    del got["tail2"]  # of the overwritten features only
    for name, array in got.items():
        found = distance(fixtures.thin(name, array), golden[name])
        assert found < TOLERANCE, (name, found)

    kept = kept["intermediates"]["fusion"]["vis"]["attention"]["corner_in"]
    x = np.maximum(np.asarray(kept["__call__"][0]), 0.0)
    flips = np.count_nonzero(np.asarray(corner_map(jnp.asarray(x))) != opencv_map(x))
    assert flips == 0, f"{flips} of {x.size} pixels of the corner map differ"


@pytest.mark.parametrize("scale,h,w", [(2, 8, 8), (3, 2, 5), (4, 9, 3)])
def test_any_size_gives_scale_times_it(scale, h, w):
    image = jax.ShapeDtypeStruct((1, h, w, 1), jnp.float32)
    got, out = jax.eval_shape(
        lambda a, b: Released(scale).init_with_output(jax.random.key(0), a, b)[0],
        image,
        image,
    )
    assert got.shape == (1, scale * h, scale * w, 1) and got.dtype == jnp.float32
    assert out["decoded"].shape == (1, h, w, 16)
    assert out["tail"].shape == (1, scale * h, scale * w, 16)


def test_images_of_a_batch_do_not_mix_and_jit_changes_nothing():
    params = convert(fixtures.tensors(2), 2)["fusion"]
    ir, vis = features(8, 9, 1, seed=1), features(8, 9, 1, seed=2)
    part = network.ReleasedFusionPart("feature")
    both, _ = jax.jit(part.apply)({"params": params}, ir, vis)
    alone, _ = part.apply({"params": params}, ir[1:], vis[1:])
    np.testing.assert_allclose(both[1:], alone, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_resolution_part_is_that_of_the_full_student(scale):
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)

    def sr_of(network):
        params = jax.eval_shape(network.init, jax.random.key(0), image, image)
        return params["params"]["sr"]

    trees.check_params(sr_of(Released(scale)), sr_of(Student(PRESETS["full"], scale)))


def test_large_images_never_hold_all_pairs_of_positions():
    image = jax.ShapeDtypeStruct((1, 240, 320, 1), jnp.float32)
    positions = network.Position()
    x = jax.ShapeDtypeStruct((*image.shape[:3], 64), jnp.float32)
    params = jax.eval_shape(positions.init, jax.random.key(0), x)
    compiled = jax.jit(positions.apply).lower(params, x).compile()
    # All pairs in float32 would take 23.6 GB.
    assert compiled.memory_analysis().temp_size_in_bytes < 6 * op.BLOCK_BYTES


# --- its parts ------------------------------------------------------------------


def opencv_map(x):
    """The corner map plane by plane, as OpenCV and NumPy make it."""
    out = np.empty_like(x)
    for n in range(x.shape[0]):
        for c in range(x.shape[3]):
            plane = np.ascontiguousarray(x[n, :, :, c])
            response = cv2.cornerHarris(plane, blockSize=3, ksize=3, k=0.04)
            response = cv2.dilate(response, np.ones((3, 3), np.uint8))
            threshold = np.float32(0.7) * response.max()
            out[n, :, :, c] = np.select(
                [response > threshold, response < threshold], [1.0, 0.0], plane
            )
    return out


@pytest.mark.parametrize("h,w", [(13, 16), (2, 2), (40, 3)])
def test_corner_map_equals_opencv(h, w):
    x = np.array(features(h, w, 6))
    x[0, :, :, 0] = 0.3  # flat: the threshold is met everywhere, the feature stays
    x[0, :, :, 1] = 0.0
    x[0, :, :, 2] = 5.0 * x[0, :, :, 2]
    got = np.asarray(jax.jit(corner_map)(x))
    np.testing.assert_array_equal(got, opencv_map(x))
    np.testing.assert_array_equal(got[0, :, :, 0], x[0, :, :, 0])
    np.testing.assert_array_equal(corner_map(jnp.asarray(x)), got)


def test_corner_map_where_no_response_is_positive():
    # Straight edges have negative responses. Beside a flat area 0 is the maximum, and
    # the flat area keeps its feature; alone, all lies below 0.7 of the maximum.
    edges = np.tile(np.float32([0, 1, 5, 2, 9, 7, 0, 8]), (6, 1))
    beside = np.where(np.arange(8) < 5, np.float32(0.25), edges)
    x = np.stack([edges, beside], axis=-1)[None]
    got = np.asarray(jax.jit(corner_map)(x))
    np.testing.assert_array_equal(got, opencv_map(x))
    np.testing.assert_array_equal(got[..., 0], np.zeros((1, 6, 8)))
    np.testing.assert_array_equal(got[0, :, :3, 1], np.full((6, 3), 0.25))
    assert np.all(got[0, :, -2:, 1] == 0.0)


def test_corner_map_carries_no_gradient():
    # A flat channel, whose map is its feature, would be where one slips through.
    x = features().at[..., 0].set(0.3)
    gradient = jax.grad(lambda x: jnp.sum(corner_map(x) * x))(x)
    np.testing.assert_array_equal(gradient, corner_map(x))


def test_channels_weigh_most_where_they_are_unlike():
    x = features(4, 5, 3)
    got = np.asarray(channel_mixture(x))
    for n in range(2):
        f = np.asarray(x[n], np.float64).reshape(-1, 3)
        gram = f.T @ f
        rows = softmax(gram.max(axis=1, keepdims=True) - gram, axis=1)
        want = (f @ rows.T).reshape(4, 5, 3)
        np.testing.assert_allclose(got[n], want, atol=1e-5)
    # Far apart, and far larger than an exponential can take.
    assert np.all(np.isfinite(channel_mixture(100 * x)))


def reference_fusion(ir, vis):
    """The released formula as it stands, in float64."""
    ir, vis = np.asarray(ir, np.float64), np.asarray(vis, np.float64)
    powers = [np.exp(x.mean(axis=-1, keepdims=True)) for x in (ir, vis)]
    return (powers[0] * ir + powers[1] * vis) / (powers[0] + powers[1] + 1e-10)


@pytest.mark.parametrize("offset", [0.0, 3.0, -25.0, -60.0, 80.0])
def test_fusion_weights(offset):
    # Around exp(-23) the released epsilon shows; far below, it takes all weight.
    ir, vis = features(seed=1) + offset, features(seed=2) + offset - 1
    got = jax.jit(fuse_features)(ir, vis)
    want = reference_fusion(ir, vis)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6 * np.abs(want).max())


def test_fusion_weights_where_an_exponential_would_overflow():
    ir, vis = jnp.full((1, 2, 2, 3), 200.0), jnp.full((1, 2, 2, 3), 100.0)
    np.testing.assert_array_equal(fuse_features(ir, vis), ir)
    np.testing.assert_array_equal(fuse_features(-ir, -vis), 0 * ir)
