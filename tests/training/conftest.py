"""One run for the files that look at the training loop."""

import jax
import loop_fixtures
import pytest
from train_fixtures import student_config

from hkdnet_jax.training.run import Run


@pytest.fixture(scope="session")
def run(tiny_teacher):
    """One run, compiled once; the tests train it into folders of their own."""
    config = student_config(tiny_teacher)
    config.train.epochs = 3
    config.max_bad_steps = loop_fixtures.TOO_MANY
    config.optim.ema = 0.9
    config.optim.clip_norm = 1.0
    config.optim.schedule = "cosine"
    run = Run(config)
    # Traced and compiled anew each time they are asked for: ask once.
    fresh, shapes = jax.device_get(run.init_state()), run.abstract_state()
    run.init_state = lambda: jax.device_put(fresh, run.replicated)
    run.abstract_state = lambda: shapes
    return run


@pytest.fixture(scope="session")
def finished(run, tmp_path_factory):
    """Workdir of the unbroken run.  Not to be changed."""
    workdir = tmp_path_factory.mktemp("finished")
    assert loop_fixtures.train(run, workdir) is True
    return workdir
