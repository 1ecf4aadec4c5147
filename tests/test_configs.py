"""Every shipped config is sound and trains a real step, with its own network."""

import dataclasses
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import baseline
from hkdnet_jax.models import tiled_rcabs
from hkdnet_jax.models.presets import PRESETS, StudentConfig
from hkdnet_jax.ops import conv
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training.config_check import check_config
from hkdnet_jax.training.run import Run

CONFIGS = Path(__file__).parent.parent / "configs"
SHIPPED = {
    "teacher": (None, "lite", "revive", "tiny"),
    "teacher_vivid": (None, "lite", "tiny"),
    "student_x2": (None, "short", "base", "lite", "tiny"),
    "student_x3": (None, "short", "base", "lite", "tiny"),
    "student_x4": (None, "short", "base", "lite", "tiny"),
    "student_any": (None, "tiny"),
    "quickstart": (None, "teacher"),
    # Its variants train in tests/baselines/test_training.py.
    "baseline": baseline.VARIANTS,
}
# Each preset trains whole at x2, in the form that CPUs train.
WHOLE = {("student_x2", variant) for variant in (None, "base", "lite", "tiny")}
# Of the others, whose fusion part is one of these, the rest of the network: each group
# and each module takes a second or more to trace and to compile.
REST = {"sr_groups": 1, "dfabs": 1, "dfag": False, "cea": False}
# Winograd's weight gradients are the same function in every network, and tests/ops has
# their numbers.  Compiling them takes two thirds of a wide network's time.
WITH_WINOGRAD = {("teacher", "lite"), ("student_x2", "lite")}
CASES = [(name, variant) for name in SHIPPED for variant in SHIPPED[name]]


def load(name: str, variant: str | None, teacher: Path):
    """The config with its paths set, and nothing else changed."""
    config = importlib.import_module(f"configs.{name}").get_config(variant)
    if config.kind == "student":
        config.teacher.dir = str(teacher)
    if variant == "revive" or name == "teacher_vivid":
        config.init_from = str(teacher)
    config.lock()
    return config


def test_every_config_file_is_tested():
    files = {file.stem for file in CONFIGS.glob("*.py")} - {"__init__", "base"}
    assert files == set(SHIPPED)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_is_accepted_as_shipped(name, variant, tiny_teacher):
    config = load(name, variant, tiny_teacher)
    check_config(config)
    full = (None, "short", "teacher")
    preset = "full" if variant in full else variant
    if name in ("quickstart", "student_any") and variant is None:
        preset = "lite"
    if config.kind == "student":
        upsampler = "continuous" if name == "student_any" else "subpixel"
        want = dataclasses.replace(PRESETS[preset], upsampler=upsampler)
        assert StudentConfig(**config.model) == want


@pytest.mark.parametrize("name", SHIPPED)
def test_unknown_variant(name):
    with pytest.raises(ValueError, match="'huge'"):
        load(name, "huge", Path())


def test_paper_schedule(tiny_teacher):
    for scale, crop in ((2, 128), (3, 126), (4, 128)):
        config = load(f"student_x{scale}", None, tiny_teacher)
        assert (config.scale, config.data.crop) == (scale, crop)
        assert (config.train.epochs, config.train.phase1_epochs) == (250, 60)
        assert (config.train.batch_size, config.optim.lr) == (64, 1e-4)
        assert config.optim.schedule == "constant" and config.loss.phi == 1.0
        assert not config.optim.clip_norm and not config.optim.ema
    config = load("teacher", None, tiny_teacher)
    assert (config.train.epochs, config.loss.mu) == (100, 1000.0)


@pytest.fixture
def for_cpus(request):
    """Trains with what is only for CPUs where it is wanted, see WITH_WINOGRAD."""
    case = request.getfixturevalue("name"), request.getfixturevalue("variant")
    with pytest.MonkeyPatch.context() as patch:
        if case in WITH_WINOGRAD:
            jax.clear_caches()  # of what the other cases have traced
        else:
            patch.setattr(conv, "_MANY_CHANNELS", 2**30)
        if case not in WHOLE:
            patch.setattr(tiled_rcabs, "_MOST_BYTES", {})
        yield
    if case in WITH_WINOGRAD:
        jax.clear_caches()


@pytest.mark.usefixtures("for_cpus")
@pytest.mark.parametrize(
    ("name", "variant"), [case for case in CASES if case[0] != "baseline"]
)
def test_trains_one_step(name, variant, tiny_teacher):
    config = load(name, variant, tiny_teacher)
    with config.unlocked():
        config.mesh.data = config.train.batch_size = 1
        if name != "student_any":
            config.data.crop = config.data.val_crop = 16 * config.scale
        config.data.scenes = config.data.val_scenes = 1
        config.loss.percep = 0.0  # the weights of VGG16 are not shipped
        config.optim.warmup_steps = 0
        if config.kind == "student" and (name, variant) not in WHOLE:
            config.model.update(REST)
    run = Run(config)
    # The last step: phase 2 of a student, which moves every parameter.
    phase = run.phase_at(run.total_steps - 1)
    # Compiling the initialisation takes longer than compiling the step.
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda x: jax.device_put(
            (0.02 * rng.standard_normal(x.shape)).astype(x.dtype), x.sharding
        ),
        run.abstract_state(),
    )
    zero = jax.tree.map(
        lambda x: jax.device_put(np.zeros(x.shape, x.dtype), x.sharding),
        state.opt_state,
    )
    # Of the last phase, whose groups the optimizer moves.
    last = jnp.full_like(state.step, run.total_steps - 1)
    state = state.replace(opt_state=zero, step=last)
    before = jax.device_get(state.params)
    batch = sharding.put_batch(next(run.batches()), run.mesh)
    state, scalars = run.train_step(phase)(state, run.frozen, batch)

    assert np.isfinite(scalars["loss"]) and int(scalars["skipped"]) == 0
    after = jax.device_get(state.params)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), after, before)
    assert all(any(jax.tree.leaves(tree)) for tree in moved.values())
    # A gate of the tiny preset has one or two hidden units, which may all be dead.
    assert np.mean(jax.tree.leaves(moved)) > 0.8
