"""RCAN [32], which enlarges one image.

Source: Zhang, Li, Li, Wang, Zhong and Fu, "Image Super-Resolution Using Very Deep
Residual Channel Attention Networks", ECCV 2018, and the authors' PyTorch program.

Known: everything: ten residual groups of twenty residual channel-attention blocks, 64
features, reduction 16 (15.4 million parameters at x2); a convolution after the groups
and a skip around both; sub-pixel enlargement; levels of 0 to 255 less the mean colour
of DIV2K.  The blocks are those of HKDnet's own student (`models.blocks`).

Our reading, for gray pictures: as for EDSR.

Weights: none come with the package.  `convert --kind rcan` reads the state dicts of the
authors' program; `configs/baseline.py:rcan_x2` trains a small gray form, four groups of
four blocks of 32 features.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.baselines.edsr import skip_mean_shifts, sub_pixel_scale
from hkdnet_jax.baselines.super_resolution import DIV2K_MEAN, recipe
from hkdnet_jax.models.blocks import ResidualGroup, Upsampler
from hkdnet_jax.ops.conv import Conv3x3
from hkdnet_jax.released.tensors import Params, Tensors, residual_group, upsampler

NAME = "rcan"


class RCAN(nn.Module):
    """The network.

    Attributes:
      scale: output pixels per input pixel along each side: 2, 3 or 4.
      groups: number of residual groups.
      blocks: number of blocks in each.
      width: number of features.
      reduction: features per hidden unit of a block's gate.
      channels: 3 for colour, 1 for gray images.
    """

    scale: int
    groups: int = 10
    blocks: int = 20
    width: int = 64
    reduction: int = 16
    channels: int = 3

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Enlarges float32 [N, H, W, channels], nominally in [0, 1]; not clipped."""
        mean = jnp.asarray(DIV2K_MEAN[: self.channels])[None, None, None]
        x = head = Conv3x3(self.width, name="head")(255.0 * (image - mean))
        for i in range(self.groups):
            x = ResidualGroup(self.blocks, self.reduction, name=f"group{i + 1}")(x)
        x = Conv3x3(self.width, name="body")(x) + head
        x = Upsampler(self.scale, name="upsampler")(x)
        return Conv3x3(self.channels, name="tail")(x) / 255.0 + mean


# About as large as our own student `lite`, so that equal steps are equal work.
_SMALL = {"groups": 4, "blocks": 4, "width": 32, "reduction": 8, "channels": 1}
RECIPE = recipe(lambda scale: RCAN(scale, **_SMALL))


def convert(tensors: Tensors) -> tuple[dict, Params]:
    """Converts a state dict of the authors' program to attributes and parameters."""
    width, channels = tensors.shape("head.0.weight", 4)[:2]
    groups = tensors.count("body.{}.body.0.body.0.weight")
    blocks = tensors.count("body.0.body.{}.body.0.weight")
    hidden = tensors.shape("body.0.body.0.body.3.conv_du.0.weight", 4)[0]
    reduction, scale = width // hidden, sub_pixel_scale(tensors, width)
    skip_mean_shifts(tensors, channels)
    params = {
        f"group{i + 1}": residual_group(tensors, f"body.{i}", blocks, width, reduction)
        for i in range(groups)
    }
    params |= {
        "head": tensors.conv3("head.0", channels, width),
        "body": tensors.conv3(f"body.{groups}", width, width),
        "upsampler": upsampler(tensors, "tail.0", scale, width),
        "tail": tensors.conv3("tail.1", width, channels),
    }
    attributes = {
        "scale": scale,
        "groups": groups,
        "blocks": blocks,
        "width": width,
        "reduction": reduction,
        "channels": channels,
    }
    return attributes, params
