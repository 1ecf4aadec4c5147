"""Networks that enlarge one image, run on gray ones and trained on gray ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.baselines.recipe import Params, Recipe, Scalars, one_of
from hkdnet_jax.baselines.types import Enlargement, Image
from hkdnet_jax.baselines.weights import Weights, run
from hkdnet_jax.common.arrays import degrade, resize_bicubic
from hkdnet_jax.losses import quality

# The mean colour of the pictures (DIV2K) that EDSR and RCAN were trained on.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def load(weights: Weights, name: str, network_class: type[nn.Module]) -> Enlargement:
    """Loads the enlargement by a system that has one network for each scale.

    A colour network gets the gray image in every channel, and its first channel is
    taken.

    Args:
      weights: holds the model directories NAME_x2, NAME_x3 and so on.
      name: the system's name.
      network_class: its network, with the attribute `scale`.
    """
    loaded = {}

    def enlarge(image: Image, scale: int) -> Image:
        if scale not in loaded:
            directory = f"{name}_x{scale}"
            loaded[scale] = weights.load(directory, name, network_class, inputs=1)
        return run(*loaded[scale], image)[..., 0]

    return enlarge


def recipe(build: Callable[[int], nn.Module]) -> Recipe:
    """The training of such a network on the images of the pairs, each by itself.

    The loss is the mean absolute difference, as both EDSR's and RCAN's authors have it;
    the small images are those that our own student gets.
    """
    return Recipe(build, inputs=1, loss=_loss, validate=_validate)


def _loss(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array, key: jax.Array
) -> tuple[jax.Array, Scalars]:
    image = one_of(key, ir, vis)
    output = network.apply({"params": params}, degrade(image, network.scale))
    distance = jnp.mean(jnp.abs(output - image))
    return distance, {"image": distance}


def _validate(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array
) -> tuple[Scalars, Scalars]:
    """PSNR in dB and SSIM of both images of each pair, and those of bicubic."""
    values, pictures = {}, {}
    for name, image in (("ir", ir), ("vis", vis)):
        low = degrade(image, network.scale)
        output = jnp.clip(network.apply({"params": params}, low), 0.0, 1.0)
        bicubic = jnp.clip(resize_bicubic(low, network.scale), 0.0, 1.0)
        for suffix, picture in (("", output), ("_bicubic", bicubic)):
            values[f"psnr{suffix}_{name}"] = quality.psnr(picture, image)
            values[f"ssim{suffix}_{name}"] = quality.ssim(picture, image)
        pictures[name] = output
    for kind in ("psnr", "ssim", "psnr_bicubic", "ssim_bicubic"):
        values[kind] = (values[f"{kind}_ir"] + values[f"{kind}_vis"]) / 2
    return values, pictures
