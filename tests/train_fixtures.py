"""Small runs for the tests of the training."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import student_x2, teacher
from hkdnet_jax import steps, weights
from hkdnet_jax.trained import describe


def teacher_config() -> ConfigDict:
    """`teacher:tiny` on one device: 8 steps in 2 epochs, a checkpoint every 3."""
    config = teacher.get_config("tiny")
    config.mesh.data = 1
    return config


def student_config(teacher_dir: Path | str) -> ConfigDict:
    """`student_x2:tiny` on one device, a step of it smaller and sooner compiled.

    4 steps of phase 1, then 4 of phase 2; no attention modules.
    """
    config = student_x2.get_config("tiny")
    config.mesh.data = 1
    config.teacher.dir = str(teacher_dir)
    config.model.dfag = config.model.cea = False
    config.model.sr_rcabs = 1
    return config


def save_teacher(directory: Path, seed: int) -> Path:
    """Writes a teacher with fresh weights; loads like a trained one."""
    config = teacher_config()
    config.seed = seed
    params = steps.init_params(config)
    weights.save_model(directory, describe(config), params)
    return directory


def read_rows(workdir: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


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
