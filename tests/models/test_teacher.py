"""The teacher: parameters, whole forward, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference as ref
import pytest

from hkdnet_jax.model_files.model import param_shapes
from hkdnet_jax.models import vivid
from hkdnet_jax.models.teacher import Teacher, for_reduced


def pair(h, w, n=2, seed=0):
    images = np.random.default_rng(seed).random((2, n, h, w, 1))
    return jnp.asarray(images, jnp.float32)


@functools.cache
def params():
    return ref.random_params(param_shapes(Teacher()), seed=3)


@functools.cache
def forward(alpha=0.5, damping=0.0):
    apply = jax.jit(Teacher(alpha, damping).apply)
    return lambda ir, vis: apply({"params": params()}, ir, vis)


def test_parameter_count():
    def conv(inputs, outputs):
        return 9 * inputs * outputs + outputs

    # A dense block of three 16-filter convolutions on 16, 32 and 48 channels.
    encoder = conv(1, 16) + conv(16, 16) + conv(32, 16) + conv(48, 16)
    decoder = conv(64, 64) + conv(64, 32) + conv(32, 16) + conv(16, 1)
    count = sum(leaf.size for leaf in jax.tree.leaves(params()))
    assert count == encoder + decoder == 74193


@pytest.mark.parametrize(
    "h,w,alpha,damping", [(7, 9, 0.5, 0.0), (2, 3, 0.2, 0.0), (7, 9, 0.25, 1.0)]
)
def test_whole_forward(h, w, alpha, damping):
    ir, vis = pair(h, w)
    image, out = forward(alpha, damping)(ir, vis)
    assert image.shape == (2, h, w, 1) and image.dtype == jnp.float32
    names = ["encoder_ir", "encoder_vis", "fused", "decoder1", "decoder2", "decoder3"]
    linear = {f"{name}_linear" for name in names if name != "fused"}
    assert set(out) == {*names, *linear}
    for name in names[:2] + names[3:]:
        np.testing.assert_array_equal(out[name], jax.nn.relu(out[f"{name}_linear"]))
        assert np.any(out[f"{name}_linear"] < 0)
    wanted = ref.teacher(params(), np.asarray(ir), np.asarray(vis), alpha, damping)
    for name, got, want in zip(
        ["image", *names], [image, *(out[n] for n in names)], wanted, strict=True
    ):
        error = np.max(np.abs(got - want)) / np.max(np.abs(want))
        assert error < 1e-5, name
    assert [out[n].shape[-1] for n in names] == [64, 64, 64, 64, 32, 16]


@pytest.mark.parametrize("h,w", [(13, 5), (2, 2), (479, 641)])
def test_output_has_the_size_of_the_input(h, w):
    x = jax.ShapeDtypeStruct((1, h, w, 1), jnp.float32)
    image, out = jax.eval_shape(Teacher().apply, {"params": params()}, x, x)
    assert image.shape == (1, h, w, 1)
    assert {feature.shape[1:3] for feature in out.values()} == {(h, w)}


def test_every_unit_starts_alive():
    """A unit that is 0 everywhere has no gradient, and so cannot learn to fire."""
    images, _ = pair(24, 24, n=4)
    smooth = jax.image.resize(images[:, :6, :6], (4, 24, 24, 1), "linear")
    values = Teacher().init(jax.random.key(1), smooth, smooth)["params"]
    _, out = Teacher().apply({"params": values}, smooth, smooth)
    for name in ("decoder1", "decoder2", "decoder3"):
        linear = np.asarray(out[f"{name}_linear"])
        scale = linear.std(axis=(0, 1, 2))
        assert np.all(np.abs(linear.mean(axis=(0, 1, 2))) < 1e-3 * scale)
        assert np.all(np.any(linear > 0, axis=(0, 1, 2)))
    assert np.all(np.any(np.asarray(out["encoder_ir"]) > 0, axis=(0, 1, 2)))


def test_defaults_are_the_papers():
    assert Teacher().alpha == 0.5 and Teacher().damping == 0.0


def test_damping_does_not_depend_on_the_encoders_scale():
    ir, vis = pair(7, 9)

    def weight(scale):
        scaled = dict(params())
        # Of ReLU layers without biases: all features times `scale`.
        encoder = {
            name: {"kernel": conv["kernel"] * (scale if name == "conv1" else 1.0)}
            | {"bias": 0 * conv["bias"]}
            for name, conv in params()["encoder"].items()
        }
        scaled["encoder"] = encoder
        network = Teacher(damping=1.0)
        _, out = network.apply({"params": scaled}, ir, vis)
        f_ir, f_vis, fused = (out[k] for k in ("encoder_ir", "encoder_vis", "fused"))
        return (fused - f_vis) / jnp.where(f_ir == f_vis, jnp.inf, f_ir - f_vis)

    np.testing.assert_allclose(weight(8.0), weight(1.0), atol=1e-3)


def test_decoder_sees_the_same_scale_in_training_and_in_use():
    # ir = vis = image: F_f is F itself, so Eq. 5 gives (1 + alpha + 1) F.
    image, _ = pair(7, 9)
    _, out = forward()(image, image)
    np.testing.assert_allclose(out["fused"], out["encoder_ir"], rtol=1e-5)
    first = params()["decoder"]["conv1"]
    want = ref.relu(ref.conv(first, 2.5 * np.asarray(out["encoder_ir"]), "reflect"))
    np.testing.assert_allclose(out["decoder1"], want, atol=1e-3)


def test_gradients_are_finite_on_degenerate_images():
    @jax.jit
    def gradients(params, ir, vis):
        def total(params, ir, vis):
            return jnp.mean(Teacher().apply({"params": params}, ir, vis)[0] ** 2)

        return jax.grad(total, (0, 1, 2))(params, ir, vis)

    zero, one = jnp.zeros((1, 6, 7, 1)), jnp.ones((1, 6, 7, 1))
    step = one.at[:, :, :3].set(0.0)
    # Biases start at zero: a black image then switches every ReLU off.
    fresh = jax.tree.map(lambda p: p if p.ndim > 1 else 0 * p, params())
    pairs = [(zero, zero), (one, one), (0.5 * one, zero), (zero, one), (step, one)]
    for images in pairs:
        for values in (fresh, params()):
            for leaf in jax.tree.leaves(gradients(values, *images)):
                assert np.all(np.isfinite(leaf))
    got, on_ir, on_vis = gradients(params(), *pair(6, 7, n=1))
    assert all(np.any(leaf) for leaf in jax.tree.leaves((got, on_ir, on_vis)))


def test_a_vivid_teacher_fuses_features_by_the_contrast_of_the_images():
    ir, vis = pair(15, 17, n=1)
    network = Teacher(alpha=0.3, context=2.0)
    image, out = jax.jit(network.apply)({"params": params()}, ir, vis)
    low = vivid.low_parts(ir, vis, 2.0)
    share = np.asarray(vivid.shares(ir, vis, low, 2.0))
    assert share.shape == (1, 15, 17, 2) and np.ptp(share) > 0.5
    np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-6)
    f_ir, f_vis = (np.asarray(out[f"encoder_{name}"]) for name in ("ir", "vis"))
    fused = share[..., :1] * f_ir + share[..., 1:] * f_vis
    np.testing.assert_allclose(out["fused"], fused, rtol=1e-4, atol=1e-5)
    x = 2.3 * fused
    for i in (1, 2, 3):
        x = ref.relu(ref.conv(params()["decoder"][f"conv{i}"], x, "reflect"))
    x = ref.conv(params()["decoder"]["conv4"], x, "reflect")
    wanted = np.asarray(vivid.picture(jnp.asarray(x, jnp.float32), low, share))
    assert np.max(np.abs(image - wanted)) < 1e-4 * np.max(np.abs(wanted))


def test_a_vivid_teacher_has_the_papers_parameters():
    x = jnp.zeros((1, 8, 8, 1))
    network = Teacher(context=2.0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, x)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params())


def test_a_teacher_that_reconstructs_makes_the_pictures_of_the_rule():
    """Features that are the image, and a decoder that divides by their scale."""
    values = jax.tree.map(np.zeros_like, params())
    values["encoder"]["conv1"]["kernel"][1, 1, 0, 0] = 1.0
    for name in ("conv1", "conv2", "conv3"):
        values["decoder"][name]["kernel"][1, 1, 0, 0] = 1.0
    values["decoder"]["conv4"]["kernel"][1, 1, 0, 0] = 1 / 2.3
    ir, vis = pair(20, 30, n=1)
    image, _ = Teacher(alpha=0.3, context=3.0).apply({"params": values}, ir, vis)
    np.testing.assert_allclose(image, vivid.vivid_images(ir, vis, 3.0), atol=1e-5)


def test_a_reduced_pair_has_a_smaller_context():
    assert for_reduced(Teacher(0.3, 1.0, 12.0), 4) == Teacher(0.3, 1.0, 3.0)
    assert for_reduced(Teacher(0.3, 1.0), 2) == Teacher(0.3, 1.0)
