"""Methods from outside: a Python function that the user names."""

import importlib
import os
import sys

import numpy as np

from hkdnet_jax.baselines.types import Image, Method
from hkdnet_jax.common.errors import UserError


def load(spec: str) -> tuple[str, Method]:
    """Loads the function that `[NAME=]module:function` names.

    The module is looked for in the current folder too.  The function maps (ir, vis,
    scale), float32 [H, W] in [0, 1], to [scale * H, scale * W]; scale 1 asks for its
    fusion alone.

    Returns:
      The name in tables (by default that of the function), and the method, which raises
      a UserError if the function fails.

    Raises:
      UserError: there is no such function.
    """
    name, _, path = spec.rpartition("=")
    module, _, function = path.partition(":")
    if not module or not function:
        raise UserError(
            f"--method {spec} names no function: write module:function, such as "
            "my_method:fuse."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:
        # A module of the user may fail in any way.
        raise UserError(
            f"--method {spec} cannot be loaded ({type(error).__name__}: {error}): "
            "correct it, or start in the folder that holds the module."
        ) from error
    name = name or function

    def method(ir: Image, vis: Image, scale: int) -> Image:
        try:
            return np.asarray(found(ir, vis, scale), np.float32)
        except Exception as error:
            raise UserError(
                f"{name} failed ({type(error).__name__}: {error}): correct the method."
            ) from error

    return name, method
