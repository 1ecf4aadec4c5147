"""Parameter trees, nested dicts of arrays: their names, shapes and fingerprint."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from hkdnet_jax.common.errors import UserError

_LISTED = 10  # names of each kind that an error lists before it says "and N more"


def check_params(params: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks that the names, shapes and dtypes of parameters are the expected ones.

    Args:
      params: nested dict of arrays.
      expected: nested dict of jax.ShapeDtypeStruct (or arrays), such as the one that
        `jax.eval_shape` of the model's init gives.

    Raises:
      UserError: they differ; the message lists the differences.
    """
    differences = list_differences(describe_arrays(params), describe_arrays(expected))
    if differences:
        raise UserError(
            f"The weights do not fit the model ({differences}): load weights of this "
            "model, or choose the configuration that they were trained with."
        )


def list_differences(have: Mapping[str, str], want: Mapping[str, str]) -> str:
    """Lists the names that are missing, unexpected or described differently.

    Args:
      have: the descriptions (see `describe_array`) of the actual arrays by name.
      want: the descriptions of the expected arrays by name.

    Returns:
      The differences as text; '' if there are none.
    """
    missing = [name for name in want if name not in have]
    unexpected = [name for name in have if name not in want]
    wrong = [
        f"{name} is {have[name]} instead of {want[name]}"
        for name in want
        if name in have and have[name] != want[name]
    ]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrong", wrong))
    return "; ".join(f"{kind}: {_shorten(names)}" for kind, names in groups if names)


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of any pytree by their paths, such as 'params/conv/kernel'.

    Named tuples and dataclasses have the same paths as the dicts that orbax stores them
    as.
    """
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def describe_array(array: Any) -> str:
    """Describes shape and dtype, such as '3x3x64x64 float32' or 'scalar int32'."""
    shape = "x".join(map(str, array.shape)) or "scalar"
    return f"{shape} {np.dtype(array.dtype).name}"


def describe_arrays(tree: Any) -> dict[str, str]:
    """Describes the leaves of any pytree (see `describe_array`) by their paths."""
    return {name: describe_array(leaf) for name, leaf in named_leaves(tree).items()}


def fingerprint(params: Mapping[str, Any]) -> str:
    """Hashes the names, shapes, dtypes and bytes of all parameters.

    Returns:
      A hexadecimal SHA-256, which equal parameters share on every machine, whatever
      the order of the dicts.

    Raises:
      ValueError: see `flatten`.
    """
    digest = hashlib.sha256()
    for name, value in sorted(flatten(params).items()):
        digest.update(f"{name}\n{describe_array(value)}\n".encode())
        array = np.asarray(value)
        if array.dtype.byteorder == ">":  # files are little-endian
            array = array.astype(array.dtype.newbyteorder("<"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a nested dict to one dict whose keys are the paths joined with '/'.

    Raises:
      ValueError: a key could not be restored (it is empty, holds '/' or is not a str),
        or a dict is empty, which a file of arrays cannot represent.
    """
    flat = traverse_util.flatten_dict(params, keep_empty_nodes=True)
    for path, value in flat.items():
        for key in path:
            if not isinstance(key, str) or not key or "/" in key:
                raise ValueError(
                    f"parameter key {key!r} must be a non-empty str without /"
                )
        if value is traverse_util.empty_node:
            raise ValueError(f"parameter dict {path[-1]!r} is empty")
    return {"/".join(path): value for path, value in flat.items()}


def unflatten(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Undoes `flatten`."""
    return traverse_util.unflatten_dict(dict(flat), sep="/")


def _shorten(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
