"""The device mesh: the one file that names its axes.

A mesh always has both axes: training splits a batch over `data`, and inference splits
one large image over `height`.  The axis that is not needed has length 1.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA = "data"  # the batch is split along this axis
HEIGHT = "height"  # the rows of each image are split along this axis


def make_mesh(data: int = 0) -> Mesh:
    """Makes a mesh for batches over the first `data` devices, or over all if it is 0.

    Raises:
      ValueError: there are fewer than `data` devices.
    """
    devices = jax.devices()
    if data > len(devices):
        raise ValueError(
            f"a mesh of {data} devices was requested, but there are {len(devices)}"
        )
    return mesh_over(devices[: data or len(devices)])


def mesh_over(devices: Sequence[jax.Device], axis: str = DATA) -> Mesh:
    """Makes a mesh with all of these devices along `axis` (DATA or HEIGHT).

    The axes are Auto, because Linen code does not carry the annotations that jax's
    default, Explicit, requires.
    """
    shape = {DATA: (len(devices), 1), HEIGHT: (1, len(devices))}[axis]
    return jax.make_mesh(
        shape, (DATA, HEIGHT), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that places the entire array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the leading axis over DATA."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def split_height(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits [N, H, W, C]: N over DATA, H over HEIGHT."""
    return NamedSharding(mesh, PartitionSpec(DATA, HEIGHT))


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Wraps `function`, before jit, so that `over_positions` inside it knows `mesh`."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def rows_are_split() -> bool:
    """Whether, where this is traced, devices share the rows of an image."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape[HEIGHT] > 1


def sharing(number: int) -> int:
    """How many devices, where this is traced, share this many images of a batch.

    It is 1 if they share rows instead, or cannot all have the same number of images.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or rows_are_split() or number % mesh.shape[DATA]:
        return 1
    return mesh.shape[DATA]


def over_images(function: Callable[..., Any], images: Any, *others: Any) -> Any:
    """Calls `function` on every device with that device's images and all others.

    By itself, the partitioner would gather all images on every device for a loop over
    parts of the batch.  Where no devices share images, this is a plain call.

    Args:
      function: takes images and others, and returns arrays [N, ...]; it may also return
        arrays [1, ...], of which the result then has one for each device.
      images: a pytree of arrays [N, ...].
      *others: pytrees of arrays, which all devices have entire.
    """
    if sharing(jax.tree.leaves(images)[0].shape[0]) == 1:
        return function(images, *others)
    split = PartitionSpec((DATA, HEIGHT))  # see `over_positions`
    return jax.shard_map(
        function,
        in_specs=(split, *(PartitionSpec() for _ in others)),
        out_specs=split,
        check_vma=False,
    )(images, *others)


def over_positions(
    function: Callable[..., Any], queries: jax.Array, *others: jax.Array
) -> Any:
    """Calls `function` on every device with that device's queries and all others.

    By itself, the partitioner would run a loop over blocks of queries on every device
    for the queries of all devices, and it cannot split a Pallas kernel at all.  Outside
    `on_mesh`, or on a single device, this is a plain call.

    Args:
      function: takes queries and others, and returns arrays [N, P, ...] of which each
        entry depends only on its own query (and on all the others).
      queries: [N, P, ...]; N is split over the mesh's DATA, P over its HEIGHT.
      *others: [N, ...] each; N is split over DATA.

    Returns:
      The result of `function` for all queries.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(queries, *others)
    own, all_rows = PartitionSpec(DATA, HEIGHT), PartitionSpec(DATA)
    if mesh.shape[HEIGHT] == 1:
        # Every device holds entire images.  The gradients of the others are summed over
        # each axis that a spec leaves out, even one of length 1.
        own = all_rows = PartitionSpec((DATA, HEIGHT))
    return jax.shard_map(
        function,
        in_specs=(own, *(all_rows for _ in others)),
        out_specs=own,
        # Pallas kernels do not say over which axes their results vary.
        check_vma=False,
    )(queries, *others)


def jit_train_step(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Jits (state, frozen, batch) -> (state, scalars) over the mesh.

    The batch is split, and everything else is replicated; the state is donated.
    """
    everywhere = replicated(mesh)
    return jax.jit(
        on_mesh(step, mesh),
        donate_argnums=0,
        in_shardings=(everywhere, everywhere, split_batch(mesh)),
        out_shardings=everywhere,
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of a batch, and returns the global batch.

    The rows are those of `local_rows`, in that order.
    """
    sharding = split_batch(mesh)
    # In a run of several processes jax counts this as an implicit transfer.
    with jax.transfer_guard("allow"):
        return {
            key: jax.make_array_from_process_local_data(sharding, value)
            for key, value in batch.items()
        }


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Returns the rows of a global batch that this process's devices hold, ascending.

    One of two processes need not hold the first or the second half: on a TPU slice the
    mesh follows the links between the chips, not the hosts.
    """
    held = split_batch(mesh).addressable_devices_indices_map((batch_size,))
    return sorted({i for (rows,) in held.values() for i in range(batch_size)[rows]})
