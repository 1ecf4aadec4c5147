"""Residual channel-attention blocks and the sub-pixel upsampler, as in RCAN.

Zhang et al., "Image Super-Resolution Using Very Deep Residual Channel Attention
Networks", ECCV 2018.  Arrays are [N, H, W, C]; there are no normalisation layers.
"""

from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
from flax import linen as nn

from hkdnet_jax.models.remat import conv_output, rematerialized
from hkdnet_jax.ops import portable
from hkdnet_jax.ops.conv import Conv1x1, Conv3x3
from hkdnet_jax.ops.extent import Extent, spatial_mean
from hkdnet_jax.runtime.precision import FULL


class ChannelGate(nn.Module):
    """Scales each channel by a gate in (0, 1) computed from all channel means.

    `x * sigmoid(W_up relu(W_down mean(x)))`, with C / reduction hidden units.
    """

    reduction: int
    dtype: jnp.dtype = jnp.float32
    precision: str = FULL

    @nn.compact
    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """Maps [N, H, W, C] to the same shape."""
        c = x.shape[-1]
        conv = partial(Conv1x1, dtype=self.dtype, precision=self.precision)
        gate = spatial_mean(x.astype(jnp.float32), extent)
        gate = conv(max(1, c // self.reduction), name="down")(gate)
        gate = conv(c, name="up")(nn.relu(gate))
        return x * nn.sigmoid(gate)


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
        stack = nn.scan(
            rematerialized(_ScannedRCAB, self.remat, in_scan=True),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.rcabs,
        )
        arithmetic = {"dtype": self.dtype, "precision": self.precision}
        if portable.active():
            y = self._unrolled(x)
        else:
            y, _ = stack(self.reduction, **arithmetic, name="rcabs")(x, extent)
        return x + Conv3x3(x.shape[-1], **arithmetic, name="conv")(y, extent)

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
