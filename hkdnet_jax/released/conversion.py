"""Converts the tensors of the authors' PyTorch checkpoint to parameters of `Released`.

Names, shapes and dtypes must match exactly.  The tensors in `UNUSED` may be present and
are left out, because the released network does not use them either.
"""

import itertools

import jax
import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.released.network import (
    DECODED_CHANNELS,
    FIRST_CHANNELS,
    POSITION_REDUCTION,
    SIZES,
)
from hkdnet_jax.released.tensors import (
    Arrays,
    Params,
    Tensors,
    rcab,
    residual_group,
    upsampler,
)

BATCH_NORM_EPSILON = 1e-5  # PyTorch's default, which the released network keeps
# A convolution of the fusion part, and the batch counters of its normalisations.
UNUSED = {
    "conv.weight": "64x64x3x3 float32",
    "conv.bias": "64 float32",
    **{f"body_v.1.convp{i}.1.num_batches_tracked": "scalar int64" for i in range(1, 7)},
}
REMEDY = "give the authors' fu_srnet.pth.tar itself."


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
    tensors = Tensors(arrays, UNUSED)
    params = {"fusion": _fusion_part(tensors), "sr": _sr_part(tensors, scale)}
    return params, tensors.differences()


def _fusion_part(tensors: Tensors) -> Params:
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


def _sr_part(tensors: Tensors, scale: int) -> Params:
    c, groups = SIZES.width, SIZES.sr_groups
    params = {
        f"rg{i + 1}": _residual_group(tensors, f"body.{i}", SIZES.sr_rcabs)
        for i in range(groups)
    }
    return params | {
        "head": tensors.conv3("head.0", DECODED_CHANNELS, c),
        "body": tensors.conv3(f"body.{groups}", c, c),
        "upsampler": upsampler(tensors, "uperfe", scale, SIZES.width),
        "tail": tensors.conv3("tail", c, DECODED_CHANNELS),
        "image": tensors.conv3("result.0", DECODED_CHANNELS, 1),
    }


def _residual_group(tensors: Tensors, name: str, rcabs: int) -> Params:
    return residual_group(tensors, name, rcabs, SIZES.width, SIZES.reduction)


def _dfag(tensors: Tensors, name: str) -> Params:
    c = SIZES.width
    params = {"conv": tensors.conv3(f"{name}.body.{SIZES.dfabs}", c, c)}
    for i in range(SIZES.dfabs):
        block = f"{name}.body.{i}"
        params[f"dfab{i + 1}"] = {
            "rcab1": rcab(tensors, f"{block}.body.0", c, SIZES.reduction),
            "rcab2": rcab(tensors, f"{block}.body.1", c, SIZES.reduction),
            "gamma": tensors.scalar(f"{block}.gamma"),
        }
        for conv in ("conv1", "conv2", "conv3"):
            kernel = tensors.kernel(f"{block}.{conv}", c, c)
            params[f"dfab{i + 1}"][conv] = {"kernel": kernel}
    return params


def _cea(tensors: Tensors, name: str) -> Params:
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


def _folded(tensors: Tensors, name: str) -> Params:
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
