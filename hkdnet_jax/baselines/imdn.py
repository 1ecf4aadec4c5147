"""IMDN, which enlarges one image: an outside check of the enlargements trained here.

Source: Hui, Gao, Yang and Wang, "Lightweight Image Super-Resolution with Information
Multi-distillation Network", ACM Multimedia 2019.  It is not in the paper's Table I.

Known: everything.  3x3 convolutions with zero padding and leaky ReLU of slope 0.05; six
blocks, each of which splits 16 of 64 channels off three times, joins them, and scales
the channels by a gate of their mean plus their standard deviation; colour in [0, 1].

Weights: the authors' own for x2, x3 and x4 (0.69 to 0.72 million parameters), which
were trained on bicubic degradation; `convert --kind imdn` reads them.
"""

from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.released.tensors import Params, Tensors, shuffled

NAME = "imdn"
_WIDTH, _SPLIT, _BLOCKS, _REDUCTION = 64, 16, 6, 16
_leaky = partial(nn.leaky_relu, negative_slope=0.05)


class _Distillation(nn.Module):
    """Block that splits channels off step by step and adds what it makes of them."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps [N, H, W, 64] to the same shape."""
        parts, rest = [], image
        for i in range(3):
            x = _leaky(Conv3x3(_WIDTH, name=f"conv{i + 1}")(rest))
            parts.append(x[..., :_SPLIT])
            rest = x[..., _SPLIT:]
        parts.append(Conv3x3(_SPLIT, name="conv4")(rest))
        x = jnp.concatenate(parts, -1)
        mean = jnp.mean(x, (1, 2), keepdims=True)
        contrast = mean + jnp.std(x, (1, 2), keepdims=True)
        gate = nn.relu(Conv1x1(_WIDTH // _REDUCTION, name="down")(contrast))
        x = x * nn.sigmoid(Conv1x1(_WIDTH, name="up")(gate))
        return image + Conv1x1(_WIDTH, name="mix")(x)


class IMDN(nn.Module):
    """The network.

    Attributes:
      scale: output pixels per input pixel along each side.
      channels: of its images.
    """

    scale: int
    channels: int = 3

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Enlarges float32 [N, H, W, channels], nominally in [0, 1]; not clipped."""
        x = head = Conv3x3(_WIDTH, name="head")(image)
        features = []
        for i in range(_BLOCKS):
            x = _Distillation(name=f"block{i + 1}")(x)
            features.append(x)
        x = _leaky(Conv1x1(_WIDTH, name="collect")(jnp.concatenate(features, -1)))
        x = Conv3x3(_WIDTH, name="body")(x) + head
        x = Conv3x3(self.channels * self.scale**2, name="tail")(x)
        return dm_pix.depth_to_space(x, self.scale)


def convert(tensors: Tensors) -> tuple[dict, Params]:
    """Converts the authors' state dict to attributes and parameters."""
    channels = tensors.shape("fea_conv.weight", 4)[1]
    outputs = tensors.shape("upsampler.0.weight", 4)[0]
    scale = round((outputs / max(channels, 1)) ** 0.5)
    params = {
        "head": tensors.conv3("fea_conv", channels, _WIDTH),
        "collect": tensors.conv1("c.0", _BLOCKS * _WIDTH, _WIDTH),
        "body": tensors.conv3("LR_conv", _WIDTH, _WIDTH),
        "tail": shuffled(
            tensors.conv3("upsampler.0", _WIDTH, channels * scale**2), scale
        ),
    }
    rest = _WIDTH - _SPLIT
    for i in range(_BLOCKS):
        name = f"IMDB{i + 1}"
        params[f"block{i + 1}"] = {
            "conv1": tensors.conv3(f"{name}.c1", _WIDTH, _WIDTH),
            "conv2": tensors.conv3(f"{name}.c2", rest, _WIDTH),
            "conv3": tensors.conv3(f"{name}.c3", rest, _WIDTH),
            "conv4": tensors.conv3(f"{name}.c4", rest, _SPLIT),
            "down": tensors.conv1(
                f"{name}.cca.conv_du.0", _WIDTH, _WIDTH // _REDUCTION
            ),
            "up": tensors.conv1(f"{name}.cca.conv_du.2", _WIDTH // _REDUCTION, _WIDTH),
            "mix": tensors.conv1(f"{name}.c5", _WIDTH, _WIDTH),
        }
    return {"scale": scale, "channels": channels}, params
