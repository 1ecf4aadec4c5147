"""Training and validation steps as JAX hands them to the compilers of accelerators."""

import jax
import numpy as np
import pytest
from train_fixtures import optimizer_of

from configs import base, teacher
from hkdnet_jax.measuring.slices import abstract_arguments
from hkdnet_jax.ops import conv, position_attention
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import networks, steps
from hkdnet_jax.training.run import Run

# Every network of configs/ but `tiny`; bfloat16 changes the same modules at each scale.
CASES = [
    pytest.param(teacher.get_config(), "float32", id="teacher"),
    *(
        pytest.param(
            base.student(scale, variant), dtype, id=f"x{scale}-{variant}-{dtype}"
        )
        for variant in (None, "lite")
        for scale, dtype in (
            (2, "float32"),
            (3, "float32"),
            (4, "float32"),
            (2, "bfloat16"),
        )
    ),
]


@pytest.fixture(autouse=True)
def as_on_accelerators(monkeypatch):
    """Traces what they run, on a mesh of CPUs.

    Winograd's gradient is only for CPUs, but its long program is traced before a
    platform is chosen.
    """
    monkeypatch.setattr(conv, "_MANY_CHANNELS", 2**30)
    monkeypatch.setattr(position_attention, "_only_cpus", lambda: False)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_validation_is_lowered_for_accelerators(name, tiny_teacher):
    config = teacher.get_config("tiny")
    if name == "student":
        config = base.student(2, "tiny")
        config.teacher.dir = str(tiny_teacher)
    run = Run(config)
    assert run.mesh.size == 4
    crops = (4, config.data.val_crop, config.data.val_crop, 1)
    crop = jax.ShapeDtypeStruct(
        crops, np.uint8, sharding=sharding.split_batch(run.mesh)
    )
    mask = jax.ShapeDtypeStruct((4,), np.float32, sharding=crop.sharding)
    batch = {"ir": crop, "vis": crop, "mask": mask}
    params = run.abstract_state().params
    traced = run.val_step().trace(params, run.frozen, batch)
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        kernels = text.count("tpu_custom_call")
        assert bool(kernels) == (platform == "tpu" and name == "student")


@pytest.mark.parametrize(("config", "dtype"), CASES)
def test_a_train_step_is_lowered_for_accelerators(config, dtype):
    """The step as JAX hands it to the compilers of GPU and TPU, with neither here."""
    config.dtype = dtype
    config.train.batch_size = 4
    config.data.crop = 32 * config.scale
    phase = 1 if config.kind == "teacher" else 2
    if config.scale != 2 or dtype != "float32":
        # The groups are alike, and each takes a second to trace and to lower.
        config.model.sr_groups = config.model.dfabs = 1
    if config.scale != 2:
        config.model.dfag = False  # only the part that enlarges is another one
    optimizer = optimizer_of(config)
    frozen = networks.build_teacher(config)
    step = steps.train_step(config, optimizer, frozen, phase)
    jitted = sharding.jit_train_step(step, sharding.make_mesh())
    traced = jitted.trace(*abstract_arguments(config, optimizer))
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text and "mhlo.num_partitions = 4" in text
        kernels = text.count("tpu_custom_call")
        assert bool(kernels) == (platform == "tpu" and config.kind == "student")
