"""Blocked position attention: equal to the materialised one, linear in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from attention_fixtures import features, numpy_average, separate, sizes

from hkdnet_jax.ops import position_attention as module
from hkdnet_jax.ops.position_attention import attention, position_attention
from hkdnet_jax.runtime import sharding


def materialised(x, softmax):
    """Eq. 10 and 11 with the whole N x N matrix, differentiated by jax."""
    n, h, w, c = x.shape
    f = x.reshape(n, h * w, c)
    logits = jnp.einsum("npc,nqc->npq", f, f)
    axes = (2,) if softmax == "row" else (1, 2)
    weights = jax.nn.softmax(logits, axis=axes)
    return jnp.einsum("npq,nqc->npc", weights, f).reshape(x.shape)


def whole_matrix(query, key, value, softmax):
    """The same average with the whole N x N matrix, differentiated by jax."""
    n, h, w, _ = value.shape
    q, k, v = (x.reshape(n, h * w, -1) for x in (query, key, value))
    axes = (2,) if softmax == "row" else (1, 2)
    weights = jax.nn.softmax(jnp.einsum("nqd,npd->nqp", q, k), axis=axes)
    return jnp.einsum("nqp,npc->nqc", weights, v).reshape(value.shape)


@pytest.mark.parametrize("softmax", ["row", "joint"])
@pytest.mark.parametrize("h,w,block", [(5, 7, 4), (5, 7, None), (1, 37, 36)])
def test_separate_queries_keys_and_values(h, w, block, softmax):
    args = separate(h, w)
    attend = functools.partial(attention, softmax=softmax, block=block)
    want = numpy_average(*args, softmax)
    for got in (attend(*args), jax.jit(attend)(*args)):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("softmax", ["row", "joint"])
@pytest.mark.parametrize("h,w,block", [(1, 37, 10), (4, 4, 16)])
def test_gradients_of_queries_keys_and_values(h, w, block, softmax):
    cotangent = features(h=h, w=w, c=5, seed=4)

    def gradients(attend):
        def loss(*args):
            return jnp.sum(attend(*args, softmax=softmax) * cotangent)

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*separate(h, w))

    blocked = gradients(functools.partial(attention, block=block))
    for got, want in zip(blocked, gradients(whole_matrix), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


def both(attend, **options):
    """Row and joint attention as one function, to compile once."""
    return lambda x: [attend(x, softmax=mode, **options) for mode in ("row", "joint")]


# Single queries, all but one, all in one; a prime number of positions.  48 positions
# are three blocks of 16 rather than two of 20 and a part of one.
@pytest.mark.parametrize(
    "h,w,block", [(5, 7, 1), (5, 7, 34), (5, 7, None), (1, 37, 10), (6, 8, 20)]
)
def test_any_block_gives_the_values_of_numpy(h, w, block):
    x = features(h=h, w=w)
    row, joint = jax.jit(both(position_attention, block=block))(x)
    for got, mode in ((row, "row"), (joint, "joint")):
        want = ref.position_attention(np.asarray(x), mode)
        # Joint weights are small: compare on the scale of what is there.
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("h,w,block", [(1, 37, 10), (4, 4, 16)])
def test_gradient_is_that_of_the_materialised_one(h, w, block):
    x, cotangent = features(h=h, w=w), features(h=h, w=w, seed=1)

    def gradients(attend):
        def loss(x, mode):
            return jnp.sum(attend(x)[mode] * cotangent)

        return jax.jit(lambda x: [jax.grad(loss)(x, mode) for mode in (0, 1)])(x)

    for got, want in zip(
        gradients(both(position_attention, block=block)),
        gradients(both(materialised)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("softmax", ["row", "joint"])
def test_flat_and_strong_features_stay_finite(softmax):
    def loss(x):
        out = position_attention(x, softmax, block=6)
        return jnp.sum(out**2), out

    function = jax.jit(jax.value_and_grad(loss, has_aux=True))
    share = 1.0 if softmax == "row" else 1.0 / 20.0
    # Logits of 3 * 50^2 would overflow an exponential that is not shifted.
    for value in (0.0, 1.0, 50.0):
        (_, out), gradient = function(jnp.full((1, 4, 5, 3), value))
        np.testing.assert_allclose(out, np.full(out.shape, value * share), rtol=1e-4)
        assert np.all(np.isfinite(gradient))
    _, gradient = function(features(n=1, h=4, w=5, size=30.0))
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("block", [8, None])
def test_bfloat16_with_float32_statistics(block):
    x = features(h=16, w=17).astype(jnp.bfloat16)
    attend = jax.jit(functools.partial(position_attention, block=block))
    got = attend(x)
    assert got.dtype == jnp.bfloat16
    wide = np.asarray(x.astype(jnp.float32))
    want = ref.position_attention(wide, "row")
    got = np.asarray(got.astype(jnp.float32))
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
    # A sum of 272 equal weights kept in bf16 would stop short of 1.
    flat = attend(jnp.ones(x.shape, jnp.bfloat16))
    np.testing.assert_array_equal(flat.astype(jnp.float32), np.ones(x.shape))


@pytest.mark.parametrize("softmax", ["row", "joint"])
def test_large_images_never_hold_all_pairs(softmax):
    # A 640 x 480 pair: N x N would be 377 GB in float32.
    x = jax.ShapeDtypeStruct((1, 480, 640, 8), jnp.float32)
    blocked = {"softmax": softmax, "implementation": "blocked"}
    attend = functools.partial(position_attention, **blocked)
    for function in (attend, jax.grad(lambda x: jnp.sum(attend(x)))):
        largest = max(sizes(jax.make_jaxpr(function)(x).jaxpr))
        # One block of affinities, or the padded features where those are larger.
        assert largest * 4 <= module.BLOCK_BYTES
        assert largest >= 480 * 640 * 8


def test_a_large_image_is_not_copied_to_cut_it():
    def steps(h, w):
        x = jax.ShapeDtypeStruct((1, h, w, 8), jnp.float32)
        attend = functools.partial(attention, implementation="blocked", block=5000)
        keys = jax.ShapeDtypeStruct((1, 4, 5, 8), jnp.float32)
        return str(jax.make_jaxpr(attend)(x, keys, keys))

    cut = steps(100, 130)  # 13,000 positions in four blocks of 3250
    assert "f32[4,1,3250,8]" in cut and " transpose[" not in cut
    assert "f32[3,1,5000,8]" in steps(101, 127)  # which has no divisor in reach


def test_narrow_queries_never_hold_all_pairs_either():
    # The released network's sizes: queries and keys of 8 channels, values of 64.
    narrow, wide = (
        jax.ShapeDtypeStruct((1, 160, 200, c), jnp.float32) for c in (8, 64)
    )
    attend = functools.partial(attention, implementation="blocked")
    gradient = jax.grad(lambda *args: jnp.sum(attend(*args)), argnums=(0, 1, 2))
    for function in (attend, gradient):
        jaxpr = jax.make_jaxpr(function)(narrow, narrow, wide).jaxpr
        assert max(sizes(jaxpr)) * 4 <= module.BLOCK_BYTES


def test_compiled_memory_of_the_gradient_grows_linearly():
    attend = functools.partial(position_attention, block=32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(attend(x) ** 2)))

    def temporary(h, w):
        x = jax.ShapeDtypeStruct((1, h, w, 8), jnp.float32)
        return gradient.lower(x).compile().memory_analysis().temp_size_in_bytes

    small, large = temporary(32, 32), temporary(64, 64)
    assert large < 5 * small  # 4 if linear in N, 16 if quadratic
    assert large < 64**4 * 4 / 4  # a quarter of one N x N matrix


def test_large_batches_shorten_the_block():
    x = jax.ShapeDtypeStruct((16, 72, 72, 8), jnp.float32)
    attend = functools.partial(position_attention, implementation="blocked")
    largest = max(sizes(jax.make_jaxpr(attend)(x).jaxpr))
    assert largest * 4 <= module.BLOCK_BYTES


def test_unknown_softmax_is_an_error():
    with pytest.raises(ValueError, match=r"row or joint.*rows"):
        position_attention(features(), "rows")


def test_unknown_implementation_is_an_error():
    with pytest.raises(ValueError, match=r"blocked.*flash.*tiled"):
        position_attention(features(), implementation="tiled")


@pytest.mark.parametrize("kernel", module.KERNELS)
def test_kernels_know_no_joint_softmax(kernel):
    with pytest.raises(ValueError, match=f"{kernel}.*joint.*blocked"):
        position_attention(features(), "joint", kernel)


# --- keys and values over squares of pixels -----------------------------------------


@pytest.mark.parametrize("softmax", ["row", "joint"])
@pytest.mark.parametrize("block", [4, None])
def test_pooled_keys_are_the_means_of_squares(softmax, block):
    x = features(h=5, w=7)
    rows, columns = ((0, 2), (2, 4), (4, 5)), ((0, 2), (2, 4), (4, 6), (6, 7))
    squares = [
        [np.asarray(x[:, a:b, c:d]).mean((1, 2)) for c, d in columns] for a, b in rows
    ]
    keys = np.stack([np.stack(row, 1) for row in squares], 1)  # [N, 3, 4, C]
    want = numpy_average(np.asarray(x), keys, keys, softmax)
    got = position_attention(x, softmax, pool=2, block=block)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    ("h", "w", "pool"),
    [
        (4, 6, 2),
        (5, 6, 4),
        (8, 12, 4),
        (9, 12, 8),
        (1, 12, 2),
        (1, 13, 4),
        (40, 40, 32),
    ],
)
def test_squares_grow_until_their_number_is_within_the_limit(h, w, pool):
    x = features(h=h, w=w)
    got = position_attention(x, pool=2, most_keys=6)
    np.testing.assert_array_equal(got, position_attention(x, pool=pool))


def test_the_time_of_limited_keys_is_linear_in_the_pixels():
    def flops(side):
        x = jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32)
        attend = functools.partial(position_attention, pool=2, most_keys=64)
        return jax.jit(attend).lower(x).cost_analysis()["flops"]

    # The sides of the squares are those of powers of two, so the keys are as many.
    assert flops(64) == pytest.approx(4 * flops(32), rel=0.02)


# --- several devices ----------------------------------------------------------------


@pytest.mark.parametrize("axis", [sharding.DATA, sharding.HEIGHT])
@pytest.mark.parametrize("softmax", ["row", "joint"])
def test_split_over_devices(axis, softmax):
    mesh = sharding.mesh_over(jax.devices()[:4], axis)
    x, cotangent = features(n=4, h=8, w=5), features(n=4, h=8, w=5, seed=1)

    def loss(x):
        out = position_attention(x, softmax, pool=2, block=3)
        return jnp.sum(out * cotangent), out

    gradient = jax.grad(loss, has_aux=True)
    want = jax.jit(gradient)(x)
    split = sharding.split_height(mesh)
    program = jax.jit(sharding.on_mesh(gradient, mesh), in_shardings=split)
    got = program(jax.device_put(x, split))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())
    assert got[1].sharding.is_equivalent_to(split, 4)


def test_every_device_has_its_own_queries_only():
    mesh = sharding.mesh_over(jax.devices()[:4], sharding.HEIGHT)
    x = jax.ShapeDtypeStruct((1, 64, 32, 8), jnp.float32)
    attend = functools.partial(position_attention, implementation="materialized")
    split = sharding.split_height(mesh)
    program = jax.jit(sharding.on_mesh(attend, mesh), in_shardings=split)
    affinities = 4 * (64 * 32) ** 2
    memory = program.lower(x).compile().memory_analysis().temp_size_in_bytes
    assert affinities / 4 <= memory < affinities / 3
