"""Images that fill only the top left of their array, so that sizes share a program.

A network that is given an `Extent` computes for each image what it computes for that
image alone, up to rounding: convolutions, averages, maxima and attention end at the
image's own border.  Two rules make that so.  A feature that goes from module to module
is 0 beyond the border, as a zero-padded convolution wants it; and whatever else looks
across the border is told the extent.  What a network returns beyond the border has no
meaning.

Without an extent (None) the image is the whole array, and every function here is the
plain operation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.ops.filters import gaussian, window_sum
from hkdnet_jax.ops.places import cubic, enlarged, in_units

# A Gaussian window reaches this many standard deviations.
_REACH = 2.5


class Extent(NamedTuple):
    """The sizes of a batch of images, each at least 2x2, in arrays [N, H, W, C].

    Attributes:
      height: int32 [N], at most H.
      width: int32 [N], at most W.
    """

    height: jax.Array
    width: jax.Array

    @classmethod
    def of(cls, images: Sequence[np.ndarray]) -> "Extent":
        """The sizes of images [H, W, ...], on the host."""
        sizes = np.array([image.shape[:2] for image in images], np.int32)
        return cls(sizes[:, 0], sizes[:, 1])

    def rows(self, number: int) -> jax.Array:
        """Which of `number` rows are in the image, bool [N, number, 1, 1]."""
        return (jnp.arange(number)[None] < self.height[:, None])[:, :, None, None]

    def columns(self, number: int) -> jax.Array:
        """Which of `number` columns are in the image, bool [N, 1, number, 1]."""
        return (jnp.arange(number)[None] < self.width[:, None])[:, None, :, None]

    def inside(self, x: jax.Array) -> jax.Array:
        """Which pixels of an array [N, H, W, C] are in the image, bool [N, H, W, 1]."""
        return self.rows(x.shape[1]) & self.columns(x.shape[2])

    def pixels(self) -> jax.Array:
        """Number of pixels of each image, float32 [N, 1, 1, 1]."""
        area = self.height.astype(jnp.float32) * self.width.astype(jnp.float32)
        return area[:, None, None, None]

    def scaled(self, factor: float) -> "Extent":
        """The extent of the images enlarged `factor` times, see `places.enlarged`."""
        return Extent(enlarged(self.height, factor), enlarged(self.width, factor))


def stack(images: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Stacks images [h, w, C] in [N, *shape, C] on the host, 0 beyond their borders."""
    height, width = shape
    return np.stack(
        [
            np.pad(x, ((0, height - x.shape[0]), (0, width - x.shape[1]), (0, 0)))
            for x in images
        ]
    )


def clear(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Sets [N, H, W, C] to 0 beyond the border."""
    return x if extent is None else jnp.where(extent.inside(x), x, 0)


def spatial_mean(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Averages [N, H, W, C], which is 0 beyond the border, to [N, 1, 1, C]."""
    if extent is None:
        return jnp.mean(x, axis=(1, 2), keepdims=True)
    return jnp.sum(x, axis=(1, 2), keepdims=True) / extent.pixels()


def reach_of_mean(sigma: float) -> int:
    """How far `local_mean` looks along each axis, in pixels."""
    return int(_REACH * sigma)


def local_mean(x: jax.Array, sigma: float, extent: Extent | None = None) -> jax.Array:
    """Averages [N, H, W, C], which is 0 beyond the border, around each pixel.

    Args:
      x: floating images.
      sigma: standard deviation of the Gaussian weights in pixels, cut off at 2.5 of
        them; only pixels that are in the image count.
      extent: of the images.

    Returns:
      An array of the same shape and dtype, also 0 beyond the border.
    """
    reach = reach_of_mean(sigma)
    window = gaussian(2 * reach + 1, sigma)
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    ones = jnp.ones_like(x[:, :, :, :1])
    total, weight = (
        window_sum(jnp.pad(values, around), window, axes=(1, 2))
        for values in (x, clear(ones, extent))
    )
    if extent is None:
        return total / weight
    # Beyond the border, some windows hold no pixel at all.
    return clear(total / jnp.where(extent.inside(x), weight, 1.0), extent)


def reflect(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Pads by one pixel, reflecting without repeating the edge sample.

    [N, H, W, C] becomes [N, H + 2, W + 2, C], in which the image, of at least 2x2
    pixels, begins at (1, 1).
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    if extent is None:
        return x
    for axis, length in ((1, extent.height), (2, extent.width)):
        # The image's last sample is number `length`, and the border follows it.
        shape = [1] * x.ndim
        shape[0] = len(length)
        border = length.reshape(shape) + 1
        mirrored = jnp.take_along_axis(x, border - 2, axis)
        shape[0], shape[axis] = 1, x.shape[axis]
        place = jnp.arange(x.shape[axis]).reshape(shape)
        x = jnp.where(place == border, mirrored, x)
    return x


def enlarge_bicubic(x: jax.Array, scale: float, extent: Extent | None) -> jax.Array:
    """Enlarges [N, H, W, C], which is 0 beyond the border, as `resize_bicubic` does.

    Args:
      x: the images.
      scale: any factor; the sides of the result are `places.enlarged`.
      extent: of the images.
    """
    n, h, w, c = x.shape
    height, width = enlarged(h, scale), enlarged(w, scale)
    large = _cubic(x, (n, height, width, c), (1, 2), scale)
    if extent is None:
        return large
    # At an edge, the weights of the samples that are there are scaled to the sum 1.
    rows, columns = (
        side.astype(x.dtype) for side in (extent.rows(h), extent.columns(w))
    )
    of_rows = _cubic(rows, (n, height, 1, 1), (1,), scale)
    of_columns = _cubic(columns, (n, 1, width, 1), (2,), scale)
    share = jnp.where(extent.scaled(scale).inside(large), of_rows * of_columns, 1)
    return large / share


def _cubic(
    x: jax.Array, shape: tuple[int, ...], axes: tuple[int, ...], scale: float
) -> jax.Array:
    if scale == int(scale):
        return jax.image.resize(x, shape, method="cubic")
    return cubic(x, shape, axes, in_units(scale), (0,) * len(axes))
