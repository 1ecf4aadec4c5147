"""Converts the tensors of the authors' PyTorch checkpoint to parameters of `Released`.

Names, shapes and dtypes must match exactly.  The tensors in `UNUSED` may be present and
are left out, because the released network does not use them either.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.released.network import (
    DECODED_CHANNELS,
    FIRST_CHANNELS,
    POSITION_REDUCTION,
    SIZES,
)

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which the released network keeps
# A convolution of the fusion part, and the batch counters of its normalisations.
UNUSED = {
    "conv.weight": "64x64x3x3 float32",
    "conv.bias": "64 float32",
    **{f"body_v.1.convp{i}.1.num_batches_tracked": "scalar int64" for i in range(1, 7)},
}
REMEDY = "give the authors' fu_srnet.pth.tar itself."
Params = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class _Tensors:
    """Hands out the tensors of a checkpoint, and records which were requested.

    In place of a tensor that is missing or does not fit it hands out zeros, so that one
    pass finds all differences.
    """

    def __init__(self, arrays: Arrays):
        self._arrays = arrays
        self._wanted: dict[str, str] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Returns the tensor `name`, which should be float32 of `shape`."""
        expected = np.zeros(shape, np.float32)
        self._wanted[name] = trees.describe_array(expected)
        array = self._arrays.get(name, expected)
        same = trees.describe_array(array) == self._wanted[name]
        return array if same else expected

    def differences(self) -> str:
        """Lists tensors that are missing, left over or of another shape; '' if none."""
        present = {name: trees.describe_array(x) for name, x in self._arrays.items()}
        unused = {name: what for name, what in UNUSED.items() if name in present}
        return trees.list_differences(present, self._wanted | unused)

    def kernel(self, name: str, inputs: int, outputs: int) -> np.ndarray:
        """Returns the kernel of a 3x3 convolution, transposed from OIHW to HWIO."""
        weight = self.take(f"{name}.weight", outputs, inputs, 3, 3)
        return weight.transpose(2, 3, 1, 0)

    def conv3(self, name: str, inputs: int, outputs: int) -> Params:
        """Returns a 3x3 convolution with bias."""
        kernel = self.kernel(name, inputs, outputs)
        return {"kernel": kernel, "bias": self.take(f"{name}.bias", outputs)}

    def conv1(self, name: str, inputs: int, outputs: int) -> Params:
        """Returns a 1x1 convolution with bias, its kernel as the matrix of Conv1x1."""
        kernel = self.take(f"{name}.weight", outputs, inputs, 1, 1)
        return {
            "kernel": kernel[:, :, 0, 0].T,
            "bias": self.take(f"{name}.bias", outputs),
        }

    def scalar(self, name: str) -> np.ndarray:
        """Returns a learned scalar, which PyTorch keeps as a vector of length 1."""
        return self.take(name, 1).reshape(())


