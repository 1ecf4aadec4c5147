"""Eq. 17-23, SSIM and PSNR against NumPy, SciPy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hkdnet_jax.losses import quality, student, teacher

# Jitted once for all tests that only look at numbers; `test_jit_changes_nothing`
# compares with the plain functions.
ssim = jax.jit(quality.ssim)
ssim_gradient = jax.jit(jax.grad(lambda a, b: quality.ssim(a, b).sum()))
teacher_loss = jax.jit(teacher.teacher_loss)
teacher_gradient = jax.jit(jax.grad(lambda a, b: teacher.teacher_loss(a, b)[0]))

KINDS = ("noise", "smooth", "dark", "bright", "flat", "levels", "saturated", "equal")


def float_images(kind: str, height: int = 40, width: int = 53, count: int = 3):
    """Two float32 stacks [count, height, width, 1] in [0, 1] of one kind."""
    rng = np.random.default_rng(7)
    shape = (count, height, width, 1)
    noise = rng.random(shape)
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    other = np.clip(smooth + rng.normal(0, 0.05, shape), 0, 1)
    a, b = {
        "noise": (noise, rng.random(shape)),
        "smooth": (smooth, other),
        "dark": (0.02 * smooth, 0.02 * other),
        "bright": (1 - 0.02 * smooth, 1 - 0.02 * other),
        "flat": (np.full(shape, 0.3), np.full(shape, 0.3)),
        "levels": (np.full(shape, 0.97), np.full(shape, 0.93)),
        "saturated": (np.ones(shape), (smooth > 0.5).astype(float)),
        "equal": (smooth, smooth),
    }[kind]
    return a.astype(np.float32), b.astype(np.float32)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """scikit-image's map in float64, mean where the window lies inside the image."""
    values = []
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        _, full = structural_similarity(
            x[..., 0],
            y[..., 0],
            win_size=11,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        values.append(full[5:-5, 5:-5].mean())
    return np.array(values)


def reference_gradients(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SciPy's Sobel derivatives of each image along x and y, interior."""
    return tuple(
        np.stack([ndimage.sobel(i[..., 0].astype(float), axis)[1:-1, 1:-1] for i in x])
        for axis in (1, 0)
    )


# SSIM


@pytest.mark.parametrize("kind", KINDS)
def test_ssim_equals_scikit_image(kind):
    a, b = float_images(kind)
    got = ssim(jnp.asarray(a), jnp.asarray(b))
    assert got.shape == (3,) and got.dtype == jnp.float32
    # Where black meets white, a flat window's variance is the difference of two numbers
    # near 0.25. One ulp of theirs (6e-8 * 0.25) is 2e-5 of the constant (0.03)^2 that
    # stands there alone, and how many there are depends on the CPU's order of summing
    # (3.3e-6 seen in the mean).
    atol = 1e-5 if kind == "saturated" else 2e-6
    np.testing.assert_allclose(got, reference_ssim(a, b), atol=atol, rtol=0)


def test_ssim_of_the_smallest_image_is_one_window():
    a, b = float_images("smooth", 11, 11, 2)
    got = ssim(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(got, reference_ssim(a, b), atol=1e-5, rtol=0)


def test_ssim_is_symmetric_and_one_for_equal_images():
    a, b = (jnp.asarray(x) for x in float_images("smooth"))
    np.testing.assert_allclose(ssim(a, b), ssim(b, a), atol=1e-6)
    np.testing.assert_allclose(ssim(a, a), 1.0, atol=1e-6)
    assert np.all(ssim(a, b) < 1)


def test_ssim_gradient_equals_finite_differences_of_scikit_image():
    a, b = float_images("smooth", 16, 18, 1)
    gradient = ssim_gradient(a, b)
    step = 1e-4
    for row, column in [(0, 0), (1, 9), (8, 8), (15, 17), (12, 3)]:
        moved = np.zeros(a.shape)
        moved[0, row, column] = step
        high = reference_ssim(a.astype(np.float64) + moved, b)[0]
        low = reference_ssim(a.astype(np.float64) - moved, b)[0]
        expected = (high - low) / (2 * step)
        assert gradient[0, row, column, 0] == pytest.approx(
            expected, rel=5e-3, abs=1e-6
        )


def test_ssim_gradient_brings_texture_to_a_flat_image():
    _, target = float_images("smooth")
    flat = jnp.full(target.shape, target.mean())
    gradient = ssim_gradient(flat, target)
    inner = (slice(None), slice(5, -5), slice(5, -5))
    detail = target - ndimage.gaussian_filter(target, (0, 1.5, 1.5, 0))
    correlation = np.corrcoef(np.ravel(gradient[inner]), np.ravel(detail[inner]))[0, 1]
    assert correlation > 0.5


@pytest.mark.parametrize("shape", [(1, 10, 64, 1), (1, 64, 10, 1)])
def test_ssim_refuses_images_smaller_than_the_window(shape):
    with pytest.raises(ValueError, match=r"at least 11x11, got \d+x\d+"):
        quality.ssim(jnp.zeros(shape), jnp.zeros(shape))


# PSNR


def test_psnr_equals_scikit_image():
    a, b = float_images("smooth")
    got = quality.psnr(jnp.asarray(a), jnp.asarray(b))
    expected = [
        peak_signal_noise_ratio(x.astype(float), y.astype(float), data_range=1.0)
        for x, y in zip(a, b, strict=True)
    ]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_psnr_of_equal_images_is_100_db_with_a_finite_gradient():
    a, _ = (jnp.asarray(x) for x in float_images("smooth"))
    np.testing.assert_allclose(quality.psnr(a, a), 100.0, rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: quality.psnr(x, a).sum())(a)).all()


# Teacher


def test_sobel_equals_scipy():
    a, _ = float_images("noise", 9, 12, 2)
    a = np.concatenate([a, 1 - a * a], axis=-1)  # two channels
    for got, axis in zip(quality.sobel(jnp.asarray(a)), (2, 1), strict=True):
        for n in range(2):
            for c in range(2):
                expected = ndimage.sobel(a[n, ..., c].astype(float), axis - 1)[
                    1:-1, 1:-1
                ]
                np.testing.assert_allclose(got[n, ..., c], expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_terms_equal_numpy(kind):
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
        percep=tuple(
            {k: jnp.asarray(v, jnp.float32) for k, v in f.items()}
            for f in (of_output, of_target)
        ),
    )
    o, t = output.astype(np.float64), target.astype(np.float64)
    expected = {
        "pixel": np.mean((o - t) ** 2),
        "ssim": 1 - reference_ssim(output, target).mean(),
        "grad": sum(
            np.mean((x - y) ** 2)
            for x, y in zip(reference_gradients(o), reference_gradients(t), strict=True)
        ),
        "percep": sum(np.mean((of_output[k] - of_target[k]) ** 2) for k in of_output)
        / 255**2,
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
    percep = ({"relu1_1": output}, {"relu1_1": target})
    _, terms = teacher_loss(output, target, percep=percep)
    total, same = teacher_loss(
        output, target, mu=7.0, grad_weight=3.0, percep_weight=500.0, percep=percep
    )
    for name, value in terms.items():
        np.testing.assert_allclose(same[name], value, rtol=1e-6)
    weights = {"pixel": 1.0, "ssim": 7.0, "grad": 3.0, "percep": 500.0}
    expected = sum(weights[name] * float(value) for name, value in terms.items())
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    _, doubled = teacher_loss(
        output, target, percep=percep, percep_scale=2 * teacher.PERCEP_SCALE
    )
    np.testing.assert_allclose(doubled["percep"], 2 * terms["percep"], rtol=1e-6)


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


def test_teacher_loss_of_a_batch_is_the_mean_over_its_images():
    output, target = (jnp.asarray(x) for x in float_images("smooth"))
    total, terms = teacher_loss(output, target)
    totals, per_image = jax.jit(jax.vmap(teacher.teacher_loss))(
        output[:, None], target[:, None]
    )
    np.testing.assert_allclose(totals.mean(), total, rtol=1e-5)
    for name, values in per_image.items():
        assert values.shape == (3,)
        np.testing.assert_allclose(values.mean(), terms[name], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_gradient_is_finite(kind):
    output, target = (jnp.asarray(x) for x in float_images(kind))
    for a, b in ((output, target), (target, output)):
        assert np.isfinite(teacher_gradient(a, b)).all()


# Student


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


# Every loss


def every_loss(a, b):
    """All scalars of this module for two images."""
    features = {"x": a * 100}, {"x": b * 100}
    return {
        "ssim": quality.ssim(a, b).mean(),
        "psnr": quality.psnr(a, b).mean(),
        "teacher": teacher.teacher_loss(a, b, percep=features),
        "phase1": student.student_phase1_loss(a, b),
        "phase2": student.student_phase2_loss(a, b, [a, a], [b, b]),
    }


def test_bfloat16_input_is_summed_in_float32():
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in float_images("smooth"))
    expected = every_loss(a.astype(jnp.float32), b.astype(jnp.float32))
    # Products by 100 above round in bfloat16: leave that one term out.
    for result in (got := every_loss(a, b)), expected:
        result["teacher"] = teacher.teacher_loss(
            a.astype(jnp.float32) if result is expected else a,
            b.astype(jnp.float32) if result is expected else b,
        )
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_array_equal(x, y)


def test_jit_changes_nothing():
    a, b = (jnp.asarray(x) for x in float_images("smooth"))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        jax.jit(every_loss)(a, b),
        every_loss(a, b),
    )


IMAGE = (2, 16, 16, 1)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (quality.ssim, (IMAGE, (1, 16, 16, 1))),  # would broadcast
        (quality.ssim, ((2, 16, 16, 3), (2, 16, 16, 3))),
        (quality.ssim, ((16, 16, 1), (16, 16, 1))),
        (quality.psnr, (IMAGE, (2, 16, 1, 1))),
        (quality.psnr, ((2, 16, 16), (2, 16, 16))),
        (teacher.teacher_loss, (IMAGE, (2, 16, 17, 1))),
        (student.student_phase1_loss, ((2, 8, 8, 16), (2, 8, 8, 1))),
    ],
)
def test_wrong_shapes_are_refused(function, shapes):
    with pytest.raises(ValueError, match=r"\(\d+, \d+, "):
        function(*(jnp.zeros(shape) for shape in shapes))


