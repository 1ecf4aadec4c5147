"""The device mesh: the one file that names its axes.

A mesh always has both: a batch is split over `data` in training, and one large image
over `height` in use.  The axis that is not needed has length 1.
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
    """A mesh for batches over the first `data` devices, or over all of them with 0.

    Raises:
      ValueError: more devices asked for than there are.
    """
    devices = jax.devices()
    if data > len(devices):
        raise ValueError(f"mesh of {data} devices asked for, there are {len(devices)}")
    return mesh_over(devices[: data or len(devices)])


def mesh_over(devices: Sequence[jax.Device], axis: str = DATA) -> Mesh:
    """A mesh over these devices, all of them along `axis` (DATA or HEIGHT).

    The axes are Auto: Linen code does not carry the annotations that jax's default,
    Explicit, asks for.
    """
    shape = {DATA: (len(devices), 1), HEIGHT: (1, len(devices))}[axis]
    return jax.make_mesh(
        shape, (DATA, HEIGHT), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def split_height(mesh: Mesh) -> NamedSharding:
    """[N, H, W, C] arrays: the batch split over DATA, the rows over HEIGHT."""
    return NamedSharding(mesh, PartitionSpec(DATA, HEIGHT))


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`function`, to be jitted, with `mesh` known to `over_positions` inside it."""

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def over_positions(
    function: Callable[..., Any], queries: jax.Array, *others: jax.Array
) -> Any:
    """Calls `function` on every device with its own queries and all the others.

    Left to itself, the partitioner would run a loop over blocks of queries on every
    device for the queries of all, and cannot split a Pallas kernel at all.  Outside of
    `on_mesh`, or on one device, this is a plain call.

    Args:
      function: takes queries and others, gives arrays [N, P, ...], each entry of which
        depends on its own query alone (and on all the others).
      queries: [N, P, ...]; N splits over the mesh's DATA, P over its HEIGHT.
      *others: [N, ...] each.

    Returns:
      What `function` returns, for all queries.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(queries, *others)
    own, all_rows = PartitionSpec(DATA, HEIGHT), PartitionSpec(DATA)
    if mesh.shape[HEIGHT] == 1:
        # Every device has whole images.  An axis that a spec leaves out is one that the
        # gradients of the others are summed over, even of length 1.
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

    The batch is split, all else is on every device; the state is donated.
    """
    whole = replicated(mesh)
    return jax.jit(
        on_mesh(step, mesh),
        donate_argnums=0,
        in_shardings=(whole, whole, split_batch(mesh)),
        out_shardings=whole,
    )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of a batch; the result is the global batch.

    The rows are those of `local_rows`, in that order.
    """
    sharding = split_batch(mesh)
    # Of several processes jax takes this for a copy that nobody asked for.
    with jax.transfer_guard("allow"):
        return {
            key: jax.make_array_from_process_local_data(sharding, value)
            for key, value in batch.items()
        }


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that this process's devices hold, ascending.

    Of two processes one need not hold the first half: on a TPU slice the mesh follows
    the links between the chips, not the hosts.
    """
    held = split_batch(mesh).addressable_devices_indices_map((batch_size,))
    return sorted({i for (rows,) in held.values() for i in range(batch_size)[rows]})
