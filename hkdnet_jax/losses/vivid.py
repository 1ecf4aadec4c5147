"""The vivid teacher's loss: the picture that a fused pair should look like.

It is not in the paper, whose fusion is nearly a fixed average.  `vivid_target` shows
what is striking in either source at its full contrast:

    fused = tone(GAIN * (low_ir + low_vis) - OFFSET) + detail

where low is a Gaussian mean, and detail the difference from it of whichever source has
more of it nearby.  A sum of the low parts keeps the light of both, and a choice between
the details, unlike a sum, cannot let a person who is hot, but dark in the visible
image, cancel out.  The tone curve keeps the sum well below white, so that in white
smoke or glare there is room for a hot person who has to be brighter still.
"""

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_images
from hkdnet_jax.losses.quality import ssim
from hkdnet_jax.losses.teacher import Terms
from hkdnet_jax.ops.extent import local_mean
from hkdnet_jax.ops.filters import sobel

# Sigma in pixels of the low part, and of the neighbourhood that details compete in.
LOW_SIGMA, NEAR_SIGMA = 12.0, 3.0
# By how much a warm detail counts for more than a visible one of the same strength.
WARM = 2.5
# The larger, the harder is the choice between details.
SHARPNESS = 4
# Details as weak as this are half suppressed, where the other source has none either:
# they are noise.  It is a share of the full range.
NOISE = 1.0 / 255.0
# Of the sum of the low parts, and the soft limits that leave room for the details.
GAIN, OFFSET = 0.85, 0.18
BLACK, WHITE, KNEE = 0.03, 0.8, 0.25


def tone(level: jax.Array) -> jax.Array:
    """Limits levels to BLACK..WHITE; those KNEE away from both stay as they are.

    Nearer to them it follows a hyperbolic tangent, so that it is smooth and increases.
    """
    top, bottom = WHITE - KNEE, BLACK + KNEE
    level = jnp.where(level > top, top + KNEE * jnp.tanh((level - top) / KNEE), level)
    dark = bottom + KNEE * jnp.tanh((level - bottom) / KNEE)
    return jnp.where(level < bottom, dark, level)


def vivid_target(ir: jax.Array, vis: jax.Array) -> jax.Array:
    """Computes the picture that the vivid teacher learns, see the module.

    With d the detail and m the Gaussian mean of NEAR_SIGMA, the strength of a source is
    e = m(d^2)^(SHARPNESS / 2), where the positive details of the infrared count WARM
    times, and the detail of the picture is

        (e_ir d_ir + e_vis d_vis) / (e_ir + e_vis + NOISE^SHARPNESS)

    Args:
      ir, vis: floating [N, H, W, 1] in [0, 1].

    Returns:
      [N, H, W, 1], clipped to [0, 1].

    Raises:
      ValueError: the shapes are others or differ, or the dtype is not floating-point.
    """
    ir, vis = as_images("vivid_target", ir, vis)
    both = jnp.concatenate([ir, vis], axis=-1)
    low = local_mean(both, LOW_SIGMA)
    detail = both - low
    weight = jnp.stack(
        [jnp.where(detail[..., 0] > 0, WARM, 1.0), jnp.ones(ir.shape[:3])]
    )
    weight = jnp.moveaxis(weight, 0, -1)
    power = SHARPNESS // 2
    # In units of the noise, since the fourth power of a level is a tiny number.
    strength = local_mean(jnp.square(detail * weight / NOISE), NEAR_SIGMA) ** power
    chosen = jnp.sum(strength * detail, -1, keepdims=True)
    chosen /= jnp.sum(strength, -1, keepdims=True) + 1.0
    base = tone(GAIN * jnp.sum(low, -1, keepdims=True) - OFFSET)
    return jnp.clip(base + chosen, 0.0, 1.0)


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
