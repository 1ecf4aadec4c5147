"""Compiles train steps for a TPU slice, on a machine that has none.

The TPU compiler reports how many bytes of each chip's memory a step of the
configuration takes.  The state and the batch are only shapes: no data, teacher or
weights are read.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from hkdnet_jax.common.errors import UserError, install_command
from hkdnet_jax.losses import vgg
from hkdnet_jax.measuring import flops
from hkdnet_jax.measuring.hlo import collectives
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import networks, steps
from hkdnet_jax.training.optimizer import Optimizer, make_optimizer
from hkdnet_jax.training.state import create

# Length of the run for the learning rate's schedule; only a constant depends on it.
_TOTAL_STEPS = 10**6


@dataclass(frozen=True)
class Chip:
    """The published figures of a TPU chip.

    Attributes:
      capacity_bytes: size of its high-bandwidth memory.
      peak_flops: peak rate of bfloat16 matrix products, in operations per second.
    """

    capacity_bytes: int
    peak_flops: float


# By `device_kind`; cloud.google.com/tpu/docs, "System architecture".
CHIPS = {
    "TPU v4": Chip(32 * 2**30, 275e12),
    "TPU v5 lite": Chip(16 * 2**30, 197e12),
    "TPU v5": Chip(95 * 2**30, 459e12),
    "TPU v6 lite": Chip(32 * 2**30, 918e12),
}


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """The chips of a slice such as `v5e:2x4`, which need not exist.

    Raises:
      UserError: the TPU compiler is not installed, or does not know the slice.
    """
    # libtpu would otherwise wait for the metadata server of a TPU machine.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # A v4 chip's two cores work as one, as they do on Cloud TPU.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    if re.fullmatch(r"\w+:1(x1)+", topology):
        # A machine with one chip, which the compiler expects to have four.
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        ).devices
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        if "not installed" in reason:
            raise UserError(
                f"The TPU compiler is not installed: {install_command('tpu')} (0.7 GB; "
                "no TPU is needed)."
            ) from error
        raise UserError(
            f"--topology {topology} is not a TPU slice that the compiler knows "
            f"({reason}): give a generation and the chips along each side, such as "
            "v5e:2x4, v4:2x2x4, v5p:2x2x2, v6e:4x4 or v6e:1x1."
        ) from error


def check(config: ConfigDict, devices: Sequence[jax.Device], phase: int) -> dict:
    """Compiles the train step of one phase for `devices`.

    Args:
      config: the run's configuration; neither its data nor its teacher is opened.
      devices: the devices of the mesh, over which the batch is split.
      phase: 1 or 2; a teacher's run has only phase 1.

    Returns:
      A JSON-serialisable dict: `phase`; `argument_bytes`, `temp_bytes`, `peak_bytes`,
      `capacity_bytes` and `fits` of one chip; `collectives`, a list of kind, count and
      bytes in one chip's program (those inside a loop count as often as it turns);
      `flops` of a step over all chips; and `floor_seconds`, the time that these
      operations take at the chips' bfloat16 peak.  If the compiler gives up for lack of
      memory, `fits` is False, `temp_bytes` is the amount it asks for (None if it does
      not say), and the other memory and `collectives` are None.

    Raises:
      UserError: the batch cannot be split over the devices, or the chip is unknown.
    """
    kind, batch_size = devices[0].device_kind, config.train.batch_size
    if kind not in CHIPS:
        raise UserError(
            f"The memory of a {kind} is not known here: use one of {', '.join(CHIPS)}."
        )
    if batch_size % len(devices):
        raise UserError(
            f"config.train.batch_size is {batch_size}, not divisible by the "
            f"{len(devices)} chips of the slice: give a multiple."
        )
    parts = config.train.accumulate
    if batch_size % (len(devices) * parts):
        raise UserError(
            f"config.train.accumulate is {parts}: config.train.batch_size "
            f"({batch_size}) must be a multiple of it times the {len(devices)} chips "
            "of the slice."
        )
    chip, mesh = CHIPS[kind], sharding.mesh_over(devices)
    optimizer = _optimizer(config)
    arguments = abstract_arguments(config, optimizer)
    step = steps.train_step(config, optimizer, networks.build_teacher(config), phase)
    lowered = sharding.jit_train_step(step, mesh).lower(*arguments)
    total = flops.count(step, *arguments)
    return {
        "phase": phase,
        **_compiled_row(lowered, chip.capacity_bytes),
        "flops": total,
        "floor_seconds": total / (len(devices) * chip.peak_flops),
    }


def _compiled_row(lowered: jax.stages.Lowered, capacity: int) -> dict[str, Any]:
    """The part of a row that the compiler reports."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {
            "argument_bytes": None,
            "temp_bytes": needed_bytes(str(error)),
            "peak_bytes": None,
            "capacity_bytes": capacity,
            "fits": False,
            "collectives": None,
        }
    memory = compiled.memory_analysis()
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak,
        "capacity_bytes": capacity,
        "fits": peak <= capacity,
        "collectives": collectives(compiled.as_text()),
    }


