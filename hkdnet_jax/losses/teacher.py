"""The teacher's reconstruction loss (Eq. 17-21)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from hkdnet_jax.losses.inputs import as_floats, as_images
from hkdnet_jax.losses.quality import ssim
from hkdnet_jax.ops.filters import sobel

Terms = dict[str, jax.Array]
Features = Mapping[str, jax.Array]
Distance = Callable[[jax.Array, jax.Array], jax.Array]
# VGG16 takes images in 0..255 and its activations grow nearly in proportion to them, so
# features divided by 255 are those of an image in [0, 1].
PERCEP_SCALE = 1.0 / 255.0
# Added under the root of a norm, whose derivative at 0 would otherwise be infinite.  It
# is the square of a millionth of a white pixel.
_LEAST_SQUARE = 1e-12
# Added to deviations, which may be 0.
_LEAST_DEVIATION = 1e-3


def _l2(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean over the batch of the l2 norm of each sample's difference."""
    squares = jnp.square(a - b).sum(axis=(1, 2, 3))
    return jnp.sqrt(squares + _LEAST_SQUARE).mean()


def _mse(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes the mean squared difference."""
    return jnp.square(a - b).mean()


NORMS: dict[str, Distance] = {"l2": _l2, "mse": _mse}


def idleness(linear: jax.Array, least_mean: float) -> jax.Array:
    """Measures how far the units of a ReLU layer are from firing; not in the paper.

    A unit that fires nowhere has no gradient and never fires again.  This term pushes
    the mean of each unit's input up to ``least_mean``; above that it vanishes.

    Args:
      linear: floating [N, H, W, C], the layer before its ReLU.
      least_mean: in standard deviations; at 0 about half of the pixels fire, and at -2
        a few per cent.

    Returns:
      The mean over the channels, in standard deviations, a float32 scalar; 0 if every
      unit fires often enough.
    """
    linear = linear.astype(jnp.float32)
    mean, deviation = (f(linear, axis=(0, 1, 2)) for f in (jnp.mean, jnp.std))
    deviation = jax.lax.stop_gradient(deviation) + _LEAST_DEVIATION
    return jax.nn.relu(least_mean - mean / deviation).mean()


def teacher_loss(
    output: jax.Array,
    target: jax.Array,
    *,
    norm: str = "mse",
    mu: float = 1000.0,
    percep_weight: float = 1.0,
    percep: tuple[Features, Features] | None = None,
) -> tuple[jax.Array, Terms]:
    """Computes the reconstruction loss, Eq. 17: pixel + mu ssim + grad + percep.

    - ``pixel`` (Eq. 18): distance of the images;
    - ``ssim`` (Eq. 19): 1 - SSIM;
    - ``grad`` (Eq. 20): distances of the two `sobel` derivatives, x plus y, over the
      interior;
    - ``percep`` (Eq. 21): sum over the VGG16 layers of the distances of the features,
      times `PERCEP_SCALE`.

    Args:
      output, target: floating [N, H, W, 1] in [0, 1], with H, W >= 11.
      norm: what a distance is.  ``mse``: the mean squared difference, which does not
        depend on the size; features are divided by 255 before they are squared.
        ``l2``, the paper's: the l2 norm of each sample's difference, averaged over the
        batch; it grows with the square root of the number of pixels.
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
    distance = NORMS[norm]
    gradients = zip(sobel(output, axes=(1, 2)), sobel(target, axes=(1, 2)), strict=True)
    terms = {
        "pixel": distance(output, target),
        "ssim": 1.0 - ssim(output, target).mean(),
        "grad": sum(distance(a, b) for a, b in gradients),
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
        terms["percep"] = sum(
            distance(PERCEP_SCALE * a, PERCEP_SCALE * b) for a, b in pairs
        )
        total += percep_weight * terms["percep"]
    return total, terms
