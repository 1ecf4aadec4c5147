"""EDSR [40], which enlarges one image.

Source: Lim, Son, Kim, Nah and Lee, "Enhanced Deep Residual Networks for Single Image
Super-Resolution", CVPR Workshops 2017, and the authors' PyTorch program.

Known: everything: 3x3 convolutions with zero padding; blocks conv-ReLU-conv without
normalisation, of which 0.1 is added in the large form (32 blocks of 256 features, 40.7
million parameters) and all in the `baseline` (16 of 64, 1.37 million); a convolution
after them and a skip around both; sub-pixel enlargement; levels of 0 to 255 less the
mean colour of DIV2K.

Our reading, for gray pictures: a colour network gets the gray level three times; a gray
one, which HKDnet's authors do not describe, has one channel and the mean 0.4488.

Weights: none come with the package.  `convert --kind edsr` reads the state dicts of the
authors' program; `configs/baseline.py:edsr_x2` trains a small gray form, 16 blocks of
32 features.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.baselines.super_resolution import DIV2K_MEAN, recipe
from hkdnet_jax.models.blocks import Upsampler
from hkdnet_jax.ops.conv import Conv3x3
from hkdnet_jax.released.tensors import Params, Tensors, stack, upsampler

NAME = "edsr"
# The large form adds a tenth of each block, without which it does not train.
_LARGE, _LARGE_RESIDUAL = 256, 0.1


class _Block(nn.Module):
    """Residual block with the signature of a scan body; the carry is the feature."""

    residual_scale: float

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, None]:
        conv = partial(Conv3x3, x.shape[-1])
        y = conv(name="conv2")(nn.relu(conv(name="conv1")(x)))
        return x + self.residual_scale * y, None


class EDSR(nn.Module):
    """The network.

    Attributes:
      scale: output pixels per input pixel along each side: 2, 3 or 4.
      blocks: number of residual blocks.
      width: number of features.
      residual_scale: the share of a block's output that is added to its input.
      channels: 3 for colour, 1 for gray images.
    """

    scale: int
    blocks: int = 16
    width: int = 64
    residual_scale: float = 1.0
    channels: int = 3

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Enlarges float32 [N, H, W, channels], nominally in [0, 1]; not clipped."""
        mean = jnp.asarray(DIV2K_MEAN[: self.channels])[None, None, None]
        head = Conv3x3(self.width, name="head")(255.0 * (image - mean))
        body = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.blocks,
        )
        x, _ = body(self.residual_scale, name="blocks")(head, None)
        x = Conv3x3(self.width, name="body")(x) + head
        x = Upsampler(self.scale, name="upsampler")(x)
        return Conv3x3(self.channels, name="tail")(x) / 255.0 + mean


# About as large as our own student `lite`, so that equal steps are equal work.
RECIPE = recipe(lambda scale: EDSR(scale, blocks=16, width=32, channels=1))


def convert(tensors: Tensors) -> tuple[dict, Params]:
    """Converts a state dict of the authors' program to attributes and parameters."""
    width, channels = tensors.shape("head.0.weight", 4)[:2]
    blocks = tensors.count("body.{}.body.0.weight")
    scale = sub_pixel_scale(tensors, width)
    skip_mean_shifts(tensors, channels)
    layers = [
        {
            "conv1": tensors.conv3(f"body.{i}.body.0", width, width),
            "conv2": tensors.conv3(f"body.{i}.body.2", width, width),
        }
        for i in range(blocks)
    ]
    params = {
        "head": tensors.conv3("head.0", channels, width),
        "blocks": stack(layers),
        "body": tensors.conv3(f"body.{blocks}", width, width),
        "upsampler": upsampler(tensors, "tail.0", scale, width),
        "tail": tensors.conv3("tail.1", width, channels),
    }
    attributes = {
        "scale": scale,
        "blocks": blocks,
        "width": width,
        "residual_scale": _LARGE_RESIDUAL if width >= _LARGE else 1.0,
        "channels": channels,
    }
    return attributes, params


def sub_pixel_scale(tensors: Tensors, width: int) -> int:
    """The scale that the convolutions before the pixel shuffles are for."""
    if tensors.count("tail.0.{}.weight", step=2) == 2:
        return 4
    return 3 if tensors.shape("tail.0.0.weight", 4)[0] == 9 * width else 2


def skip_mean_shifts(tensors: Tensors, channels: int) -> None:
    """Leaves out the fixed 1x1 convolutions that shift a picture by its mean colour."""
    for name in ("sub_mean", "add_mean"):
        tensors.leave_out(f"{name}.weight", channels, channels, 1, 1)
        tensors.leave_out(f"{name}.bias", channels)
