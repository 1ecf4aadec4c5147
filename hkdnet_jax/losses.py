"""The losses of the paper (Eq. 17-23), SSIM and PSNR: pure functions.

Images are [N, H, W, 1], floating point, range [0, 1]; features are [N, H, W, C].
Everything is computed and returned in float32 whatever the dtype of the input, and
every loss is a mean over batch and pixels, so values do not depend on the size. For
per-image values, `jax.vmap` over batches of one: all images weigh the same in a batch.
Shapes that do not fit and integer input raise ValueError.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Terms = dict[str, jax.Array]
Features = Mapping[str, jax.Array]

# VGG16 takes images in 0..255 and its activations grow nearly in proportion to them, so
# features divided by 255 are those of an image in [0, 1].
PERCEP_SCALE = 255.0**-2

_WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels
_C1 = 0.01**2  # (K1 * data range)^2
_C2 = 0.03**2  # (K2 * data range)^2
_MSE_FLOOR = 1e-10


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity (Wang et al. 2004), data range 1.

    11x11 Gaussian window of sigma 1.5, population (co)variances, mean over the
    positions where the window lies wholly inside the image. Unlike `dm_pix.ssim` the
    (co)variances are not clipped: clipping takes away the gradient that brings
    contrast back to a flat patch.

    Args:
      a, b: [N, H, W, 1] with H, W >= 11.

    Returns:
      [N] float32, 1 for equal images. Differentiable everywhere.
    """
    a, b = _images("ssim", a, b)
    _, height, width, _ = a.shape
    if min(height, width) < _WINDOW:
        raise ValueError(
            f"ssim needs images of at least {_WINDOW}x{_WINDOW}, got {height}x{width}"
        )
    rows, columns = _gaussian_rows(height), _gaussian_rows(width)

    def local_mean(x: jax.Array) -> jax.Array:
        # Two banded matrix products: on a CPU many times faster, forward and backward,
        # than convolutions with one channel. HIGHEST, since the variances are small
        # differences that TF32 or bfloat16 products would drown.
        return jnp.einsum(
            "ih,nhwc,jw->nijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST
        )

    # (Co)variances do not change when a constant is taken off an image, and near zero
    # float32 keeps more digits of their differences.
    offset_a, offset_b = (
        jax.lax.stop_gradient(x.mean(axis=(1, 2, 3), keepdims=True)) for x in (a, b)
    )
    a, b = a - offset_a, b - offset_b
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    mean_a, mean_b = mean_a + offset_a, mean_b + offset_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variances + _C2)
    # The mean of the distances from 1: a float32 sum of many values near 1 is 5e-6 off.
    return 1.0 - (1.0 - luminance * structure).mean(axis=(1, 2, 3))


