"""The teacher's loss, Eq. 17-21, against NumPy, SciPy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_images import KINDS, float_images, reference_ssim
from scipy import ndimage

from hkdnet_jax.losses import teacher

# Jitted once for all tests that only look at numbers; `test_jit_changes_nothing`
# compares with the plain function.
NAMES = ("norm", "mu", "percep_weight")
teacher_loss = jax.jit(teacher.teacher_loss, static_argnames=NAMES)
teacher_gradient = jax.jit(
    jax.grad(lambda a, b, norm: teacher.teacher_loss(a, b, norm=norm)[0]),
    static_argnames="norm",
)
NORMS = {
    "l2": lambda a, b: np.mean(
        [np.linalg.norm(x - y) for x, y in zip(a, b, strict=True)]
    ),
    "mse": lambda a, b: np.mean((a - b) ** 2),
}


def reference_gradients(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SciPy's Sobel derivatives of each image along x and y, interior."""
    return tuple(
        np.stack([ndimage.sobel(i[..., 0].astype(float), axis)[1:-1, 1:-1] for i in x])
        for axis in (1, 0)
    )


def test_every_norm_is_tested():
    assert NORMS.keys() == teacher.NORMS.keys()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_teacher_terms_equal_numpy(kind, norm):
    distance = NORMS[norm]
    output, target = float_images(kind)
    rng = np.random.default_rng(3)
    of_output, of_target = (
        {
            "relu2_2": 90 * rng.random((3, 5, 4, 8)),
            "relu3_3": 200 * rng.random((3, 2, 9, 16)),
        }
        for _ in range(2)
    )
    total, terms = teacher_loss(
        jnp.asarray(output),
        jnp.asarray(target),
        norm=norm,
        percep=tuple(
            {k: jnp.asarray(v, jnp.float32) for k, v in f.items()}
            for f in (of_output, of_target)
        ),
    )
    o, t = output.astype(np.float64), target.astype(np.float64)
    expected = {
        "pixel": distance(o, t),
        "ssim": 1 - reference_ssim(output, target).mean(),
        "grad": sum(
            distance(x, y)
            for x, y in zip(reference_gradients(o), reference_gradients(t), strict=True)
        ),
        "percep": sum(
            distance(of_output[k] / 255, of_target[k] / 255) for k in of_output
        ),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name].shape == () and terms[name].dtype == jnp.float32
        np.testing.assert_allclose(terms[name], value, rtol=2e-5, atol=1e-5)
    sum_of_terms = (
        terms["pixel"] + 1000 * terms["ssim"] + terms["grad"] + terms["percep"]
    )
    assert total.shape == () and total.dtype == jnp.float32
    np.testing.assert_allclose(total, sum_of_terms, rtol=1e-6)


def test_teacher_weights_weigh_the_total_only():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    # Features so large that every term is a visible part of the total.
    percep = ({"relu1_1": 255 * output}, {"relu1_1": 255 * target})
    _, terms = teacher_loss(output, target, percep=percep)
    total, same = teacher_loss(
        output, target, mu=7.0, percep_weight=500.0, percep=percep
    )
    for name, value in terms.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-6)
    weights = {"pixel": 1.0, "ssim": 7.0, "grad": 1.0, "percep": 500.0}
    expected = sum(weights[name] * float(value) for name, value in terms.items())
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_teacher_loss_without_features_has_no_perceptual_term():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    total, terms = teacher_loss(output, target)
    assert terms.keys() == {"pixel", "ssim", "grad"}
    np.testing.assert_allclose(
        total, terms["pixel"] + 1000 * terms["ssim"] + terms["grad"], rtol=1e-6
    )


def test_teacher_loss_of_a_perfect_reconstruction_is_zero():
    target = jnp.asarray(float_images("smooth")[1])
    total, terms = teacher_loss(target, target)
    np.testing.assert_allclose(total, 0.0, atol=1e-3)  # 1000 times an SSIM to 1e-6
    assert terms["pixel"] == 0 and terms["grad"] == 0
    # The root of the square that keeps the derivative of a norm finite.
    _, terms = teacher_loss(target, target, norm="l2")
    assert 0 < terms["pixel"] < 2e-6 and 0 < terms["grad"] < 4e-6


