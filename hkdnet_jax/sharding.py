"""The device mesh: the one file that names its axes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the batch is split along this axis


def make_mesh(data: int = 0) -> Mesh:
    """A one-axis mesh over the first `data` devices, or over all of them with 0.

    Raises:
      ValueError: more devices asked for than there are.
    """
    devices = jax.devices()
    if data > len(devices):
        raise ValueError(f"mesh of {data} devices asked for, there are {len(devices)}")
    return mesh_over(devices[: data or len(devices)])


def mesh_over(devices: Sequence[jax.Device]) -> Mesh:
    """A one-axis mesh over these devices.

    The axis is Auto: Linen code does not carry the annotations that jax's default,
    Explicit, asks for.
    """
    return jax.make_mesh(
        (len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def jit_train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Jits (state, frozen, batch) -> (state, scalars) over the mesh.

    The batch is split, all else is on every device; the state is donated.
    """
    whole = replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(whole, whole, split_batch(mesh)),
        out_shardings=whole,
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's share of a batch; the result is the global batch."""
    sharding = split_batch(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
    }
