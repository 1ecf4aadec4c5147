"""The whole tiny student: values, gradients, phase 1, bf16, four devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models import vivid
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.models.student import Student
from hkdnet_jax.ops import position_attention

TINY = PRESETS["tiny"]


@functools.cache
def params(scale=2):
    return ref.random_params(param_shapes(Student(TINY, scale)), 7)


def pair(h, w, n=2, seed=0):
    return np.random.default_rng(seed).random((2, n, h, w, 1)).astype(np.float32)


def apply(model):
    """A new jitted forward: nothing is shared with another test's."""
    return jax.jit(lambda params, ir, vis: model.apply({"params": params}, ir, vis))


def assert_close(got, want, rtol, name=""):
    error = np.max(np.abs(np.asarray(got, np.float64) - want)) / np.max(np.abs(want))
    assert error < rtol, f"{name}: {error}"


@functools.cache
def four_images():
    """Four pairs and the student's output for them on one device."""
    ir, vis = pair(7, 9, n=4)
    return ir, vis, apply(Student(TINY, 2))(params(), ir, vis)


@pytest.mark.parametrize(
    "scale,h,w,skip",
    [
        (2, 7, 9, {}),
        (3, 13, 5, {"global_skip": False}),
        (4, 1, 5, {"skip_alpha": 0.25, "skip_damping": 1.0}),
    ],
)
def test_whole_forward(scale, h, w, skip):
    config = dataclasses.replace(TINY, **skip)
    if scale == 2:
        ir, vis, (image, out) = four_images()
    else:
        ir, vis = pair(h, w, n=1)
        image, out = apply(Student(config, scale))(params(scale), ir, vis)
    assert image.shape == (len(ir), scale * h, scale * w, 1)
    want, features = ref.student(params(scale), ir, vis, config, scale)
    for name, feature in features.items():
        assert_close(out[name], feature, 1e-4, name)
    assert_close(image, want, 1e-4, "image")


def test_the_global_skip_follows_the_vivid_rule():
    config = dataclasses.replace(TINY, skip_context=3.0)
    ir, vis = pair(13, 11, n=1)
    image, _ = apply(Student(config, 2))(params(), ir, vis)
    plain = dataclasses.replace(TINY, global_skip=False)
    without, _ = apply(Student(plain, 2))(params(), ir, vis)
    fused = jnp.clip(vivid.vivid_images(ir, vis, 3.0), 0.0, 1.0)
    wanted = jax.image.resize(fused, image.shape, "cubic")
    np.testing.assert_allclose(image - without, wanted, atol=2e-3)


# --- phase 1 --------------------------------------------------------------------


def test_fuse_only_is_the_fusion_part_of_the_forward():
    ir, vis = pair(5, 6)
    model = Student(TINY, 2)
    # The SR part's parameters need not be there.
    fusion = {"params": {"fusion": params()["fusion"]}}
    fuse = jax.jit(functools.partial(model.apply, method="fuse_only"))
    decoded, out = fuse(fusion, ir, vis)
    want, *_ = ref.fusion_part(params()["fusion"], ir, vis, TINY)
    assert_close(decoded, want, 1e-4)
    whole = jax.eval_shape(model.apply, {"params": params()}, ir, vis)[1]
    assert set(out) == set(whole) - {"upsampled", "tail"}
    np.testing.assert_array_equal(out["decoded"], decoded)


def test_fuse_only_reads_no_parameter_of_the_sr_part():
    model, (ir, vis) = Student(TINY, 2), pair(5, 6)

    def loss(params):
        decoded, _ = model.apply({"params": params}, ir, vis, method="fuse_only")
        return jnp.sum(decoded**2)

    jaxpr = jax.make_jaxpr(loss)(params()).jaxpr
    read = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
    paths = [path[0].key for path, _ in jax.tree.leaves_with_path(params())]
    used = {part: [] for part in ("fusion", "sr")}
    for part, var in zip(paths, jaxpr.invars, strict=True):
        used[part].append(id(var) in read)
    assert all(used["fusion"]) and not any(used["sr"])


