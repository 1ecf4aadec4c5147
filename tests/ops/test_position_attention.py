"""Blocked position attention: equal to the materialised one, linear in memory."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from jax.experimental.pallas import tpu as pallas_tpu
from jax.extend.core import ClosedJaxpr, Jaxpr

from hkdnet_jax.ops import position_attention as module
from hkdnet_jax.ops.position_attention import (
    attention,
    has_kernel,
    position_attention,
)
from hkdnet_jax.runtime import sharding


def features(n=2, h=5, w=7, c=3, seed=0, size=1.0):
    values = size * np.random.default_rng(seed).normal(size=(n, h, w, c))
    return jnp.asarray(values, jnp.float32)


def materialised(x, softmax):
    """Eq. 10 and 11 with the whole N x N matrix, differentiated by jax."""
    n, h, w, c = x.shape
    f = x.reshape(n, h * w, c)
    logits = jnp.einsum("npc,nqc->npq", f, f)
    axes = (2,) if softmax == "row" else (1, 2)
    weights = jax.nn.softmax(logits, axis=axes)
    return jnp.einsum("npq,nqc->npc", weights, f).reshape(x.shape)


def separate(h, w):
    """Queries and keys of 2 channels, values of 5, in no way alike."""
    return [features(h=h, w=w, c=c, seed=seed) for c, seed in ((2, 1), (2, 2), (5, 3))]


def whole_matrix(query, key, value, softmax):
    """The same average with the whole N x N matrix, differentiated by jax."""
    n, h, w, _ = value.shape
    q, k, v = (x.reshape(n, h * w, -1) for x in (query, key, value))
    axes = (2,) if softmax == "row" else (1, 2)
    weights = jax.nn.softmax(jnp.einsum("nqd,npd->nqp", q, k), axis=axes)
    return jnp.einsum("nqp,npc->nqc", weights, v).reshape(value.shape)


def numpy_average(query, key, value, softmax):
    """The same in float64 NumPy, an image at a time."""
    out = []
    for q, k, v in zip(query, key, value, strict=True):
        q, k, v = (
            np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (q, k, v)
        )
        weights = np.exp(q @ k.T)
        total = weights.sum() if softmax == "joint" else weights.sum(1, keepdims=True)
        out.append((weights / total @ v).reshape(*query.shape[1:3], -1))
    return np.stack(out)


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


def inner_jaxprs(eqn):
    for inner in jax.tree.leaves(list(eqn.params.values())):
        if isinstance(inner, ClosedJaxpr):
            yield inner.jaxpr
        elif isinstance(inner, Jaxpr):
            yield inner


def sizes(jaxpr):
    """Element counts of everything a jaxpr computes, inner jaxprs included."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars)
        for inner in inner_jaxprs(eqn):
            yield from sizes(inner)


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


# --- implementations ----------------------------------------------------------------


@pytest.mark.parametrize("softmax", ["row", "joint"])
def test_materialized_is_the_whole_matrix(softmax):
    x = jax.ShapeDtypeStruct((1, 20, 30, 4), jnp.float32)
    attend = functools.partial(position_attention, softmax=softmax)
    whole = functools.partial(attend, implementation="materialized")
    assert max(sizes(jax.make_jaxpr(whole)(x).jaxpr)) == 600**2
    x = features()
    np.testing.assert_allclose(whole(x), attend(x, block=4), rtol=1e-5, atol=1e-6)


# Fewer positions than a tile, some tiles and a part, whole tiles; pooled keys.
@pytest.mark.parametrize("h,w,k,depth", [(5, 7, 5, 4), (23, 31, 9, 8), (16, 32, 16, 4)])
def test_tpu_kernel_interpreted(h, w, k, depth):
    query, key = features(h=h, w=w, c=depth), features(h=k, w=w, c=depth, seed=1)
    value, cotangent = features(h=k, w=w, c=8, seed=2), features(h=h, w=w, c=8, seed=3)

    def run(implementation):
        def loss(*args):
            out = attention(*args, implementation=implementation)
            return jnp.sum(out * cotangent), out

        gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(
            query, key, value
        )
        return out, *gradients

    want = run("materialized")
    with pallas_tpu.force_tpu_interpret_mode():
        got = run("flash")
    # Both sides are float32, and gradients pass through more sums: each CPU rounds them
    # in its own order (2.2e-6 of the largest seen in a gradient).
    for a, b, rtol in zip(got, want, (2e-6, 1e-5, 1e-5, 1e-5), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max())


