"""The student's losses in its two phases (Eq. 22 and 23)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_floats
from hkdnet_jax.losses.teacher import Terms

# A channel's deviation counts as at least this share of the mean over the channels, so
# that a channel that is nearly constant is not blown up.
_LEAST_DEVIATION = 0.1


def student_phase1_loss(
    f_t: jax.Array, f_s: jax.Array, *, scaled: bool = False
) -> tuple[jax.Array, Terms]:
    """Computes the loss of the fusion phase, Eq. 22: mean |F_f^t - F_f^s|.

    Args:
      f_t: [N, h, w, 16], the teacher decoder's penultimate output for the
        low-resolution pair.
      f_s: [N, h, w, 16], the student's fused feature.
      scaled: see `student_phase2_loss`.

    Returns:
      The loss, and ``{"feature": loss}``; float32 scalars.

    Raises:
      ValueError: the shapes differ, or one is not floating-point.
    """
    loss = _feature_distance("student_phase1_loss", f_t, f_s, scaled)
    return loss, {"feature": loss}


def student_phase2_loss(
    image_t: jax.Array,
    image_s: jax.Array,
    features_t: Sequence[jax.Array],
    features_s: Sequence[jax.Array],
    phi: float = 1.0,
    *,
    frequency: float = 0.0,
    scaled: bool = False,
) -> tuple[jax.Array, Terms]:
    """Computes the loss of the second phase, Eq. 23, mean |I_t - I_s| + phi features.

    The feature term is the sum of mean |T - S| over the pairs of features.  A term that
    is not in the paper compares the images' spectra, see `spectral_distance`.

    Args:
      image_t, image_s: the teacher's label and the student's image, [N, H, W, 1].
      features_t, features_s: the features to compare, in the same order and of the same
        shape in each pair. They may be empty if phi is 0.
      phi: weight of the feature term.
      frequency: weight of the spectral term.
      scaled: divides the difference of each channel by the standard deviation of the
        teacher's channel over the batch, so that all channels count alike.  It is not
        in the paper.

    Returns:
      The total, and the unweighted terms ``image``, ``frequency`` (absent if its weight
      is 0) and ``feature`` (absent if there are no pairs); float32 scalars.

    Raises:
      ValueError: shapes or numbers of features differ, features are missing, or an
        array is not floating-point.
    """
    if len(features_t) != len(features_s) or (phi and not features_t):
        raise ValueError(
            "student_phase2_loss needs pairs of features, got "
            f"{len(features_t)} of the teacher and {len(features_s)} of the student"
        )
    terms = {"image": _mean_abs("student_phase2_loss: images", image_t, image_s)}
    total = terms["image"]
    if frequency:
        terms["frequency"] = spectral_distance(image_t, image_s)
        total += frequency * terms["frequency"]
    if features_t:
        terms["feature"] = sum(
            _feature_distance(f"student_phase2_loss: feature pair {i}", t, s, scaled)
            for i, (t, s) in enumerate(zip(features_t, features_s, strict=True))
        )
        total += phi * terms["feature"]
    return total, terms


def spectral_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean absolute difference of two images' discrete Fourier spectra.

    The transform is unitary, real and imaginary parts count alike, and of each pair of
    conjugate coefficients one counts.  Most coefficients are of fine detail, and each
    has a say of its own, whereas in the pixels strong edges outweigh it.

    Source: Cho et al., "Rethinking Coarse-to-Fine Approach in Single Image Deblurring",
    ICCV 2021 (there called multi-scale frequency reconstruction).

    Args:
      a, b: floating [N, H, W, 1], of one shape.

    Returns:
      float32 scalar.

    Raises:
      ValueError: the shapes differ, or one is not floating-point.
    """
    a, b = as_floats("spectral_distance", a, b)
    spectrum = jnp.fft.rfft2((a - b)[..., 0], norm="ortho")
    parts = jnp.stack([spectrum.real, spectrum.imag])
    return (parts * jnp.sign(parts)).mean()


def _feature_distance(
    name: str, teacher: jax.Array, student: jax.Array, scaled: bool
) -> jax.Array:
    """Computes the mean absolute difference of two features, [N, H, W, C] each."""
    teacher, student = as_floats(name, teacher, student)
    if scaled:
        deviation = teacher.std(axis=(0, 1, 2), keepdims=True)
        scale = jnp.maximum(deviation, _LEAST_DEVIATION * deviation.mean())
        # A batch of flat pictures has no deviation at all.
        scale = jax.lax.stop_gradient(jnp.where(scale > 0, scale, 1.0))
        teacher, student = teacher / scale, student / scale
    return _mean_abs(name, teacher, student)


def _mean_abs(name: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean absolute difference, after the checks of `as_floats`."""
    a, b = as_floats(name, a, b)
    difference = a - b
    # jnp.abs has the derivative 1 at 0, but values that agree must not be pushed.
    return (difference * jnp.sign(difference)).mean()