# --- gradients ------------------------------------------------------------------


@jax.jit
def gradients(params, ir, vis):
    """Of a sum over the image and every feature a loss reads."""

    def loss(params, ir, vis):
        image, out = Student(TINY, 2).apply({"params": params}, ir, vis)
        features = [image, out["decoded"], out["upsampled"], out["tail"]]
        return sum(jnp.mean(f**2) for f in features)

    return jax.grad(loss, (0, 1, 2))(params, ir, vis)


def fresh(params):
    """Parameters as training starts from them: biases and learned scales zero."""
    return jax.tree.map(lambda p: p if p.ndim in (2, 4, 5) else 0 * p, params)


def test_gradients_are_finite_on_degenerate_images():
    zero, one = np.zeros((1, 6, 7, 1), np.float32), np.ones((1, 6, 7, 1), np.float32)
    step = one.copy()
    step[:, :, :3] = 0.0
    texture = pair(6, 7, n=1)[0]
    images = {
        "black": (zero, zero),
        "white": (one, one),
        "flat": (0.3 * one, 0.7 * one),
        "dead infrared": (zero, texture),
        "dead visible": (texture, zero),
        "saturated": (step, 1.0 - step),
        "out of range": (100.0 * texture, -100.0 * texture),
    }
    for values in (fresh(params()), params()):
        for name, (ir, vis) in images.items():
            for leaf in jax.tree.leaves(gradients(values, ir, vis)):
                assert np.all(np.isfinite(leaf)), name


def test_every_parameter_and_both_images_have_a_gradient():
    def positive_bias(path, leaf):  # so that no ReLU is off everywhere
        return np.abs(leaf) if path[-1].key == "bias" else leaf

    values = jax.tree.map_with_path(positive_bias, params())
    on_params, *on_images = gradients(values, *pair(6, 7, n=1))
    for path, leaf in jax.tree.leaves_with_path(on_params):
        assert np.any(leaf), jax.tree_util.keystr(path)
    assert all(np.any(leaf) for leaf in on_images)


def test_learned_scales_leave_zero():
    on_params, *_ = gradients(fresh(params()), *pair(6, 7, n=1))
    cea = on_params["fusion"]["vis"]["cea"]
    scales = [cea[name] for name in ("beta", "position_scale", "channel_scale")]
    dfab = on_params["fusion"]["ir"]["dfag"]["dfab1"]
    assert all(np.any(scale) for scale in [*scales, dfab["delta"]])
    # A block whose delta is 0 passes D on: what lies before it learns from the start.
    assert np.any(dfab["rcab1"]["conv1"]["kernel"])


# --- bf16, devices --------------------------------------------------------------


def test_bfloat16_stays_close_and_returns_a_float32_image():
    ir, vis = pair(7, 9)
    image, out = apply(Student(TINY, 2, jnp.bfloat16))(params(), ir, vis)
    assert image.dtype == jnp.float32
    assert {feature.dtype for feature in out.values()} == {jnp.dtype(jnp.bfloat16)}
    want, _ = ref.student(params(), ir, vis, TINY, 2)
    assert_close(image, want, 0.1)


def test_four_devices_give_the_result_of_one(monkeypatch):
    ir, vis, (want, want_out) = four_images()
    # Several blocks of position attention, where the single device had one.
    monkeypatch.setattr(position_attention, "BLOCK_BYTES", 8000)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    ir, vis = jax.device_put((ir, vis), split)
    copies = jax.device_put(params(), everywhere)
    image, out = apply(Student(TINY, 2))(copies, ir, vis)
    assert len(image.sharding.device_set) == 4
    assert image.addressable_shards[0].data.shape == (1, 14, 18, 1)
    np.testing.assert_allclose(image, want, atol=1e-4)
    for name, feature in want_out.items():
        np.testing.assert_allclose(out[name], feature, atol=1e-4, err_msg=name)
