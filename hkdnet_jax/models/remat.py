"""Which intermediates of the blocks are kept for the backward pass (`model.remat`)."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from hkdnet_jax.ops import portable

_CONV = "conv"
# What is kept inside a block beside its input; everything else is computed again.
_KEPT = {
    "convs": jax.checkpoint_policies.save_only_these_names(_CONV),
    "full": jax.checkpoint_policies.nothing_saveable,
}
# `none` keeps all that the derivatives use.
REMAT = ("none", *_KEPT)


def conv_output(x: jax.Array) -> jax.Array:
    """Marks the output of a convolution inside a block, which `convs` keeps."""
    return x if portable.active() else checkpoint_name(x, _CONV)


def rematerialized(
    block: type[nn.Module], remat: str, in_scan: bool = False
) -> type[nn.Module]:
    """Returns the block, which keeps for its backward pass what `remat` says.

    Args:
      block: a module whose method is `__call__`.
      remat: one of REMAT.
      in_scan: whether the block is the body of a scan, out of which the compiler moves
        nothing anyway.
    """
    if remat == "none":
        return block
    return nn.remat(block, policy=_KEPT[remat], prevent_cse=not in_scan)


def checkpointed(body: Callable[..., Any], remat: str) -> Callable[..., Any]:
    """Returns the body of a scan, a function, as `rematerialized` does a module."""
    if remat == "none":
        return body
    return jax.checkpoint(body, policy=_KEPT[remat], prevent_cse=False)
