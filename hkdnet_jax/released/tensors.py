"""Takes the tensors of PyTorch state dicts by name, in the layout of our networks.

Names, shapes and dtypes must match exactly.  The blocks of RCAN, which the released
network and RCAN itself consist of, are converted here, once.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common import trees

Params = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class Tensors:
    """Hands out the tensors of a checkpoint, and records which were requested.

    In place of a tensor that is missing or does not fit it hands out zeros, so that one
    pass finds all differences.
    """

    def __init__(self, arrays: Arrays, unused: Mapping[str, str] | None = None):
        """Takes the tensors of a checkpoint.

        Args:
          arrays: the tensors by name.
          unused: the descriptions (see `trees.describe_array`) of tensors that may be
            present and are left out, by name.
        """
        self._arrays = arrays
        self._unused = dict(unused or {})
        self._wanted: dict[str, str] = {}

    def take(self, name: str, *shape: int) -> np.ndarray:
        """Returns the tensor `name`, which should be float32 of `shape`."""
        expected = np.zeros(shape, np.float32)
        self._wanted[name] = trees.describe_array(expected)
        array = self._arrays.get(name, expected)
        same = trees.describe_array(array) == self._wanted[name]
        return array if same else expected

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Returns the shape of a tensor; ones if it is missing or of another rank.

        Sizes that a network's attributes follow from are read by it.  The tensor is not
        recorded as requested.
        """
        found = np.shape(self._arrays.get(name, ()))
        return found if len(found) == rank else (1,) * rank

    def count(self, pattern: str, step: int = 1) -> int:
        """Counts tensors named by `pattern` with 0, step, 2 * step...; 1 if none is."""
        number = 0
        while pattern.format(number * step) in self._arrays:
            number += 1
        return max(1, number)

    def leave_out(self, name: str, *shape: int) -> None:
        """Allows a tensor of this shape to be present, without using it."""
        described = trees.describe_array(np.zeros(shape, np.float32))
        self._unused = self._unused | {name: described}

    def differences(self) -> str:
        """Lists tensors that are missing, left over or of another shape; '' if none."""
        present = {name: trees.describe_array(x) for name, x in self._arrays.items()}
        unused = {name: what for name, what in self._unused.items() if name in present}
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


def stack(layers: list[Params]) -> Params:
    """Stacks the parameters of equal layers along a new first axis, as a scan does."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *layers)


def rcab(tensors: Tensors, name: str, width: int, reduction: int) -> Params:
    """Converts a residual channel-attention block, see `models.blocks.RCAB`."""
    hidden = width // reduction
    return {
        "conv1": tensors.conv3(f"{name}.body.0", width, width),
        "conv2": tensors.conv3(f"{name}.body.2", width, width),
        "gate": {
            "down": tensors.conv1(f"{name}.body.3.conv_du.0", width, hidden),
            "up": tensors.conv1(f"{name}.body.3.conv_du.2", hidden, width),
        },
    }


def residual_group(
    tensors: Tensors, name: str, rcabs: int, width: int, reduction: int
) -> Params:
    """Converts a residual group; the parameters of its scanned RCABs are stacked."""
    blocks = [rcab(tensors, f"{name}.body.{i}", width, reduction) for i in range(rcabs)]
    conv = tensors.conv3(f"{name}.body.{rcabs}", width, width)
    return {"rcabs": {"rcab": stack(blocks)}, "conv": conv}


def shuffled(conv: Params, r: int) -> Params:
    """Reorders the output channels of a convolution before a pixel shuffle of `r`.

    Channel k of sub-pixel s is channel `k * r^2 + s` in PyTorch, and `s * C + k` here.
    """
    return {
        part: x.reshape(*x.shape[:-1], -1, r * r).swapaxes(-1, -2).reshape(x.shape)
        for part, x in conv.items()
    }


def upsampler(tensors: Tensors, name: str, scale: int, width: int) -> Params:
    """Converts the convolutions of `models.blocks.Upsampler`.

    They have the even numbers below `name`; the odd ones belong to the pixel shuffles,
    which have no tensors.
    """
    params = {}
    for i, r in enumerate((2, 2) if scale == 4 else (scale,)):
        conv = tensors.conv3(f"{name}.{2 * i}", width, width * r * r)
        params[f"conv{i + 1}"] = shuffled(conv, r)
    return params
