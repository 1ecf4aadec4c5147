"""The rule of vivid pictures: what is striking in either image, at full contrast.

It is not in the paper, whose fusion is nearly a fixed average:

    fused = tone(GAIN * (low_ir + low_vis) - OFFSET) + detail

where low is a Gaussian mean, and detail the difference from it of whichever image has
more of it nearby.  A sum of the low parts keeps the light of both, and a choice between
the details, unlike a sum, cannot let a person who is hot, but dark in the visible
image, cancel out.  The tone curve keeps the sum well below white, so that in white
smoke or glare there is room for a hot person who has to be brighter still.

It is what the vivid teacher learns (`losses.vivid`).
"""

import jax
import jax.numpy as jnp

from hkdnet_jax.ops.extent import local_mean

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


def vivid_images(ir: jax.Array, vis: jax.Array) -> jax.Array:
    """Fuses images by the rule of the module.

    With d the detail and m the Gaussian mean of NEAR_SIGMA, the strength of an image is
    e = m(d^2)^(SHARPNESS / 2), where the positive details of the infrared count WARM
    times, and the detail of the picture is

        (e_ir d_ir + e_vis d_vis) / (e_ir + e_vis + NOISE^SHARPNESS)

    Args:
      ir: float32 or float64 [N, H, W, 1] in [0, 1].
      vis: like ir.

    Returns:
      [N, H, W, 1], clipped to [0, 1].
    """
    both = jnp.concatenate([ir, vis], axis=-1)
    low = local_mean(both, LOW_SIGMA)
    detail = both - low
    warm = jnp.where(detail[..., :1] > 0, WARM, 1.0)
    weighted = jnp.concatenate([warm * detail[..., :1], detail[..., 1:]], axis=-1)
    # In units of the noise, since the fourth power of a level is a tiny number.
    square = jnp.square(weighted / NOISE)
    strength = local_mean(square, NEAR_SIGMA) ** (SHARPNESS // 2)
    chosen = jnp.sum(strength * detail, -1, keepdims=True)
    chosen /= jnp.sum(strength, -1, keepdims=True) + 1.0
    base = tone(GAIN * jnp.sum(low, -1, keepdims=True) - OFFSET)
    return jnp.clip(base + chosen, 0.0, 1.0)
