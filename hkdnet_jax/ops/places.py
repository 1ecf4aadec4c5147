"""Where the pixels of an image that is enlarged by any factor lie in the small image.

A factor counts in ten-thousandths (UNIT), so that sizes and positions are arithmetic of
whole numbers: the same on the host and on every device, in strips, in tiles and for
images that do not fill their arrays.  The top left corners of both images coincide:
pixel i of the large image has its centre at (i + 1/2) / scale pixels from the edge of
the small one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

UNIT = 10_000

Side = int | np.ndarray | jax.Array


def in_units(scale: float) -> int:
    """A factor in ten-thousandths, to which it is rounded."""
    return round(scale * UNIT)


def enlarged(side: Side, scale: float) -> Side:
    """The side of an image after it is enlarged: `scale * side` in whole pixels.

    A half is rounded down, so that every pixel's centre lies inside the small image.

    Args:
      side: pixels, an int or an array of int32, at most 50,000.
      scale: output pixels per input pixel, at most 4.
    """
    whole, rest = divmod(in_units(scale), UNIT)
    return side * whole if not rest else enlarged_by(side, in_units(scale))


def enlarged_by(side: Side, units: int | jax.Array) -> Side:
    """Computes `enlarged` for a factor in ten-thousandths, which may be traced."""
    return (side * units + (UNIT // 2 - 1)) // UNIT


class Window(NamedTuple):
    """A square part of an enlarged image.

    Attributes:
      top: its first row, an int or int32 scalar.
      left: its first column, alike.
      side: pixels of its side.
      units: the factor in ten-thousandths, an int or int32 scalar.
    """

    top: int | jax.Array
    left: int | jax.Array
    side: int
    units: int | jax.Array


class Places(NamedTuple):
    """Consecutive pixels of an enlarged image along one axis.

    Attributes:
      index: int32 [P], their numbers in the enlarged image; some may lie outside.
      nearest: int32 [P], the pixel of the small image that each lies in, or the one
        next to it.
      phase: float32 [P], where its centre lies in that pixel, from -1/2 to 1/2.
    """

    index: jax.Array
    nearest: jax.Array
    phase: jax.Array

    @classmethod
    def of(
        cls,
        first: int | jax.Array,
        count: int,
        side: int,
        units: int | jax.Array,
    ) -> "Places":
        """Finds `count` pixels from number `first` on.

        Args:
          first: the number of the first pixel, which may be negative.
          count: number of pixels.
          side: pixels of the small image along the axis.
          units: the factor in ten-thousandths.
        """
        index = first + jnp.arange(count, dtype=jnp.int32)
        centre = (2 * index + 1) * (UNIT // 2)  # in units of 1 / `units`
        nearest = centre // units
        phase = (centre - nearest * units) / units - 0.5
        clipped = jnp.clip(nearest, 0, side - 1)
        return cls(index, clipped, phase.astype(jnp.float32))


def resize_cubic(x: jax.Array, window: Window) -> jax.Array:
    """Enlarges [N, H, W, C] by Keys' cubic (a = -0.5) and returns a part of the result.

    The result is [N, side, side, C], not clipped.
    """
    shape = (x.shape[0], window.side, window.side, x.shape[3])
    return cubic(x, shape, (1, 2), window.units, (window.top, window.left))


def cubic(
    x: jax.Array,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    units: int | jax.Array,
    firsts: tuple[int | jax.Array, ...],
) -> jax.Array:
    """Samples an array along some axes at the places from `firsts` on, by Keys' cubic.

    Args:
      x: floating array.
      shape: of the result.
      axes: those that are enlarged.
      units: the factor in ten-thousandths.
      firsts: the number of the first place along each of these axes.
    """
    scale = jnp.full(len(axes), units / UNIT, jnp.float32)
    moved = -jnp.stack([jnp.asarray(first, jnp.float32) for first in firsts])
    return jax.image.scale_and_translate(
        x, shape, axes, scale, moved, "cubic", antialias=False
    )
