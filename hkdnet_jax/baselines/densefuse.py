"""DenseFuse [17], in the form of its authors' PyTorch program.

Source: Li and Wu, "DenseFuse: A fusion approach to infrared and visible images", IEEE
Trans. Image Process. 28(5), 2019.

Known: all layers (HKDnet's teacher is the same encoder and decoder), reflect padding,
inputs of 0 to 255, a ReLU after the last layer too, and the rule of addition, which
this version halves: (F_ir + F_vis) / 2.  The l1 rule is that of the paper: the sum of
magnitudes over the channels, averaged over 3x3 pixels, as ratio weights; at the border
the window is cut off.  (The authors' TensorFlow version has a linear last layer, the
opposite order of the dense block's channels, and adds without halving.)

Weights: the authors' own, 74,193 parameters for gray pictures, trained with lambda 100
on MS-COCO; `convert --kind densefuse` reads them.  `configs/baseline.py:densefuse`
trains the network on the images of our own pairs, with the same loss.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.baselines.recipe import Params, Recipe, Scalars, one_of
from hkdnet_jax.baselines.types import Fusion, Image
from hkdnet_jax.baselines.weights import Weights, run
from hkdnet_jax.losses import quality
from hkdnet_jax.models.fusion import fuse_features
from hkdnet_jax.models.teacher import Decoder, Encoder
from hkdnet_jax.released.tensors import Tensors

RULES = ("addition", "l1")
NAME = "densefuse"
_LAMBDA = 100.0  # weight of the SSIM term


class DenseFuse(nn.Module):
    """The network.

    Attributes:
      rule: how features are fused, one of RULES.
    """

    rule: str = "addition"

    @nn.compact
    def __call__(self, ir: jax.Array, vis: jax.Array) -> jax.Array:
        """Fuses float32 [N, H, W, 1] in [0, 1]; the result is at least 0."""
        encoder = Encoder(name="encoder")
        (_, f_ir), (_, f_vis) = encoder(255.0 * ir), encoder(255.0 * vis)
        if self.rule == "l1":
            fused = fuse_features(f_ir, f_vis)
        else:
            fused = (f_ir + f_vis) / 2.0
        image, _ = Decoder(name="decoder")(fused)
        return jnp.maximum(image, 0.0) / 255.0


def _loss(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array, key: jax.Array
) -> tuple[jax.Array, Scalars]:
    """The network returns one image: lambda (1 - SSIM) + MSE, of levels 0 to 255."""
    image = one_of(key, ir, vis)
    output = network.apply({"params": params}, image, image)
    terms = {
        "pixel": jnp.mean((255.0 * (output - image)) ** 2),
        "ssim": jnp.mean(1.0 - quality.ssim(output, image)),
    }
    return _LAMBDA * terms["ssim"] + terms["pixel"], terms


def _validate(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array
) -> tuple[Scalars, Scalars]:
    """PSNR in dB and SSIM of the images that are returned, and the fused pictures."""
    values = {"psnr": 0.0, "ssim": 0.0}
    for image in (ir, vis):
        output = network.apply({"params": params}, image, image)
        output = jnp.clip(output, 0.0, 1.0)
        values["psnr"] += quality.psnr(output, image) / 2
        values["ssim"] += quality.ssim(output, image) / 2
    fused = network.apply({"params": params}, ir, vis)
    return values, {"ir": ir, "vis": vis, "fused": fused}


RECIPE = Recipe(lambda scale: DenseFuse(), 2, _loss, _validate)


def convert(tensors: Tensors) -> tuple[dict, Params]:
    """Converts the authors' state dict to attributes and parameters."""
    encoder = {"conv1": tensors.conv3("conv1.conv2d", 1, 16)}
    for i in range(3):
        name = f"DB1.denseblock.{i}.dense_conv.conv2d"
        encoder[f"conv{i + 2}"] = tensors.conv3(name, 16 * (i + 1), 16)
    widths = (64, 64, 32, 16, 1)
    decoder = {
        f"conv{i + 1}": tensors.conv3(f"conv{i + 2}.conv2d", *widths[i : i + 2])
        for i in range(4)
    }
    return {}, {"encoder": encoder, "decoder": decoder}


def load(weights: Weights, rule: str) -> Fusion:
    """Loads the fusion by a rule, one of RULES.

    Raises:
      UserError: the weights are missing or others.
    """
    network, params = weights.load(NAME, NAME, DenseFuse, inputs=2)
    network = network.clone(rule=rule)

    def fuse(ir: Image, vis: Image) -> Image:
        return run(network, params, ir, vis)[..., 0]

    return fuse
