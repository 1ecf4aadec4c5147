"""Weights of compared systems: model directories in one folder, found by name.

None of them comes with the package.  `convert --kind` writes them from the files of
their authors.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.models.presets import MIN_SIDE
from hkdnet_jax.runtime import devices


@dataclasses.dataclass(frozen=True)
class Weights:
    """A folder of model directories.

    Attributes:
      folder: the folder; None if the user named none.
    """

    folder: Path | None = None

    def load(
        self, name: str, kind: str, network_class: type[nn.Module], inputs: int
    ) -> tuple[nn.Module, Mapping[str, Any]]:
        """Loads the network of a system.

        Args:
          name: the model directory's name in the folder.
          kind: the system that the directory must hold, as in `convert --kind`.
          network_class: its network; the configuration holds its attributes.
          inputs: number of images that the network takes.

        Returns:
          The network, and its parameters on the device.

        Raises:
          UserError: there are no such weights, or they are those of another network.
        """
        remedy = f"write it with: convert --kind {kind} --checkpoint FILE --out"
        if self.folder is None:
            raise UserError(
                f"{kind} has no weights here: give --weights DIR, a folder that holds "
                f"{name}; {remedy} DIR/{name}."
            )
        directory = self.folder / name
        if not directory.exists():
            raise UserError(
                f"{kind} has no weights here, because {directory} does not exist: "
                f"{remedy} {directory}."
            )
        devices.check()
        config, params = file_format.load_model(directory)
        try:
            if config.pop("kind", None) != kind:
                raise ValueError("of another kind")
            network = network_class(**config)
            expected = shapes(network, inputs)
        except Exception as error:
            # A value that no converter wrote may break anything, at any depth.
            raise UserError(
                f"{directory} does not hold a network of {kind} "
                f"({type(error).__name__}: {error}): {remedy} {directory}."
            ) from error
        try:
            trees.check_params(params, expected)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from error
        return network, jax.device_put(params)


def shapes(network: nn.Module, inputs: int) -> Mapping[str, Any]:
    """Shapes and dtypes of the parameters of a network.

    Args:
      network: takes `inputs` gray images [N, H, W, 1], or colour ones if it has an
        attribute `channels`.
      inputs: number of its images.
    """
    channels = getattr(network, "channels", 1)
    image = jax.ShapeDtypeStruct((1, 2 * MIN_SIDE, 2 * MIN_SIDE, channels), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(network.init, key, *[image] * inputs)["params"]


@partial(jax.jit, static_argnames="network")
def _apply(network: nn.Module, params: Mapping[str, Any], *images: jax.Array):
    return network.apply({"params": params}, *images)


def run(
    network: nn.Module, params: Mapping[str, Any], *images: np.ndarray
) -> np.ndarray:
    """Runs a network on gray images; compiles once for each size.

    Args:
      network: see `shapes`.
      params: its parameters.
      *images: float32 [H, W] each; all channels of a colour network get the same.

    Returns:
      float32 [H', W', C].
    """
    channels = getattr(network, "channels", 1)
    batches = [np.repeat(x[None, :, :, None], channels, -1) for x in images]
    return np.asarray(_apply(network, params, *batches))[0]
