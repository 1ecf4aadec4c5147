"""The part of the student that enlarges (Sec. III-C), whole or in strips of rows."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models import strips
from hkdnet_jax.models.blocks import ContinuousUpsampler, ResidualGroup, Upsampler
from hkdnet_jax.models.presets import StudentConfig
from hkdnet_jax.ops.conv import Conv3x3
from hkdnet_jax.ops.extent import Extent
from hkdnet_jax.ops.places import Places, Window, enlarged, enlarged_by, in_units
from hkdnet_jax.runtime.precision import FULL

# Channels before the image, which Eq. 23 compares with the teacher's decoder.
TAIL_CHANNELS = 16
# How far a row of the small image reaches up and down: by one row in the upsampler's
# first convolution, and by at most one in all those that work on larger images.
_STRIP_HALO = 2
# How far the two convolutions after the upsampler reach on the large image.
_LARGE_HALO = 2


class SuperResolutionPart(nn.Module):
    """The part of Sec. III-C: residual groups, upsampler and tail."""

    config: StudentConfig
    scale: float
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    in_strips: bool = False

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        extent: Extent | None = None,
        window: Window | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps F_f^s [N, H, W, 16] to an image [N, scale * H, scale * W, 1].

        `extent` is that of F_f^s.  The second result holds `upsampled` (C channels) and
        `tail` (16 channels), both high-resolution: the student's side of Eq. 23.  They
        are missing if the image is made in strips.  With a window, all are that part.
        """
        cfg = self.config
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        conv = partial(Conv3x3, **arithmetic)
        head = y = conv(cfg.width, name="head")(x, extent)
        for i in range(cfg.sr_groups):
            group = partial(ResidualGroup, cfg.sr_rcabs, cfg.reduction)
            y = group(**arithmetic, remat=cfg.remat, name=f"rg{i + 1}")(y, extent)
        y = head + conv(cfg.width, name="body")(y, extent)
        if cfg.upsampler == "continuous":
            return self._continuous(y, extent, window)
        if self.in_strips:
            number = strips.number_of(y.shape, self.scale**2, _STRIP_HALO)
            if number > 1:
                return self._enlarged_in_strips(y, extent, number), {}
        return self._enlarged(y, extent)

    def _continuous(
        self, y: jax.Array, extent: Extent | None, window: Window | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What the continuous upsampler and the tail make of [N, H, W, C]."""
        sides = y.shape[1:3]
        if window is None:
            units, firsts = in_units(self.scale), (0, 0)
            counts = [enlarged(side, self.scale) for side in sides]
        else:
            units, firsts = window.units, (window.top, window.left)
            counts = [window.side] * 2
        rows, columns = (
            Places.of(first - _LARGE_HALO, count + 2 * _LARGE_HALO, side, units)
            for first, count, side in zip(firsts, counts, sides, strict=True)
        )
        if self.in_strips and window is None:
            # What of a pixel takes most memory: all filters, at the rows of the result.
            per_pixel = ContinuousUpsampler.FILTERS**2 * self.scale
            number = strips.number_of(y.shape, per_pixel, _STRIP_HALO)
            if number > 1:
                return self._continuous_in_strips(y, columns, extent, number), {}
        large = tuple(enlarged_by(side, units) for side in extent or sides)
        return self._at(y, rows, columns, large, units)

    def _at(
        self,
        y: jax.Array,
        rows: Places,
        columns: Places,
        sides: tuple[int | jax.Array, int | jax.Array],
        units: int | jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The image and its features at places, of which the outer ones are dropped.

        Args:
          y: features [N, H, W, C].
          rows: places along H; `nearest` counts from the first row of y.
          columns: places along W.
          sides: (height, width) of the large image, beyond which there are zeros, ints
            or [N] each.
          units: the factor in ten-thousandths.
        """
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        down, across = (
            (index >= 0)[None] & (index[None] < jnp.reshape(side, (-1, 1)))
            for index, side in zip((rows.index, columns.index), sides, strict=True)
        )
        inside = down[:, :, None, None] & across[:, None, :, None]

        def cut(x: jax.Array) -> jax.Array:
            kept = slice(_LARGE_HALO, -_LARGE_HALO)
            return x[:, kept, kept]

        upsampler = ContinuousUpsampler(**arithmetic, name="upsampler")
        up = jnp.where(inside, upsampler(y, rows, columns, units), 0)
        tail = Conv3x3(TAIL_CHANNELS, **arithmetic, name="tail")(up)
        tail = jnp.where(inside, tail, 0)
        image = Conv3x3(1, precision=self.precision, name="image")(
            tail.astype(jnp.float32)
        )
        return cut(image), {"upsampled": cut(up), "tail": cut(tail)}

    def _continuous_in_strips(
        self, y: jax.Array, columns: Places, extent: Extent | None, number: int
    ) -> jax.Array:
        """The image of `_continuous`, made one strip of its rows after the other.

        Of y a strip gets the rows that it is made of and one more on each side, for the
        upsampler's convolution.
        """
        n, height, width, _ = y.shape
        units = in_units(self.scale)
        total = enlarged(height, self.scale)
        count = -(-total // number)
        around = count + 2 * _LARGE_HALO
        length = min(height, math.ceil(around / self.scale) + 3)
        large = tuple(enlarged_by(side, units) for side in extent or (height, width))

        def enlarge(part, image, first):
            rows = Places.of(first - _LARGE_HALO, around, height, units)
            start = jnp.clip(rows.nearest[0] - 1, 0, height - length)
            strip = jax.lax.dynamic_slice_in_dim(y, start, length, axis=1)
            rows = rows._replace(nearest=rows.nearest - start)
            own, _ = part._at(strip, rows, columns, large, units)
            image = jax.lax.dynamic_update_slice_in_dim(image, own, first, axis=1)
            return image, None

        firsts = jnp.minimum(jnp.arange(0, total, count), total - count)
        image = jnp.zeros((n, total, enlarged(width, self.scale), 1), jnp.float32)
        return strips.repeated(enlarge)(self, image, firsts)[0]

    def _enlarged(
        self, y: jax.Array, extent: Extent | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The upsampler and all that follows it, on [N, H, W, C]."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        up = Upsampler(self.scale, **arithmetic, name="upsampler")(y, extent)
        large = extent and extent.scaled(self.scale)
        tail = Conv3x3(TAIL_CHANNELS, **arithmetic, name="tail")(up, large)
        # This is float32 whatever the dtype, because bfloat16 has no more levels than a
        # picture.
        image = Conv3x3(1, precision=self.precision, name="image")(
            tail.astype(jnp.float32), large
        )
        return image, {"upsampled": up, "tail": tail}

    def _enlarged_in_strips(
        self, y: jax.Array, extent: Extent | None, number: int
    ) -> jax.Array:
        """The image of `_enlarged`, made one of at least two strips after the other."""

        def enlarge(part: nn.Module, strip: jax.Array, start: jax.Array) -> jax.Array:
            inside = extent and extent._replace(height=extent.height - start)
            return part._enlarged(strip, inside)[0]

        n, height, width, _ = y.shape
        scale = self.scale
        large = (n, scale * height, scale * width, 1)
        made = jax.ShapeDtypeStruct(large, jnp.float32)
        return strips.by_strips(self, enlarge, y, made, number, _STRIP_HALO, scale)
