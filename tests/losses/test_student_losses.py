"""The student's losses, Eq. 22 and 23, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_images import float_images

from hkdnet_jax.losses import student


def test_phase1_equals_numpy():
    rng = np.random.default_rng(5)
    t, s = (rng.normal(size=(2, 6, 5, 16)).astype(np.float32) for _ in range(2))
    loss, terms = student.student_phase1_loss(jnp.asarray(t), jnp.asarray(s))
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.abs(t - s).mean(), rtol=1e-6)
    assert terms == {"feature": loss}


@pytest.mark.parametrize("phi", [None, 0.25])
def test_phase2_equals_numpy(phi):
    rng = np.random.default_rng(6)
    shapes = [(2, 9, 7, 1), (2, 9, 7, 16), (2, 9, 7, 64)]
    t, s = ([rng.normal(size=x).astype(np.float32) for x in shapes] for _ in range(2))
    image, *features = (np.abs(a - b).mean() for a, b in zip(t, s, strict=True))
    (image_t, *features_t), (image_s, *features_s) = (
        map(jnp.asarray, x) for x in (t, s)
    )
    arguments = {} if phi is None else {"phi": phi}
    loss, terms = student.student_phase2_loss(
        image_t, image_s, features_t, features_s, **arguments
    )
    assert loss.shape == () and loss.dtype == jnp.float32
    np.testing.assert_allclose(terms["image"], image, rtol=1e-6)
    np.testing.assert_allclose(terms["feature"], sum(features), rtol=1e-6)
    weight = 1.0 if phi is None else phi
    np.testing.assert_allclose(loss, image + weight * sum(features), rtol=1e-6)


def test_the_spectral_term_equals_numpy():
    rng = np.random.default_rng(9)
    t, s = (rng.normal(size=(2, 8, 7, 1)).astype(np.float32) for _ in range(2))
    spectrum = np.fft.fft2((t - s)[..., 0].astype(float), norm="ortho")[..., :4]
    want = np.abs([spectrum.real, spectrum.imag]).mean()
    arrays = jnp.asarray(t), jnp.asarray(s)
    np.testing.assert_allclose(student.spectral_distance(*arrays), want, rtol=1e-5)
    total, terms = student.student_phase2_loss(*arrays, [], [], 0.0, frequency=0.3)
    assert terms.keys() == {"image", "frequency"}
    np.testing.assert_allclose(terms["frequency"], want, rtol=1e-5)
    np.testing.assert_allclose(total, np.abs(t - s).mean() + 0.3 * want, rtol=1e-5)


def test_equal_spectra_have_no_gradient():
    x = jnp.asarray(float_images("smooth")[0])
    np.testing.assert_array_equal(jax.grad(student.spectral_distance)(x, x), 0)
    rng = np.random.default_rng(0)
    y, step = (jnp.asarray(rng.normal(size=x.shape), jnp.float32) for _ in range(2))
    along = jnp.sum(jax.grad(student.spectral_distance)(y, x) * step)
    ends = [student.spectral_distance(y + k * step, x) for k in (0.01, -0.01)]
    np.testing.assert_allclose(along, (ends[0] - ends[1]) / 0.02, rtol=0.05, atol=1e-3)
    with pytest.raises(ValueError, match="spectral_distance"):
        student.spectral_distance(x, x[:1])


def test_scaled_features_are_divided_by_the_teachers_deviations():
    rng = np.random.default_rng(7)
    t, s = (rng.normal(size=(2, 6, 5, 4)).astype(np.float32) for _ in range(2))
    t *= np.array([1.0, 10.0, 0.1, 0.0], np.float32)  # the last is dead
    deviation = t.std(axis=(0, 1, 2))
    scale = np.maximum(deviation, 0.1 * deviation.mean())
    want = np.abs((t - s) / scale).mean()
    got, _ = student.student_phase1_loss(jnp.asarray(t), jnp.asarray(s), scaled=True)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    image = jnp.zeros((2, 6, 5, 1))
    total, terms = student.student_phase2_loss(
        image, image, [jnp.asarray(t)], [jnp.asarray(s)], phi=0.5, scaled=True
    )
    np.testing.assert_allclose(terms["feature"], want, rtol=1e-5)
    np.testing.assert_allclose(total, 0.5 * want, rtol=1e-5)


def test_the_scale_of_features_has_no_gradient_and_is_never_0():
    rng = np.random.default_rng(8)
    t, s = (jnp.asarray(rng.normal(size=(2, 4, 4, 3)), jnp.float32) for _ in range(2))

    def loss(t, s):
        return student.student_phase1_loss(t, s, scaled=True)[0]

    on_t, on_s = jax.grad(loss, (0, 1))(t, s)
    np.testing.assert_allclose(on_t, -on_s, rtol=1e-6)
    flat = jnp.ones_like(t)
    assert np.isfinite(loss(flat, s))
    assert all(np.all(np.isfinite(g)) for g in jax.grad(loss, (0, 1))(flat, s))


def test_student_losses_of_equal_input_are_zero_with_a_zero_gradient():
    x = jnp.ones((1, 4, 4, 16))
    image = jnp.ones((1, 4, 4, 1))

    def phase2(image_s, s):
        return student.student_phase2_loss(image, image_s, [x], [s])[0]

    for value, gradients in (
        jax.value_and_grad(lambda s: student.student_phase1_loss(x, s)[0])(x),
        jax.value_and_grad(phase2, argnums=(0, 1))(image, x),
    ):
        assert value == 0
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradients))


def both_losses(a, b):
    return (
        student.student_phase1_loss(a, b),
        student.student_phase2_loss(a, b, [a, a], [b, b]),
    )


def test_bfloat16_input_is_summed_in_float32():
    half = [jnp.asarray(x, jnp.bfloat16) for x in float_images("smooth")]
    got = both_losses(*half)
    want = both_losses(*(x.astype(jnp.float32) for x in half))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


def test_jit_changes_nothing():
    images = [jnp.asarray(x) for x in float_images("smooth")]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        jax.jit(both_losses)(*images),
        both_losses(*images),
    )


def test_wrong_shapes_are_refused():
    # The second would broadcast.
    with pytest.raises(ValueError, match=r"8, 16\) and \(2, 8, 8, 1\) differ"):
        student.student_phase1_loss(jnp.zeros((2, 8, 8, 16)), jnp.zeros((2, 8, 8, 1)))


def test_features_that_do_not_pair_are_refused():
    x = jnp.zeros((2, 16, 16, 1))
    with pytest.raises(ValueError, match="2 of the teacher and 1 of the student"):
        student.student_phase2_loss(x, x, [x, x], [x])
    with pytest.raises(ValueError, match=r"feature pair 1: shapes"):
        student.student_phase2_loss(x, x, [x, x], [x, x[:1]])
    with pytest.raises(ValueError, match=r"images: shapes"):
        student.student_phase2_loss(x, x[:1], [x], [x])
