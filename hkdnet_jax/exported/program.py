"""The function that an exported program computes, the same in every format.

It takes `ir` and `vis`, float32 [B, H, W, 1] in [0, 1], and returns `fused`, float32
[B, scale * H, scale * W, 1], clipped to [0, 1]: `fuse_pair` with `depth="float"` and
`color="gray"` of levels that are in [0, 1] already.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp

from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE

INPUTS = ("ir", "vis")
OUTPUT = "fused"
_NAME = "hkdnet_fuse_x{}"


def function(model: Model) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the model's program in the portable form; its name states the scale."""
    network = model.network.clone(portable=True)

    def fuse(ir: jax.Array, vis: jax.Array) -> jax.Array:
        image = call.forward(network, model.params, ir, vis)
        return jnp.clip(image, 0.0, 1.0)

    fuse.__name__ = _NAME.format(model.scale)
    return fuse


def scale_of(name: str) -> int | None:
    """The scale that a program's name states, or None if it is none of ours."""
    found = re.fullmatch(_NAME.format(r"(\d)"), name)
    return int(found[1]) if found else None


def images() -> jax.ShapeDtypeStruct:
    """Describes an argument of any batch size, height and width."""
    sides = (f"H>={MIN_SIDE}", f"W>={MIN_SIDE}")
    shape = jax.export.symbolic_shape("B,H,W,1", constraints=("B>=1", *sides))
    return jax.ShapeDtypeStruct(shape, jnp.float32)
