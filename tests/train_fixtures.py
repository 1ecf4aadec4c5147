"""Small runs for the tests of the training."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import student_x2, teacher
from hkdnet_jax.model_files import file_format
from hkdnet_jax.training import networks
from hkdnet_jax.training.networks import describe_network
from hkdnet_jax.training.optimizer import Optimizer, make_optimizer
from hkdnet_jax.training.state import TrainState, create


def teacher_config() -> ConfigDict:
    """`teacher:tiny` on one device: 8 steps in 2 epochs, a checkpoint every 3."""
    config = teacher.get_config("tiny")
    config.mesh.data = 1
    return config


def student_config(teacher_dir: Path | str) -> ConfigDict:
    """`student_x2:tiny` on one device, smaller still: no attention, batches of 2.

    4 steps of phase 1, then 4 of phase 2, a checkpoint every 3.
    """
    config = student_x2.get_config("tiny")
    config.mesh.data = 1
    config.teacher.dir = str(teacher_dir)
    config.model.dfag = config.model.cea = False
    config.model.sr_rcabs = 1
    config.loss.fused_scale = 0.5
    config.train.batch_size = 2
    config.data.samples_per_epoch = 8
    return config


_SHAPES: dict[str, Any] = {}


def shapes_of(config: ConfigDict) -> dict[str, Any]:
    """Shapes of the parameters that a run has, traced once for each network."""
    network = describe_network(config), networks.has_adapter(config)
    key = json.dumps(network, sort_keys=True)
    if key not in _SHAPES:
        _SHAPES[key] = jax.eval_shape(lambda: networks.init_params(config))
    return _SHAPES[key]


def optimizer_of(config: ConfigDict) -> Optimizer:
    """The optimizer of a run of 8 steps, of which an epoch is one."""
    return make_optimizer(config, shapes_of(config), epoch_steps=1, total_steps=8)


def create_state(config: ConfigDict, params: dict[str, Any]) -> TrainState:
    """The state at step 0 of a run with `optimizer_of`."""
    return create(config, optimizer_of(config), params)


def random_params(config: ConfigDict, seed: int) -> dict[str, Any]:
    """Parameters of the network that `config` trains, all of them other than 0.

    Drawn with NumPy: compiling the networks' own initialisation takes seconds.
    """
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.asarray(rng.normal(0, 0.05, x.shape), np.float32),
        shapes_of(config),
    )


def save_teacher(directory: Path, seed: int) -> Path:
    """Writes a teacher with random weights; loads like a trained one."""
    config = teacher_config()
    file_format.save_model(
        directory, describe_network(config), random_params(config, seed)
    )
    return directory


def read_rows(workdir: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def random_batch(seed: int, samples: int, size: int) -> dict[str, np.ndarray]:
    """A batch as the host sends it: smooth structure, some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    batch = {}
    for key in ("ir", "vis"):
        a, b, c = rng.uniform(2, 9, (3, samples, 1, 1))
        waves = 128 + 80 * np.sin(a * x + c) * np.cos(b * y)
        noise = rng.normal(0, 10, (samples, size, size))
        batch[key] = np.clip(waves + noise, 0, 255).astype(np.uint8)[..., None]
    return batch
