"""The student's losses of its two phases (Eq. 22 and 23)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_floats
from hkdnet_jax.losses.teacher import Terms


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
        pair. None at all where phi is 0.
      phi: weight of the feature term.

    Returns:
      The total, and the terms ``image`` and ``feature`` (the sum over the pairs; absent
      without pairs), not weighted; float32 scalars.
    """
    if len(features_t) != len(features_s) or (phi and not features_t):
        raise ValueError(
            "student_phase2_loss needs pairs of features, got "
            f"{len(features_t)} of the teacher and {len(features_s)} of the student"
        )
    terms = {"image": _mean_abs("student_phase2_loss: images", image_t, image_s)}
    if not features_t:
        return terms["image"], terms
    terms["feature"] = sum(
        _mean_abs(f"student_phase2_loss: feature pair {i}", t, s)
        for i, (t, s) in enumerate(zip(features_t, features_s, strict=True))
    )
    return terms["image"] + phi * terms["feature"], terms


def _mean_abs(name: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """Mean absolute difference, after the checks of `as_floats`."""
    a, b = as_floats(name, a, b)
    difference = a - b
    # Not jnp.abs, whose derivative at 0 is 1: values that agree must not be pushed.
    return (difference * jnp.sign(difference)).mean()
