"""The vivid teacher's loss: the picture that a fused pair should look like.

It is not in the paper; `models.vivid` states the rule.
"""

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_images
from hkdnet_jax.losses.quality import ssim
from hkdnet_jax.losses.teacher import Terms
from hkdnet_jax.models.vivid import vivid_images
from hkdnet_jax.ops.filters import sobel


def vivid_target(ir: jax.Array, vis: jax.Array) -> jax.Array:
    """Computes the picture that the vivid teacher learns, `vivid_images`.

    Args:
      ir, vis: floating [N, H, W, 1] in [0, 1].

    Returns:
      [N, H, W, 1], clipped to [0, 1].

    Raises:
      ValueError: the shapes are others or differ, or the dtype is not floating-point.
    """
    return jnp.clip(vivid_images(*as_images("vivid_target", ir, vis)), 0.0, 1.0)


def vivid_loss(
    output: jax.Array,
    ir: jax.Array,
    vis: jax.Array,
    *,
    intensity: float = 10.0,
    gradient: float = 1.0,
    similarity: float = 0.5,
) -> tuple[jax.Array, Terms]:
    """Computes the loss of a fused pair: the weighted sum of three terms.

    - ``intensity``: mean |output - target|, see `vivid_target`;
    - ``gradient``: the same of the two `sobel` derivatives, x plus y, over the
      interior; the target's are, with their sign, those of the source with the stronger
      detail;
    - ``similarity``: 1 - the mean `ssim` with both sources.

    Args:
      output: floating [N, H, W, 1], the fused picture, H, W >= 11.
      ir, vis: its sources, of the same shape, in [0, 1].
      intensity, gradient, similarity: weights of the terms.

    Returns:
      The weighted total, and the unweighted terms by name; float32 scalars.

    Raises:
      ValueError: the shapes are others or differ, or the dtype is not floating-point.
    """
    target = jax.lax.stop_gradient(vivid_target(ir, vis))
    output, target = as_images("vivid_loss", output, target)
    slopes = zip(sobel(output, axes=(1, 2)), sobel(target, axes=(1, 2)), strict=True)
    terms = {
        "intensity": jnp.abs(output - target).mean(),
        "gradient": sum(jnp.abs(a - b).mean() for a, b in slopes),
        "similarity": 1.0 - 0.5 * (ssim(output, ir) + ssim(output, vis)).mean(),
    }
    weights = {"intensity": intensity, "gradient": gradient, "similarity": similarity}
    return sum(weights[name] * terms[name] for name in terms), terms
