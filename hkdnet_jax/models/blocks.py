"""Residual channel-attention blocks and the sub-pixel upsampler, as in RCAN.

Beside it stands our upsampler for any factor.

Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks", ECCV 2018.  Arrays are [N, H, W, C]; there are no normalisation layers.
"""

from functools import partial
from typing import Any, ClassVar

import dm_pix
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from hkdnet_jax.models import tiled_rcabs
from hkdnet_jax.models.remat import conv_output, rematerialized
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.ops.extent import Extent, spatial_mean
from hkdnet_jax.ops.places import UNIT, Places
from hkdnet_jax.runtime.precision import FULL

_HIDDEN = 32  # units of the network that mixes the continuous upsampler's filters


class ChannelGate(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from all channel means.

    `x * sigmoid(W_up relu(W_down mean(x)))`, with C / reduction hidden units.
    """

    reduction: int
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL

    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        return x * self.weights(spatial_mean(x.astype(jnp.float32), extent))

    @nn.compact
    def weights(self, means: jax.Array) -> jax.Array:
        """Maps the channels' float32 means, [..., C], to their gates."""
        c = means.shape[-1]
        conv = partial(Conv1x1, dtype=self.dtype, precision=self.precision)
        gate = conv(max(1, c // self.reduction), name="down")(means)
        return nn.sigmoid(conv(c, name="up")(nn.relu(gate)))


class RCAB(nn.Module):
    """Residual channel-attention block: `x + gate(conv(relu(conv(x))))`."""

    reduction: int
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        c = x.shape[-1]
        conv = partial(Conv3x3, c, dtype=self.dtype, precision=self.precision)
        y = nn.relu(conv_output(conv(name="conv1")(x, extent)))
        y = conv_output(conv(name="conv2")(y, extent))
        gate = ChannelGate(self.reduction, self.dtype, self.precision, name="gate")
        return x + gate(y, extent)


class _ScannedRCAB(nn.Module):
    """RCAB with the signature of a scan body; the carry is the feature."""

    reduction: int
    dtype: jnp.dtype
    precision: str

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None) -> tuple[jax.Array, None]:
        rcab = RCAB(self.reduction, self.dtype, self.precision, name="rcab")
        return rcab(x, extent), None


class ResidualGroup(nn.Module):
    """Residual group: `x + conv(RCABs(x))`.

    The RCABs are scanned, so that one body is compiled whatever their number; their
    parameters have a leading axis of length `rcabs`.
    """

    rcabs: int
    reduction: int
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        if portable.active():
            y = self._unrolled(x)
        elif self.is_initializing() or not tiled_rcabs.pays(x, self.dtype, extent):
            y, _ = self._scanned(name="rcabs")(x, extent)
        else:
            y = self._by_platform(x)
        return x + Conv3x3(x.shape[-1], **arithmetic, name="conv")(y, extent)

    def _scanned(self, **module: Any) -> nn.Module:
        """The RCABs as one module (x, extent) -> (y, None)."""
        stack = nn.scan(
            rematerialized(_ScannedRCAB, self.remat, in_scan=True),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.rcabs,
        )
        return stack(self.reduction, self.dtype, self.precision, **module)

    def _by_platform(self, x: jax.Array) -> jax.Array:
        """Applies the RCABs in tiles on a CPU, and as they are elsewhere."""
        scanned = self._scanned(parent=None)
        gate = ChannelGate(self.reduction, self.dtype, self.precision, parent=None)

        def weights(params: Any, means: jax.Array) -> jax.Array:
            return gate.apply({"params": params}, means, method=ChannelGate.weights)

        def default(params: Any, x: jax.Array) -> jax.Array:
            return scanned.apply({"params": params}, x, None)[0]

        def cpu(params: Any, x: jax.Array) -> jax.Array:
            return tiled_rcabs.apply(params["rcab"], x, weights, self.remat)

        params = self.get_variable("params", "rcabs")
        return lax.platform_dependent(params, x, cpu=cpu, default=default)

    def _unrolled(self, x: jax.Array) -> jax.Array:
        """Applies the RCABs one by one, each to its share of the parameters."""
        rcab = RCAB(self.reduction, self.dtype, self.precision, parent=None)
        stacked = self.get_variable("params", "rcabs")["rcab"]
        for i in range(self.rcabs):
            params = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
            x = rcab.apply({"params": params}, x)
        return x


class Upsampler(nn.Module):
    """Sub-pixel upsampler: two x2 stages for scale 4, one stage for scales 2 and 3.

    Each stage of scale r is a 3x3 convolution to C * r^2 channels and a pixel shuffle.
    """

    scale: int
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to [N, scale * H, scale * W, C]; `extent` is that of x."""
        c = x.shape[-1]
        conv = partial(Conv3x3, dtype=self.dtype, precision=self.precision)
        for i, r in enumerate((2, 2) if self.scale == 4 else (self.scale,)):
            x = conv(c * r * r, name=f"conv{i + 1}")(x, extent)
            x = dm_pix.depth_to_space(x, r)
            extent = extent and extent.scaled(r)
        return x


class ContinuousUpsampler(nn.Module):
    """Computes features at any places, by 3x3 kernels that depend on the place.

    This is the position-to-weight of Hu et al., "Meta-SR", CVPR 2019, in a cheaper
    form: the kernel of a place is a mixture of 4x4 kernels that are learned, so all of
    these are applied to the small image, and the results are mixed for each pixel of
    the large one.  The weights of the mixture are products of a row's and a column's,
    which a small network makes of the place within the small pixel, and of the factor.
    They start as linear interpolation between the four filters; at factor 4 that is
    sub-pixel convolution.
    """

    # Along each axis, as many as the sub-pixel upsampler has at the largest factor.
    FILTERS: ClassVar[int] = 4

    dtype: jnp.dtype = jnp.float32
    precision: str = FULL

    @nn.compact
    def __call__(
        self, x: jax.Array, rows: Places, columns: Places, units: int | jax.Array
    ) -> jax.Array:
        """Maps [N, H, W, C] to [N, rows, columns, C].

        Args:
          x: features, 0 beyond the border of images that do not fill their arrays.
          rows: places along H; `nearest` counts from the first row of x.
          columns: places along W, alike.
          units: the factor in ten-thousandths.
        """
        n, h, w, c = x.shape
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        filters = self.FILTERS
        x = Conv3x3(c * filters**2, **arithmetic, name="filters")(x)
        of_rows, of_columns = (
            _Mixture(filters, name=name)(places.phase, units).astype(self.dtype)
            for name, places in (("rows", rows), ("columns", columns))
        )
        mix = partial(jnp.einsum, precision=self.precision)
        x = x.reshape(n, h, w, filters, filters * c)[:, rows.nearest]
        x = mix("nrwac,ra->nrwc", x, of_rows)
        x = x.reshape(n, -1, w, filters, c)[:, :, columns.nearest]
        return mix("nrqac,qa->nrqc", x, of_columns)


class _Mixture(nn.Module):
    """The weights of the filters along one axis."""

    filters: int

    @nn.compact
    def __call__(self, phase: jax.Array, units: int | jax.Array) -> jax.Array:
        """Maps phases [P] in a pixel, -1/2 to 1/2, to weights float32 [P, filters]."""
        centres = jnp.arange(self.filters)
        at = jnp.clip(self.filters * (phase + 0.5) - 0.5, 0, self.filters - 1)
        linear = jnp.maximum(0.0, 1.0 - jnp.abs(at[:, None] - centres[None]))
        share = jnp.full_like(phase, UNIT / units)
        x = jnp.stack([2 * phase, 2 * share - 1], -1)
        x = nn.relu(Conv1x1(_HIDDEN, name="hidden")(x))
        start = {"kernel_init": nn.initializers.zeros, "name": "weights"}
        return linear + Conv1x1(self.filters, **start)(x)
