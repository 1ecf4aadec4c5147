"""Training of the compared systems, in the same loop as our own networks.

    python -m hkdnet_jax.main --config=configs/baseline.py:edsr_x2 \
        --workdir=weights/edsr_x2 --config.data.roots=DATA/roadscene

The workdir is a model directory: in a folder of weights, under the name that
`weights.Weights` looks for, `compare --weights` finds it.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from hkdnet_jax.baselines import cen, cnn_fusion, densefuse, edsr, rcan
from hkdnet_jax.baselines.recipe import Recipe
from hkdnet_jax.common import trees
from hkdnet_jax.common.arrays import to_float, to_uint8
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format
from hkdnet_jax.training import networks, steps, val_steps
from hkdnet_jax.training.run import Run
from hkdnet_jax.training.state import Params, TrainState

RECIPES: dict[str, Recipe] = {
    edsr.NAME: edsr.RECIPE,
    rcan.NAME: rcan.RECIPE,
    densefuse.NAME: densefuse.RECIPE,
    cnn_fusion.NAME: cnn_fusion.RECIPE,
    cen.NAME: cen.RECIPE,
}


class BaselineRun(Run):
    """A run that trains a compared system."""

    def __init__(self, config: ConfigDict):
        """Opens the data; see `Run`."""
        self._recipe = RECIPES[config.baseline]
        self._network = self._recipe.build(config.scale)
        self.criterion = self._recipe.criterion
        super().__init__(config)

    @staticmethod
    def describe(config: ConfigDict) -> dict[str, Any]:
        """The system's name and its network's attributes, as `convert` writes them."""
        network = RECIPES[config.baseline].build(config.scale)
        return {"kind": config.baseline} | attributes(network)

    def open_frozen(self) -> tuple[None, Params]:
        """Nothing: no other network takes part."""
        return None, {}

    def init_params(self) -> Params:
        """Initial parameters of the network; traceable."""
        return networks.initial(self._network, self.config.seed, self._recipe.inputs)

    def load_start(self, wanted: Params) -> Params:
        """Takes over all parameters, but no upsampler of another scale; see `Run`."""
        directory, name = self.config.init_from, self.config.baseline
        config, params = file_format.load_model(directory)
        if config.get("scale") != getattr(self._network, "scale", None):
            params = {k: v for k, v in params.items() if k != "upsampler"}
        taken = {k: v for k, v in wanted.items() if k in params}
        differences = trees.list_differences(
            trees.describe_arrays(params), trees.describe_arrays(taken)
        )
        if config.get("kind") != name or differences:
            raise UserError(
                f"config.init_from={directory} holds no {name} of this run's size "
                f"(its kind is {config.get('kind')!r}; {differences or 'it fits'}): "
                "give the workdir of a run of the same system."
            )
        return params

    def make_step(self, phase: int) -> steps.TrainStep:
        """The training step, not yet jitted; there is one phase."""
        del phase
        config, network, optimizer = self.config, self._network, self.optimizer

        def step_fn(state: TrainState, frozen: Params, batch: steps.Batch):
            del frozen
            pair = steps.augmented(config, state.step, batch)
            key = steps.step_key(config, state.step, stream=1)

            def loss_fn(params: Params, pair: steps.Pair):
                return self._recipe.loss(network, params, *pair, key)

            return steps.descend(config, optimizer, state, state.params, loss_fn, pair)

        return step_fn

    def make_val_step(self) -> val_steps.ValStep:
        """The validation step, not yet jitted."""

        def step_fn(params: Params, frozen: Params, batch: steps.Batch):
            del frozen
            images = to_float(batch["ir"]), to_float(batch["vis"])
            values, pictures = self._recipe.validate(self._network, params, *images)
            drawn = jax.tree.map(to_uint8, pictures)
            return val_steps.sums(batch["mask"], values), drawn

        return step_fn


def attributes(network: nn.Module) -> dict[str, Any]:
    """The attributes from which a network can be built again, as JSON has them."""
    fields = (f.name for f in dataclasses.fields(network))
    return {k: getattr(network, k) for k in fields if k not in ("parent", "name")}