def _gaussian_rows(size: int) -> jax.Array:
    """[size - 10, size]: row i holds the normalised window over pixels i to i + 10."""
    offset = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-0.5 * (offset / _SIGMA) ** 2)
    window /= window.sum()
    matrix = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = window
    return jnp.asarray(matrix, jnp.float32)


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Peak signal-to-noise ratio in dB, data range 1.

    The mean squared error is taken as at least 1e-10, so equal images give 100 dB.

    Args:
      a, b: [N, H, W, 1].

    Returns:
      [N] float32, at most 100.
    """
    a, b = _images("psnr", a, b)
    error = jnp.square(a - b).mean(axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(error, _MSE_FLOOR))


def sobel(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sobel derivatives along x (right minus left) and y (lower minus upper).

    The kernels are the integer ones, [1, 2, 1] across [-1, 0, 1], not normalised. Only
    the interior is returned, so no border is made up.

    Args:
      x: [N, H, W, C] with H, W >= 3.

    Returns:
      Two arrays [N, H - 2, W - 2, C] of the dtype of ``x``.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < 3:
        raise ValueError(f"sobel needs [N, H, W, C] of at least 3x3, got {x.shape}")

    def smooth(y: jax.Array, axis: int) -> jax.Array:
        first, middle, last = (_window_slice(y, axis, start) for start in (0, 1, 2))
        return first + 2 * middle + last

    def difference(y: jax.Array, axis: int) -> jax.Array:
        return _window_slice(y, axis, 2) - _window_slice(y, axis, 0)

    return smooth(difference(x, 2), 1), smooth(difference(x, 1), 2)


def _window_slice(x: jax.Array, axis: int, start: int) -> jax.Array:
    """All but two entries along ``axis``, from ``start`` on."""
    return jax.lax.slice_in_dim(x, start, start + x.shape[axis] - 2, axis=axis)


def teacher_loss(
    output: jax.Array,
    target: jax.Array,
    *,
    mu: float = 1000.0,
    grad_weight: float = 1.0,
    percep_weight: float = 1.0,
    percep: tuple[Features, Features] | None = None,
    percep_scale: float = PERCEP_SCALE,
) -> tuple[jax.Array, Terms]:
    """The teacher's reconstruction loss, Eq. 17: pixel + mu ssim + grad + percep.

    Differences are squared, as in the DenseFuse family that the teacher belongs to:

    - ``pixel`` (Eq. 18): mean of (output - target)^2;
    - ``ssim`` (Eq. 19): 1 - SSIM;
    - ``grad`` (Eq. 20): mean of the squared differences of the two `sobel`
      derivatives, x plus y, over the interior;
    - ``percep`` (Eq. 21): ``percep_scale`` times the sum over the VGG16 layers of the
      mean squared difference of the features.

    Args:
      output, target: [N, H, W, 1] with H, W >= 11.
      mu: weight of the SSIM term.
      grad_weight: weight of the gradient term.
      percep_weight: weight of the perceptual term.
      percep: `vgg.features` of the output and of the target, or None to leave the
        term out.
      percep_scale: what squared VGG16 features are multiplied with; the default,
        1/255^2, brings them to the image range [0, 1]. Measured on three RoadScene
        pairs with relu2_2 and relu3_3, the output being the target blurred by a
        Gaussian of 1 pixel: pixel 6e-5 to 6e-4, mu ssim 19 to 82, grad 0.003 to 0.026,
        percep 0.09 to 0.36. So it counts more than the gradient and stays below SSIM,
        which mu = 1000 makes the leading term; unscaled it would be 300 times SSIM.

    Returns:
      The weighted total, and the terms by name, not weighted; float32 scalars.
      Without ``percep`` there is no term of that name.
    """
    output, target = _images("teacher_loss", output, target)
    gradients = zip(sobel(output), sobel(target), strict=True)
    terms = {
        "pixel": _mean_square(output, target),
        "ssim": 1.0 - ssim(output, target).mean(),
        "grad": sum(_mean_square(a, b) for a, b in gradients),
    }
    total = terms["pixel"] + mu * terms["ssim"] + grad_weight * terms["grad"]
    if percep is not None:
        of_output, of_target = percep
        if of_output.keys() != of_target.keys() or not of_output:
            raise ValueError(
                "teacher_loss: perceptual features of the output and of the target "
                f"must have equal layers, got {list(of_output)} and {list(of_target)}"
            )
        pairs = (_float32(f"layer {k}", of_output[k], of_target[k]) for k in of_output)
        terms["percep"] = percep_scale * sum(_mean_square(a, b) for a, b in pairs)
        total += percep_weight * terms["percep"]
    return total, terms


def student_phase1_loss(f_t: jax.Array, f_s: jax.Array) -> tuple[jax.Array, Terms]:
    """Fusion-phase loss, Eq. 22: mean |F_f^t - F_f^s|.

    Args:
      f_t: the teacher decoder's penultimate output for the low-resolution pair.
      f_s: the student's fused feature; both [N, h, w, 16].

    Returns:
      The loss, and ``{"feature": loss}``; float32 scalars.
    """
    loss = _mean_abs("student_phase1_loss", f_t, f_s)
    return loss, {"feature": loss}


def student_phase2_loss(
    image_t: jax.Array,
    image_s: jax.Array,
    features_t: Sequence[jax.Array],
    features_s: Sequence[jax.Array],
    phi: float = 1.0,
) -> tuple[jax.Array, Terms]:
    """Super-resolution-phase loss, Eq. 23: mean |I_t - I_s| + phi sum mean |T - S|.

    Args:
      image_t, image_s: teacher's label and student's image, [N, H, W, 1].
      features_t, features_s: pairs to compare, in the same order; equal shapes in a
        pair.
      phi: weight of the feature term.

    Returns:
      The total, and the terms ``image`` and ``feature`` (the sum over the pairs), not
      weighted; float32 scalars.
    """
    if len(features_t) != len(features_s) or not features_t:
        raise ValueError(
            "student_phase2_loss needs pairs of features, got "
            f"{len(features_t)} of the teacher and {len(features_s)} of the student"
        )
    terms = {
        "image": _mean_abs("student_phase2_loss: images", image_t, image_s),
        "feature": sum(
            _mean_abs(f"student_phase2_loss: feature pair {i}", t, s)
            for i, (t, s) in enumerate(zip(features_t, features_s, strict=True))
        ),
    }
    return terms["image"] + phi * terms["feature"], terms


def _mean_abs(name: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference, after the checks of `_float32`."""
    a, b = _float32(name, a, b)
    difference = a - b
    # Not jnp.abs, whose derivative at 0 is 1: values that agree must not be pushed.
    return (difference * jnp.sign(difference)).mean()


def _mean_square(a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean squared difference."""
    return jnp.square(a - b).mean()


def _images(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32, checked to be [N, H, W, 1] of one shape."""
    a, b = _float32(name, a, b)
    if a.ndim != 4 or a.shape[-1] != 1:
        raise ValueError(f"{name} needs images [N, H, W, 1], got {a.shape}")
    return a, b


def _float32(name: str, a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as float32, checked to be floating point and of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} differ")
    for x in (a, b):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"{name} needs floating-point input, got {x.dtype}")
    return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