def test_integer_images_are_refused():
    x = jnp.zeros(IMAGE, jnp.uint8)
    for function in (quality.ssim, quality.psnr, teacher.teacher_loss):
        with pytest.raises(ValueError, match="floating-point input, got uint8"):
            function(x, x)


def test_small_images_have_no_sobel():
    with pytest.raises(ValueError, match="at least 3x3"):
        quality.sobel(jnp.zeros((1, 2, 9, 1)))


def test_features_that_do_not_pair_are_refused():
    x = jnp.zeros(IMAGE)
    for percep in (({"a": x}, {"b": x}), ({}, {})):
        with pytest.raises(ValueError, match="equal layers"):
            teacher.teacher_loss(x, x, percep=percep)
    with pytest.raises(ValueError, match=r"layer a: shapes .* differ"):
        teacher.teacher_loss(x, x, percep=({"a": x}, {"a": x[:1]}))
    with pytest.raises(ValueError, match="2 of the teacher and 1 of the student"):
        student.student_phase2_loss(x, x, [x, x], [x])
    with pytest.raises(ValueError, match=r"feature pair 1: shapes"):
        student.student_phase2_loss(x, x, [x, x], [x, x[:1]])
    with pytest.raises(ValueError, match=r"images: shapes"):
        student.student_phase2_loss(x, x[:1], [x], [x])