def convert(arrays: Arrays, scale: int) -> Params:
    """Converts the released tensors to parameters of `network.Released(scale)`.

    Args:
      arrays: the tensors of both state dicts by name.
      scale: 2, 3 or 4.

    Returns:
      Nested dict of float32 arrays.

    Raises:
      UserError: names, shapes or dtypes differ, or a value is not finite.
    """
    params, differences = _build(arrays, scale)
    if differences:
        matching = [other for other in SCALES[1:] if not _build(arrays, other)[1]]
        if matching:
            raise UserError(
                f"it is the checkpoint of scale {matching[0]}, not {scale}: pass "
                f"--scale {matching[0]}, or give the one of scale {scale}."
            )
        raise UserError(
            f"its tensors are not those of the released network ({differences}): "
            f"{REMEDY}"
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise UserError(
            "it holds values that are not finite: copy the checkpoint again."
        )
    return params


def _build(arrays: Arrays, scale: int) -> tuple[Params, str]:
    tensors = _Tensors(arrays)
    params = {"fusion": _fusion_part(tensors), "sr": _sr_part(tensors, scale)}
    return params, tensors.differences()


def _fusion_part(tensors: _Tensors) -> Params:
    c = SIZES.width
    params = {
        "conv1": tensors.conv3("conv1.conv2d", 1, FIRST_CHANNELS),
        "conv2": tensors.conv3("conv2.conv2d", FIRST_CHANNELS, c),
    }
    attentions = {"ir": ("body_i", _dfag), "vis": ("body_v", _cea)}
    for branch, (name, attention) in attentions.items():
        params[branch] = {
            "rg": _residual_group(tensors, f"{name}.0", SIZES.branch_rcabs),
            "attention": attention(tensors, f"{name}.1"),
            "conv": tensors.conv3(f"{name}.2", c, c),
        }
    channels = (c, *SIZES.decoder, DECODED_CHANNELS)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        conv = tensors.conv3(f"conv{i + 5}.conv2d", inputs, outputs)
        params[f"decoder{i + 1}"] = conv
    return params


def _sr_part(tensors: _Tensors, scale: int) -> Params:
    c, groups = SIZES.width, SIZES.sr_groups
    params = {
        f"rg{i + 1}": _residual_group(tensors, f"body.{i}", SIZES.sr_rcabs)
        for i in range(groups)
    }
    return params | {
        "head": tensors.conv3("head.0", DECODED_CHANNELS, c),
        "body": tensors.conv3(f"body.{groups}", c, c),
        "upsampler": _upsampler(tensors, scale),
        "tail": tensors.conv3("tail", c, DECODED_CHANNELS),
        "image": tensors.conv3("result.0", DECODED_CHANNELS, 1),
    }


def _rcab(tensors: _Tensors, name: str) -> Params:
    c = SIZES.width
    hidden = c // SIZES.reduction
    return {
        "conv1": tensors.conv3(f"{name}.body.0", c, c),
        "conv2": tensors.conv3(f"{name}.body.2", c, c),
        "gate": {
            "down": tensors.conv1(f"{name}.body.3.conv_du.0", c, hidden),
            "up": tensors.conv1(f"{name}.body.3.conv_du.2", hidden, c),
        },
    }


def _residual_group(tensors: _Tensors, name: str, rcabs: int) -> Params:
    """Converts a residual group; the parameters of its scanned RCABs are stacked."""
    layers = [_rcab(tensors, f"{name}.body.{i}") for i in range(rcabs)]
    stack = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    conv = tensors.conv3(f"{name}.body.{rcabs}", SIZES.width, SIZES.width)
    return {"rcabs": {"rcab": stack}, "conv": conv}


def _dfag(tensors: _Tensors, name: str) -> Params:
    c = SIZES.width
    params = {"conv": tensors.conv3(f"{name}.body.{SIZES.dfabs}", c, c)}
    for i in range(SIZES.dfabs):
        block = f"{name}.body.{i}"
        params[f"dfab{i + 1}"] = {
            "rcab1": _rcab(tensors, f"{block}.body.0"),
            "rcab2": _rcab(tensors, f"{block}.body.1"),
            "gamma": tensors.scalar(f"{block}.gamma"),
        }
        for conv in ("conv1", "conv2", "conv3"):
            kernel = tensors.kernel(f"{block}.{conv}", c, c)
            params[f"dfab{i + 1}"][conv] = {"kernel": kernel}
    return params


def _cea(tensors: _Tensors, name: str) -> Params:
    c = SIZES.width
    narrow = c // POSITION_REDUCTION
    params = {
        "position": {
            "query": tensors.conv1(f"{name}.poa.query_conv", c, narrow),
            "key": tensors.conv1(f"{name}.poa.key_conv", c, narrow),
            "value": tensors.conv1(f"{name}.poa.value_conv", c, c),
            "gamma": tensors.scalar(f"{name}.poa.gamma"),
        },
        "channel": {"gamma": tensors.scalar(f"{name}.cha.gamma")},
        "corner": {"conv": tensors.conv1(f"{name}.coa.conv.0", c, c)},
        "mix": tensors.conv1(f"{name}.conv8.1", c, c),
    }
    for i, path in enumerate(("position", "channel", "corner")):
        params[f"{path}_in"] = _folded(tensors, f"{name}.convp{2 * i + 1}")
        params[f"{path}_out"] = _folded(tensors, f"{name}.convp{2 * i + 2}")
        params[f"{path}_mix"] = tensors.conv1(f"{name}.conv{5 + i}.1", c, c)
    return params


def _folded(tensors: _Tensors, name: str) -> Params:
    """Folds a 3x3 convolution and the batch normalisation after it into one.

    With fixed statistics, `scale * (conv(x) - mean) / deviation + shift` is the
    convolution with each kernel scaled, plus a bias.  It is computed in float64.
    """
    c = SIZES.width
    kernel = tensors.kernel(f"{name}.0", c, c).astype(np.float64)
    scale, shift, mean, variance = (
        tensors.take(f"{name}.1.{part}", c).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    with np.errstate(invalid="ignore"):  # `convert` finds the NaN of a variance below 0
        scale = scale / np.sqrt(variance + BATCH_NORM_EPSILON)
    folded = {"kernel": kernel * scale, "bias": shift - mean * scale}
    return {part: x.astype(np.float32) for part, x in folded.items()}


def _upsampler(tensors: _Tensors, scale: int) -> Params:
    """Converts the convolutions before the pixel shuffles, with channels in our order.

    Channel k of sub-pixel s is channel `k * r^2 + s` in PyTorch, and `s * C + k` here.
    """
    c = SIZES.width
    params = {}
    for i, r in enumerate((2, 2) if scale == 4 else (scale,)):
        # The odd numbers belong to the pixel shuffles, which have no tensors.
        conv = tensors.conv3(f"uperfe.{2 * i}", c, c * r * r)
        params[f"conv{i + 1}"] = {
            part: x.reshape(*x.shape[:-1], c, r * r).swapaxes(-1, -2).reshape(x.shape)
            for part, x in conv.items()
        }
    return params
