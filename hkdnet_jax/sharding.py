"""The device mesh: the one file that names its axes."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the batch is split along this axis


def make_mesh(data: int = 0) -> Mesh:
    """A one-axis mesh over the first `data` devices, or over all of them with 0.

    The axis is Auto: Linen code does not carry the annotations that jax's default,
    Explicit, asks for.

    Raises:
      ValueError: more devices asked for than there are.
    """
    devices = jax.devices()
    if data > len(devices):
        raise ValueError(f"mesh of {data} devices asked for, there are {len(devices)}")
    count = data or len(devices)
    return jax.make_mesh(
        (count,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:count]
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's share of a batch; the result is the global batch."""
    sharding = split_batch(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value)
        for key, value in batch.items()
    }