def needed_bytes(message: str) -> int | None:
    """The bytes of temporaries in the TPU compiler's out-of-memory message, or None."""
    found = re.search(r"temporaries \(([\d.]+)([KMG])\)", message)
    return found and round(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]])


def _optimizer(config: ConfigDict) -> Optimizer:
    """The run's optimizer, except for its lengths, which are only constants."""
    groups = jax.eval_shape(lambda: networks.init_params(config))
    return make_optimizer(config, groups, epoch_steps=1, total_steps=_TOTAL_STEPS)


def abstract_arguments(
    config: ConfigDict, optimizer: Optimizer
) -> tuple[Any, Any, dict[str, Any]]:
    """Shapes of a train step's state, frozen parameters and batch."""
    state = jax.eval_shape(
        lambda: create(config, optimizer, networks.init_params(config))
    )
    if config.kind == "student":
        frozen = jax.eval_shape(lambda: networks.init_teacher(config))
    else:
        frozen = vgg.abstract_params() if config.loss.percep else {}
    crops = (config.train.batch_size, config.data.crop, config.data.crop, 1)
    crop = jax.ShapeDtypeStruct(crops, jnp.uint8)
    return state, frozen, {"ir": crop, "vis": crop}


def report(row: dict[str, Any]) -> str:
    """Formats a row of `check` as lines of text."""
    if row["peak_bytes"] is None:
        needed, capacity = row["temp_bytes"], row["capacity_bytes"]
        known = f"{needed / 2**30:.2f} GiB of " if needed else "too many "
        return (
            f"phase {row['phase']}: DOES NOT FIT (the compiler gave up: {known}"
            f"temporaries, a chip has {capacity / 2**30:.0f} GiB)"
        )
    peak, capacity, arguments, temporaries = (
        row[f"{name}_bytes"] / 2**30
        for name in ("peak", "capacity", "argument", "temp")
    )
    moved = ", ".join(
        f"{c['kind']} of {c['count']} arrays, {c['bytes'] / 1e6:.1f} MB"
        for c in row["collectives"]
    )
    return (
        f"phase {row['phase']}: {peak:.2f} of {capacity:.0f} GiB per chip "
        f"({'fits' if row['fits'] else 'DOES NOT FIT'}; arguments {arguments:.2f}, "
        f"temporaries {temporaries:.2f})\n"
        f"  per step: {moved or 'no collectives'}; {row['flops'] / 1e12:.2f} TFLOP "
        f"over all chips, which take at least {1e3 * row['floor_seconds']:.1f} ms at "
        "the bfloat16 peak"
    )


def phases_of(config: ConfigDict, requested: str) -> tuple[int, ...]:
    """The phases to compile: `requested`, or all phases of the run if it is "".

    Raises:
      UserError: the run has no such phase.
    """
    available = (1,) if config.kind == "teacher" else (1, 2)
    if requested and requested not in map(str, available):
        raise UserError(
            f"--phase {requested} is not a phase of this run: give "
            f"{' or '.join(map(str, available))}."
        )
    return (int(requested),) if requested else available
