"""The rule of vivid pictures: what is striking in either image, at full contrast.

It is not in the paper, whose fusion is nearly a fixed average:

    fused = tone(GAIN (low_ir + low_vis) - OFFSET)
            + CONTRAST (w_ir detail_ir + w_vis detail_vis)

where low is a Gaussian mean and detail the difference from it.  The shares w, whose sum
is 1, choose whichever image has more detail nearby; they take the place of Eq. 14 and
15.  A sum of the low parts keeps the light of both, and a choice between the details,
unlike a sum, cannot let a person who is hot, but dark in the visible image, cancel out.
The tone curve keeps the sum well below white, so that in white smoke or glare there is
room for a hot person who has to be brighter still.

The vivid teacher fuses features by these shares (`models.teacher`) and learns from the
rule's pictures (`losses.vivid`); the student's global skip may follow the rule too.
Files of models rely on the constants, which therefore stay as they are.
"""

import jax
import jax.numpy as jnp

from hkdnet_jax.ops.extent import Extent, local_mean

# Sigma in pixels of the low part of a high-resolution image.  The neighbourhood that
# details compete in is NEAR times as wide.
LOW_SIGMA, NEAR = 12.0, 0.25
# By how much a warm detail counts for more than a visible one of the same strength.
WARM = 2.5
# The larger, the harder is the choice between details.
SHARPNESS = 4
# Where both details are weaker than this they are noise, and their mean is taken.  It
# is a share of the full range.
NOISE = 1.0 / 255.0
# Of the details, which gives back what the choice and the limits take away.
CONTRAST = 1.2
# Of the sum of the low parts, and the soft limits that leave room for the details.
GAIN, OFFSET = 0.8, 0.14
BLACK, WHITE, KNEE = 0.03, 0.8, 0.25


def tone(level: jax.Array) -> jax.Array:
    """Limits levels to BLACK..WHITE; those KNEE away from both stay as they are.

    Nearer to them it follows a hyperbolic tangent, so that it is smooth and increases.
    """
    top, bottom = WHITE - KNEE, BLACK + KNEE
    level = jnp.where(level > top, top + KNEE * jnp.tanh((level - top) / KNEE), level)
    dark = bottom + KNEE * jnp.tanh((level - bottom) / KNEE)
    return jnp.where(level < bottom, dark, level)


def low_parts(
    ir: jax.Array, vis: jax.Array, sigma: float, extent: Extent | None = None
) -> jax.Array:
    """The Gaussian means of both images, [N, H, W, 2], infrared first.

    Args:
      ir: floating [N, H, W, 1].
      vis: like ir.
      sigma: standard deviation in pixels.
      extent: of the images; see `ops.extent`.
    """
    return local_mean(jnp.concatenate([ir, vis], axis=-1), sigma, extent)


def shares(
    ir: jax.Array,
    vis: jax.Array,
    low: jax.Array,
    sigma: float,
    extent: Extent | None = None,
) -> jax.Array:
    """The share of each image in the details of the picture.

    With d the detail and m the Gaussian mean of NEAR times sigma, the strength of an
    image is e = m(d^2)^(SHARPNESS / 2), where the positive details of the infrared
    count WARM times, and the share of the infrared is

        (e_ir + NOISE^SHARPNESS) / (e_ir + e_vis + 2 NOISE^SHARPNESS)

    Args:
      ir: floating [N, H, W, 1] in [0, 1].
      vis: like ir.
      low: their `low_parts`.
      sigma: that of the low parts, in pixels.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, 2], infrared first; their sum is 1.
    """
    detail = jnp.concatenate([ir, vis], axis=-1) - low
    factors = jnp.array([WARM, 1.0], detail.dtype)
    weighted = jnp.where(detail > 0, factors, 1.0) * detail
    # In units of the noise, since the fourth power of a level is a tiny number.
    square = jnp.square(weighted / NOISE)
    strength = 1.0 + local_mean(square, NEAR * sigma, extent) ** (SHARPNESS // 2)
    return strength / jnp.sum(strength, -1, keepdims=True)


def picture(image: jax.Array, low: jax.Array, share: jax.Array) -> jax.Array:
    """Makes the rule's picture of the images' weighted mean.

    Args:
      image: [N, H, W, 1], `share[0] ir + share[1] vis`.
      low: see `low_parts`.
      share: see `shares`.

    Returns:
      [N, H, W, 1], not clipped.
    """
    detail = image - jnp.sum(share * low, -1, keepdims=True)
    return tone(GAIN * jnp.sum(low, -1, keepdims=True) - OFFSET) + CONTRAST * detail


def vivid_images(
    ir: jax.Array,
    vis: jax.Array,
    sigma: float = LOW_SIGMA,
    extent: Extent | None = None,
) -> jax.Array:
    """Fuses images by the rule of the module.

    Args:
      ir: floating [N, H, W, 1] in [0, 1].
      vis: like ir.
      sigma: of the low parts in pixels; in a low-resolution image LOW_SIGMA divided by
        the scale.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, 1], not clipped.
    """
    low = low_parts(ir, vis, sigma, extent)
    share = shares(ir, vis, low, sigma, extent)
    mean = jnp.sum(share * jnp.concatenate([ir, vis], -1), -1, keepdims=True)
    return picture(mean, low, share)
