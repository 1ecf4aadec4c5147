"""The teacher's reconstruction loss (Eq. 17-21)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_floats, as_images
from hkdnet_jax.losses.quality import ssim
from hkdnet_jax.ops.filters import sobel

Terms = dict[str, jax.Array]
Features = Mapping[str, jax.Array]
# VGG16 takes images in 0..255 and its activations grow nearly in proportion to them, so
# features divided by 255 are those of an image in [0, 1]. Measured on three RoadScene
# pairs with relu2_2 and relu3_3, the output being the target blurred by a Gaussian of 1
# pixel: pixel 6e-5 to 6e-4, mu ssim 19 to 82, grad 0.003 to 0.026, percep 0.09 to 0.36.
# So the term counts more than the gradient and stays below SSIM, which mu = 1000 makes
# the leading term; unscaled it would be 300 times SSIM.
PERCEP_SCALE = 255.0**-2


def teacher_loss(
    output: jax.Array,
    target: jax.Array,
    *,
    mu: float = 1000.0,
    percep_weight: float = 1.0,
    percep: tuple[Features, Features] | None = None,
) -> tuple[jax.Array, Terms]:
    """Computes the reconstruction loss, Eq. 17: pixel + mu ssim + grad + percep.

    Differences are squared, as in the DenseFuse family that the teacher belongs to:

    - ``pixel`` (Eq. 18): mean of (output - target)^2;
    - ``ssim`` (Eq. 19): 1 - SSIM;
    - ``grad`` (Eq. 20): mean of the squared differences of the two `sobel`
      derivatives, x plus y, over the interior;
    - ``percep`` (Eq. 21): `PERCEP_SCALE` times the sum over the VGG16 layers of the
      mean squared difference of the features.

    Args:
      output, target: floating [N, H, W, 1] in [0, 1], with H, W >= 11.
      mu: weight of the SSIM term.
      percep_weight: weight of the perceptual term.
      percep: `vgg.features` of the output and of the target, or None to leave the
        term out.

    Returns:
      The weighted total, and the unweighted terms by name; float32 scalars.
      Without ``percep`` there is no term of that name.

    Raises:
      ValueError: shapes or layers differ or are others, or an array is not
        floating-point.
    """
    output, target = as_images("teacher_loss", output, target)
    gradients = zip(sobel(output, axes=(1, 2)), sobel(target, axes=(1, 2)), strict=True)
    terms = {
        "pixel": _mean_square(output, target),
        "ssim": 1.0 - ssim(output, target).mean(),
        "grad": sum(_mean_square(a, b) for a, b in gradients),
    }
    total = terms["pixel"] + mu * terms["ssim"] + terms["grad"]
    if percep is not None:
        of_output, of_target = percep
        if of_output.keys() != of_target.keys() or not of_output:
            raise ValueError(
                "teacher_loss: perceptual features of the output and of the target "
                "must have the same layers, got "
                f"{list(of_output)} and {list(of_target)}"
            )
        pairs = (as_floats(f"layer {k}", of_output[k], of_target[k]) for k in of_output)
        terms["percep"] = PERCEP_SCALE * sum(_mean_square(a, b) for a, b in pairs)
        total += percep_weight * terms["percep"]
    return total, terms


def _mean_square(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean squared difference."""
    return jnp.square(a - b).mean()
