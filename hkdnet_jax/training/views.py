"""What a student's step sees of its high-resolution pairs: Algorithm 1's inputs.

A student of one scale sees the reduced crops whole.  One with a continuous upsampler
learns all factors at once: at each step one of them is drawn, and the student sees the
top left of the crops reduced by it, always as many pixels.  It then makes only a window
of the enlarged image, because the whole would have another size at each factor.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hkdnet_jax.common.arrays import degrade, degrade_corner, resize_bicubic
from hkdnet_jax.models.presets import LARGEST_SCALE, LEAST_SCALE
from hkdnet_jax.models.teacher import REACH
from hkdnet_jax.ops.camera import camera_pair
from hkdnet_jax.ops.places import UNIT, Window, enlarged_by, in_units, resize_cubic

Pair = tuple[jax.Array, jax.Array]  # infrared and visible


class View(NamedTuple):
    """A batch of pairs, as a step uses it.

    Attributes:
      high: the high-resolution pair that the teacher fuses, [N, H, W, 1] each.
      clean: the pair at the student's resolution, without any flaw of a camera.
      taken: the same as the student sees it.
      scale: the factor of a view of whole crops.
      window: the part of the enlarged image that is compared; None for the whole.
      corner: (top, left) of the window in `high`.
    """

    high: Pair
    clean: Pair
    taken: Pair
    scale: int
    window: Window | None = None
    corner: tuple[jax.Array, jax.Array] | None = None

    def cut(self, x: jax.Array) -> jax.Array:
        """What of [N, H, W, C], of the size of `high`, is compared."""
        if self.window is None:
            return x
        shape = (x.shape[0], self.window.side, self.window.side, x.shape[3])
        return jax.lax.dynamic_slice(x, (0, *self.corner, 0), shape)

    def enlarge(self, x: jax.Array) -> jax.Array:
        """The same of the bicubic enlargement of [N, h, w, C], the size of `taken`."""
        if self.window is None:
            return resize_bicubic(x, self.scale)
        return resize_cubic(x, self.window)


def is_continuous(config: ConfigDict) -> bool:
    """Whether the run trains a student for all factors."""
    return config.kind == "student" and config.model.upsampler == "continuous"


def view(config: ConfigDict, key: jax.Array, pair: Pair) -> View:
    """What a training step sees.

    Args:
      config: the run's.
      key: of the step.
      pair: the crops, float32 [N, crop, crop, 1] in [0, 1].
    """
    if is_continuous(config):
        return _drawn(config.data.crop, key, pair)
    return whole_view(config, key, pair, config.scale)


def whole_view(config: ConfigDict, key: jax.Array, pair: Pair, scale: int) -> View:
    """The view of whole images at a whole scale, as in validation; see `view`."""
    clean = tuple(degrade(image, scale) for image in pair)
    taken = clean
    if config.data.degradation == "camera":
        taken = camera_pair(key, *pair, scale)
    return View(pair, clean, taken, scale)


def _drawn(crop: int, key: jax.Array, pair: Pair) -> View:
    """The view at a drawn factor, of a drawn window."""
    of_factor, of_corner = jax.random.split(key)
    low = crop // LARGEST_SCALE
    side = int(low * LEAST_SCALE)  # fits into the enlarged image at every factor
    limits = in_units(LEAST_SCALE), in_units(LARGEST_SCALE) + 1
    units = jax.random.randint(of_factor, (), *limits)
    clean = tuple(degrade_corner(image, units / UNIT, low) for image in pair)
    room = enlarged_by(low, units) - side
    top, left = jax.random.randint(of_corner, (2,), 0, room + 1)
    # The teacher need not fuse more than the window depends on.
    part = min(crop, side + 2 * REACH)
    start = [jnp.clip(first - REACH, 0, crop - part) for first in (top, left)]
    shape = (pair[0].shape[0], part, part, 1)
    high = tuple(jax.lax.dynamic_slice(x, (0, *start, 0), shape) for x in pair)
    corner = top - start[0], left - start[1]
    window = Window(top, left, side, units)
    return View(high, clean, clean, 0, window, corner)