def test_a_norm_grows_with_the_number_of_pixels_and_a_mean_square_does_not():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    large = [jnp.concatenate([x, x], axis=1) for x in (output, target)]
    for norm, factor in (("l2", np.sqrt(2)), ("mse", 1.0)):
        small_terms = teacher_loss(output, target, norm=norm)[1]
        large_terms = teacher_loss(*large, norm=norm)[1]
        np.testing.assert_allclose(
            large_terms["pixel"], factor * small_terms["pixel"], rtol=1e-5
        )


def test_teacher_loss_of_a_batch_is_the_mean_over_its_images():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    total, terms = teacher_loss(output, target)
    per_image_loss = jax.jit(jax.vmap(teacher.teacher_loss))
    totals, per_image = per_image_loss(output[:, None], target[:, None])
    np.testing.assert_allclose(totals.mean(), total, rtol=1e-5)
    for name, values in per_image.items():
        assert values.shape == (3,)
        np.testing.assert_allclose(values.mean(), terms[name], rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_teacher_gradient_is_finite(kind, norm):
    output, target = (jnp.asarray(x) for x in float_images(kind))
    for a, b in ((output, target), (target, output), (target, target)):
        assert np.isfinite(teacher_gradient(a, b, norm)).all()


def test_bfloat16_input_is_summed_in_float32():
    half = [jnp.asarray(x, jnp.bfloat16) for x in float_images("smooth")]
    got = teacher.teacher_loss(*half)
    want = teacher.teacher_loss(*(x.astype(jnp.float32) for x in half))
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


def test_jit_changes_nothing():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    percep = {"x": output * 100}, {"x": target * 100}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        teacher_loss(output, target, percep=percep),
        teacher.teacher_loss(output, target, percep=percep),
    )


def test_wrong_images_are_refused():
    x = jnp.zeros((2, 16, 16, 1))
    with pytest.raises(ValueError, match=r"shapes .*16, 1\) and \(2, 16, 17, 1\)"):
        teacher.teacher_loss(x, jnp.zeros((2, 16, 17, 1)))
    with pytest.raises(ValueError, match="floating-point input, got uint8"):
        teacher.teacher_loss(x.astype(jnp.uint8), x.astype(jnp.uint8))


def test_features_that_do_not_pair_are_refused():
    x = jnp.zeros((2, 16, 16, 1))
    for percep in (({"a": x}, {"b": x}), ({}, {})):
        with pytest.raises(ValueError, match="the same layers"):
            teacher_loss(x, x, percep=percep)
    with pytest.raises(ValueError, match=r"layer a: shapes .* differ"):
        teacher_loss(x, x, percep=({"a": x}, {"a": x[:1]}))


def test_idleness_is_the_distance_from_firing():
    noise = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype(np.float32)
    noise = (noise - noise.mean((0, 1, 2))) / noise.std((0, 1, 2))
    means = np.array([1.0, -0.9, -3.0, -50.0], np.float32)
    linear = jnp.asarray(noise + means)
    for least, wanted in ((0.0, [0, 0.9, 3, 50]), (-2.0, [0, 0, 1, 48])):
        got = teacher.idleness(linear, least)
        np.testing.assert_allclose(got, np.mean(wanted), rtol=2e-3)


def test_idleness_revives_a_dead_unit_and_leaves_others_alone():
    def linear(bias):
        noise = np.random.default_rng(0).normal(size=(2, 9, 8, 3))
        return jnp.asarray(noise, jnp.float32) + bias[None, None, None]

    bias = jnp.asarray([0.5, -9.0, 2.0])
    gradient = jax.grad(lambda b: teacher.idleness(linear(b), 0.0))(bias)
    assert gradient[1] < 0 and gradient[0] == gradient[2] == 0
    for _ in range(200):
        bias -= 0.3 * jax.grad(lambda b: teacher.idleness(linear(b), 0.0))(bias)
    assert -0.5 < bias[1] < 0.5
    # A unit whose input is flat has no deviation.
    flat = jnp.full((1, 4, 4, 1), -1.0)
    assert np.isfinite(jax.grad(lambda x: teacher.idleness(x, 0.0))(flat)).all()