def lowered(platform, dtype=jnp.float32, **options):
    """The gradient's program for a platform, as text; nothing is compiled."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), dtype)
    attend = functools.partial(position_attention, **options)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(attend(x).astype(jnp.float32))))
    return gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()


def test_auto_is_the_kernel_on_a_tpu_alone():
    assert len(re.findall("@tpu_custom_call", lowered("tpu"))) == 3  # o; dk, dv; dq
    for others in (
        lowered("tpu", implementation="blocked"),
        lowered("tpu", softmax="joint"),
        lowered("cpu"),
        lowered("cuda"),
    ):
        assert "tpu_custom_call" not in others


def test_no_kernel_is_traced_for_a_mesh_of_cpus():
    """On one that may be of TPUs `auto` is the kernel; see the test above."""
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), jnp.float32)
    on_cpu = sharding.on_mesh(position_attention, sharding.mesh_over(jax.devices()[:1]))
    lowered = jax.jit(on_cpu).trace(x).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" not in lowered.as_text()


def use_device(monkeypatch, platform, version="", capability="8.0"):
    """Makes jax seem to have one device of another platform."""
    client = types.SimpleNamespace(platform_version=version)
    device = types.SimpleNamespace(
        platform=platform, client=client, compute_capability=capability
    )
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    monkeypatch.setattr(jax, "default_backend", lambda: platform)


NVIDIA, AMD = "PJRT C API\ncuda 13000", "PJRT C API\nrocm 60200"


@pytest.mark.parametrize(
    "platform,version,capability,kernels",
    [
        ("cpu", "cpu", None, set()),
        ("tpu", "libtpu", None, {"flash"}),
        ("gpu", NVIDIA, "7.5", set()),
        ("gpu", NVIDIA, "8.0", {"cudnn"}),
        ("gpu", NVIDIA, "10.3", {"cudnn"}),
        ("gpu", AMD, "gfx942", set()),
    ],
)
def test_kernels_of_a_device(monkeypatch, platform, version, capability, kernels):
    use_device(monkeypatch, platform, version, capability)
    assert {kernel for kernel in module.KERNELS if has_kernel(kernel)} == kernels


def test_auto_on_a_gpu(monkeypatch):
    """cuDNN can only be traced where a GPU is: here it is a stand-in."""
    taken = []

    def kernel(queries, keys, values):
        taken.append(queries.shape)
        return jnp.zeros(queries.shape, jnp.float32)

    monkeypatch.setattr(module, "_cudnn", kernel)
    half = features(h=4, w=4, c=8).astype(jnp.bfloat16)

    def trace(x):
        # A new function each time: jax keeps what it has traced.
        return jax.eval_shape(lambda x: position_attention(x), x)

    trace(half)
    for version, capability in ((AMD, "gfx942"), (NVIDIA, "7.5")):
        use_device(monkeypatch, "gpu", version, capability)
        trace(half)
    assert not taken
    use_device(monkeypatch, "gpu", NVIDIA)
    for x in (features(c=8), half[..., :7], jnp.tile(half, 17)):
        trace(x)
    assert not taken  # float32, a depth not divisible by 8, and one above 128
    trace(half)
    assert taken == [(2, 16, 8)]


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_block_fills_what_suits_the_platform(monkeypatch, platform):
    use_device(monkeypatch, platform, NVIDIA)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 600 * 30)
    monkeypatch.setattr(module, "ACCELERATOR_BLOCK_BYTES", 4 * 600 * 50)
    x = jax.ShapeDtypeStruct((1, 20, 30, 4), jnp.float32)
    attend = functools.partial(position_attention, implementation="blocked")
    largest = max(sizes(jax.make_jaxpr(lambda x: attend(x))(x).jaxpr))
    assert largest == 600 * (30 if platform == "cpu" else 50)


def kernel_precisions(jaxpr, inside=False):
    """The precision of each product inside a Pallas kernel."""
    for eqn in jaxpr.eqns:
        if inside and eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for inner in inner_jaxprs(eqn):
            yield from kernel_precisions(
                inner, inside or eqn.primitive.name == "pallas_call"
            )


@pytest.mark.parametrize(
    "dtype,precision,wanted",
    [
        (jnp.float32, "highest", "HIGHEST"),
        (jnp.float32, "high", "HIGHEST"),  # the kernel knows only two
        (jnp.float32, "default", "DEFAULT"),
        (jnp.bfloat16, "highest", "DEFAULT"),  # whose products are exact anyway
    ],
)
def test_precision_of_the_tpu_kernel_in_both_passes(dtype, precision, wanted):
    x = jax.ShapeDtypeStruct((1, 32, 32, 8), dtype)

    def loss(x):
        attend = functools.partial(position_attention, implementation="flash")
        return jnp.sum(attend(x, precision=precision).astype(jnp.float32))

    used = list(kernel_precisions(jax.make_jaxpr(jax.grad(loss))(x).jaxpr))
    assert len(used) >= 2 + 4 + 3  # o; dk, dv; dq
    assert set(used) == {(jax.lax.Precision[wanted],) * 2}


def test_arguments_of_cudnn(monkeypatch):
    """jax's own attention without cuDNN stands in: the same call, computed by XLA."""
    attend = jax.nn.dot_product_attention

    def without_kernel(*args, implementation, **options):
        assert implementation == "cudnn"
        return attend(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_kernel)
    args = separate(5, 7)
    got = attention(*args, implementation="cudnn")
    want = numpy_average(*args, "row")
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


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
