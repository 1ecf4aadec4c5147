"""Compiles forward passes ahead of time, for the devices and memory that are free."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from hkdnet_jax.model_files import call
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.ops.places import enlarged
from hkdnet_jax.runtime import memory, sharding

_PIXELS_AT_ONCE = call.PIXELS_AT_ONCE
# The fewest rows that each device gets of an image that is split over devices. With
# fewer rows, the exchange at the borders is no longer small beside the computation.
_MIN_ROWS = 32
_PROGRAMS_KEPT = 8  # number of compiled programs in memory; tens of megabytes each


class DoesNotFit(Exception):
    """An image needs more memory than is free.

    Attributes:
      needed: bytes that the program takes, on one device or on the machine.
      free: bytes that it may take.
    """

    def __init__(self, needed: int, free: int):
        """See the class."""
        super().__init__(f"{needed} bytes needed, {free} are free")
        self.needed = needed
        self.free = free


@dataclasses.dataclass(frozen=True)
class Program:
    """The forward pass of one network for a batch of images of one size, compiled.

    Attributes:
      batch: number of images per call.
      mesh: the devices that share the work.
      compiled: the function (params, ir, vis, extent) -> fused; it has no `extent`
        unless images may be smaller than their arrays.
    """

    batch: int
    mesh: Mesh
    compiled: jax.stages.Compiled

    def run(
        self,
        params: Mapping[str, Any],
        ir: np.ndarray,
        vis: np.ndarray,
        extent: Extent | None = None,
    ) -> jax.Array:
        """Starts to fuse pairs; the result may still be being computed on return.

        Args:
          params: parameters of the network.
          ir: float32 [n, h, w, 1] in [0, 1], n at most `batch`.
          vis: float32 [n, h, w, 1] in [0, 1].
          extent: the sizes of the images, [n] each; only of a padded program.

        Returns:
          float32 [n, scale * h, scale * w, 1].
        """
        params = jax.device_put(params, sharding.replicated(self.mesh))
        count = len(ir)
        filled = np.arange(self.batch) % count  # the last batch may not be full
        split = sharding.split_height(self.mesh)
        images = [jax.device_put(x[filled], split) for x in (ir, vis)]
        if extent is not None:
            sizes = Extent(*(side[filled] for side in extent))
            images.append(jax.device_put(sizes, sharding.split_batch(self.mesh)))
        return self.compiled(params, *images)[:count]

    def needed(self) -> int:
        """Bytes it takes on one accelerator, or in a CPU's memory for all devices."""
        device = self.mesh.devices.flat[0]
        return memory.needed_bytes(self.compiled, device, self.mesh.size)


def choose(
    model: Model,
    size: tuple[int, int],
    count: int,
    devices: Sequence[jax.Device],
    free: int | None = None,
    beside: int = 0,
    padded: bool = False,
) -> Program:
    """The program for `count` images that keeps the most devices busy and fits.

    Args:
      model: the model whose network is compiled.
      size: (height, width) of the images, in pixels, or of arrays that hold them.
      count: number of images.
      devices: the devices that may share the work.
      free: bytes that the program may take, see `budget`; None for no limit.
      beside: bytes of host memory that the caller needs at the same time.
      padded: whether images may be smaller than `size`.

    Raises:
      DoesNotFit: every program takes more than `free` bytes.
    """
    problem, shapes = None, _shapes(model.params)
    for batch, mesh in _candidates(size, count, devices, model.scale):
        program = _compile(model.network, shapes, size, batch, mesh, padded)
        needed = program.needed() + (beside if _on_cpu(devices[0]) else 0)
        if free is None or needed <= free:
            return program
        if problem is None or needed < problem.needed:
            problem = DoesNotFit(needed, free)
    raise problem


def _candidates(
    size: tuple[int, int], count: int, devices: Sequence[jax.Device], scale: float = 1
) -> Iterator[tuple[int, Mesh]]:
    """Yields (batch, mesh), the best one first; later ones need less memory.

    An image is split only over a number of devices that divides its height, so that all
    parts are equal.
    """
    at_once = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
    if count > 1:
        used = devices[:count]
        mesh = sharding.mesh_over(used)
        each = min(at_once, -(-count // len(used)))
        yield each * len(used), mesh
        if each > 1:
            yield len(used), mesh
    height = size[0]
    # All parts of the image are equal, and so are those of the result.
    sides = height, enlarged(height, scale)
    parts = [
        n for n in range(len(devices), 1, -1) if not any(side % n for side in sides)
    ]
    for part in parts:
        if height >= part * _MIN_ROWS:
            yield 1, sharding.mesh_over(devices[:part], sharding.HEIGHT)
            if not _on_cpu(devices[0]):
                return  # on an accelerator, an image takes more memory unsplit
            break
    yield 1, sharding.mesh_over(devices[:1])


def _on_cpu(device: jax.Device) -> bool:
    return device.platform == "cpu"


def budget(device: jax.Device, max_memory: int | None = None) -> int | None:
    """Bytes that programs may take from now on, or None if that is not known.

    Args:
      device: one of the devices that share the work.
      max_memory: limit in bytes, on CPUs for the entire process, otherwise for each
        device.  None for the memory that is free.
    """
    if max_memory is None:
        return memory.free(device)
    used = memory.rss() if _on_cpu(device) else 0
    return max(0, max_memory - (used or 0))


# Hashable, for the cache below: the tree and the shapes of its leaves.
_Shapes = tuple[jax.tree_util.PyTreeDef, tuple[jax.ShapeDtypeStruct, ...]]


def _shapes(params: Mapping[str, Any]) -> _Shapes:
    leaves, tree = jax.tree.flatten(params)
    return tree, tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)


@functools.lru_cache(_PROGRAMS_KEPT)
def _compile(
    network: nn.Module,
    shapes: _Shapes,
    size: tuple[int, int],
    batch: int,
    mesh: Mesh,
    padded: bool = False,
) -> Program:
    image = jax.ShapeDtypeStruct((batch, *size, 1), jnp.float32)
    params = jax.tree.unflatten(*shapes)
    replicated, split = sharding.replicated(mesh), sharding.split_height(mesh)
    arguments, shardings = [params, image, image], [replicated, split, split]
    if padded:
        sides = jax.ShapeDtypeStruct((batch,), jnp.int32)
        arguments.append(Extent(sides, sides))
        shardings.append(sharding.split_batch(mesh))
    jitted = jax.jit(
        sharding.on_mesh(functools.partial(call.forward, network), mesh),
        in_shardings=tuple(shardings),
        out_shardings=split,
    )
    return Program(batch, mesh, jitted.lower(*arguments).compile())
