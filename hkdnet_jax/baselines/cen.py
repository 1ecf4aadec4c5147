"""Cen / Li [30]: fusion and enlargement by any factor, by kernels of a network.

Source: Li, Cen, Liu, Chen and Yu, "Different input resolutions and arbitrary output
resolution: a meta learning-based deep framework for infrared and visible image fusion",
IEEE Trans. Image Process. 30, 2021, by the description of its authors' public model;
the enlargement is that of Hu et al., "Meta-SR", CVPR 2019.

Known: convolutions with zero padding; the head, six blocks with three branches and a
skip around all; a layer of a network that makes, of the factor and of where a pixel of
the result lies inside a small one, the 3x3 kernel that computes it from 8 features;
attention over channels and positions; of two features the one of larger magnitude wins;
two steps that enlarge again what reducing the enlarged features lacks.  About two
million parameters.

Our reading: one channel instead of three; the features are fused before they are
enlarged; sizes of the attention's convolutions (3x3, 2x2 pools); a reduced pixel's
kernel lies around its centre.  Trained by the mean absolute difference of both enlarged
sources, and of the fused image from both, at factors drawn from 1 to 4; the later loss
on contrast is left out.

Weights: none are public.  `configs/baseline.py:cen` trains them.
"""

from functools import partial

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from hkdnet_jax.baselines.recipe import Params, Recipe, Scalars
from hkdnet_jax.baselines.types import Image, Method
from hkdnet_jax.baselines.weights import Weights
from hkdnet_jax.common.arrays import degrade, degrade_corner, resize_bicubic
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.losses import quality
from hkdnet_jax.ops.conv import Conv3x3

NAME = "cen"
LARGEST = 4.0  # factor of the training
_FEATURES = 8
_HIDDEN = 256  # units of the network that makes kernels
_SLOPE = 0.2
_SMALL = 24  # side of the small crops of the training
_STEPS = 2  # of compensation

_leaky = partial(nn.leaky_relu, negative_slope=_SLOPE)
_scaled = partial(
    nn.initializers.variance_scaling, mode="fan_in", distribution="uniform"
)


def _conv(features: int, size: int, name: str, dilation: int = 1) -> nn.Module:
    if (size, dilation) == (3, 1):
        return Conv3x3(features, name=name)
    # As small as Conv3x3's, so that the blocks start near the identity.
    init, window = _scaled(1 / 3), (size, size)
    return nn.Conv(
        features, window, kernel_dilation=dilation, kernel_init=init, name=name
    )


def _nearest(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """The bias of kernels that take the nearest pixel, where training starts."""
    del key, dtype
    middle = jnp.zeros((9, _FEATURES, _FEATURES)).at[4].set(jnp.eye(_FEATURES))
    return middle.reshape(shape)


class _Block(nn.Module):
    """Three branches of different reach, and a skip."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, 64] to the same."""
        y = _leaky(_conv(32, 3, "head")(x))
        near = _leaky(_conv(32, 1, "near1")(y))
        near = nn.PReLU(name="near_slope")(_conv(32, 3, "near2")(near))
        far = _leaky(_conv(32, 5, "far1")(y))
        far = nn.PReLU(name="far_slope")(_conv(32, 3, "far2", 5)(far))
        dense = y
        for i in range(4):
            z = _leaky(_conv(32, 3, f"dense{i}_1")(dense))
            z = nn.PReLU(name=f"dense{i}_slope")(_conv(32, 3, f"dense{i}_2", 3)(z))
            dense = jnp.concatenate([dense, z], -1)
        joined = jnp.concatenate([near, dense, far], -1)
        return x + _leaky(_conv(64, 1, "tail")(joined))


class MetaLayer(nn.Module):
    """Computes features at any positions, by kernels that depend on the positions."""

    @nn.compact
    def __call__(
        self,
        features: jax.Array,
        rows: jax.Array,
        columns: jax.Array,
        factor: jax.Array,
    ) -> jax.Array:
        """Samples a grid.

        Args:
          features: [N, H, W, 8].
          rows: [R], in rows of `features`; the integer part chooses the 3x3 window.
          columns: [C], alike.
          factor: scalar, the share of a pixel of `features` that a result covers.

        Returns:
          [N, R, C, 8].
        """
        hidden, last = nn.Dense(_HIDDEN, name="hidden"), 9 * _FEATURES**2
        start = {"kernel_init": _scaled(1 / 300), "bias_init": _nearest}
        kernel = nn.Dense(last, **start, name="kernel")
        padded = jnp.pad(features, ((0, 0), (1, 1), (1, 1), (0, 0)))
        left = jnp.floor(columns).astype(jnp.int32)

        def input_of(row: jax.Array) -> jax.Array:
            column = columns - jnp.floor(columns)
            ones = jnp.ones_like(column)
            return jnp.stack([factor * ones, (row - jnp.floor(row)) * ones, column], -1)

        # Called once outside of the loop, in which no parameters can be made.
        kernel(nn.relu(hidden(input_of(rows[0])[:1])))
        weights = self.variables["params"]

        def one_row(row: jax.Array) -> jax.Array:
            dense = weights["hidden"]
            x = nn.relu(input_of(row) @ dense["kernel"] + dense["bias"][None])
            x = x @ weights["kernel"]["kernel"] + weights["kernel"]["bias"][None]
            kernels = x.reshape(len(left), 9 * _FEATURES, _FEATURES)
            top = jnp.floor(row).astype(jnp.int32)
            band = lax.dynamic_slice_in_dim(padded, top, 3, axis=1)
            taps = [band[:, i][:, left + j] for i in range(3) for j in range(3)]
            return jnp.einsum("nck,cko->nco", jnp.concatenate(taps, -1), kernels)

        return lax.map(jax.checkpoint(one_row), rows).transpose(1, 0, 2, 3)


class _Fusion(nn.Module):
    """Fuses the features of two images."""

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Maps two [N, H, W, 8] to one."""
        position, join = _Position(name="position"), _conv(_FEATURES, 1, "join")

        def attended(f: jax.Array) -> jax.Array:
            return join(jnp.concatenate([f, f * _channel_weights(f), position(f)], -1))

        fused = _larger(attended(a), attended(b))
        return _conv(_FEATURES, 1, "tail")(jnp.concatenate([fused, _larger(a, b)], -1))


class _Position(nn.Module):
    @nn.compact
    def __call__(self, f: jax.Array) -> jax.Array:
        """Scales each position of [N, H, W, C] by a gate."""
        height, width = f.shape[1:3]
        mean = f.mean(-1, keepdims=True)
        even = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
        mean = jnp.pad(mean, even, mode="edge")
        pooled = [pool(mean, (2, 2), (2, 2)) for pool in (nn.avg_pool, nn.max_pool)]
        x = _leaky(_conv(4, 3, "conv1")(jnp.concatenate(pooled, -1)))
        gate = dm_pix.depth_to_space(_conv(4, 3, "conv2")(x), 2)
        return f * nn.sigmoid(gate[:, :height, :width])


def _channel_weights(f: jax.Array) -> jax.Array:
    """A weight for each channel of [N, H, W, C], [N, 1, 1, C], with the mean 1."""
    n, h, w, c = f.shape
    flat = f.reshape(n, h * w, c)
    sums = jnp.einsum("npc,npd->nd", flat, flat) / (h * w)
    low, high = sums.min(-1, keepdims=True), sums.max(-1, keepdims=True)
    share = (sums - low) / (high - low + 1e-6)
    return c * nn.softmax(share)[:, None, None, :]


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(a) >= jnp.abs(b), a, b)


class Cen(nn.Module):
    """The network.

    Attributes:
      blocks: number of blocks.
    """

    blocks: int = 6

    @nn.compact
    def __call__(
        self,
        ir: jax.Array,
        vis: jax.Array,
        rows: jax.Array | None = None,
        columns: jax.Array | None = None,
        factor: jax.Array | float = 1.0,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Fuses and enlarges a window of images.

        Args:
          ir: float32 [N, H, W, 1] in [0, 1].
          vis: like ir.
          rows: [R], the rows y of the result, counted in its pixels, one after the
            other; as many as ir has if None.
          columns: [C], alike.
          factor: by how much the images are enlarged.

        Returns:
          The fused window and those of both images, [N, R, C, 1] each, not clipped.
        """
        n, height, width, _ = ir.shape
        rows = jnp.arange(height) if rows is None else rows
        columns = jnp.arange(width) if columns is None else columns
        grid = rows / factor, columns / factor
        both = self._extract(jnp.concatenate([ir, vis]))
        fused = _Fusion(name="fusion")(both[:n], both[n:])
        small = jnp.concatenate([fused, both])
        up, down = MetaLayer(name="up"), MetaLayer(name="down")
        large = up(small, *grid, 1.0 / factor)
        # Where a small pixel's centre lies in the window, and whether it does.
        centres = [
            (jnp.arange(side) + 0.5) * factor - 0.5 - at[0]
            for side, at in ((height, rows), (width, columns))
        ]
        ends = [len(rows) - 1, len(columns) - 1]
        inside = [
            (c > -0.5) & (c < e + 0.5) for c, e in zip(centres, ends, strict=True)
        ]
        mask = (inside[0][:, None] & inside[1][None])[None, :, :, None]
        places = [jnp.clip(c, 0, e) for c, e in zip(centres, ends, strict=True)]
        for _ in range(_STEPS):
            lacking = jnp.where(mask, small - down(large, *places, factor), 0.0)
            large = large + up(lacking, *grid, 1.0 / factor)
        images = _conv(1, 3, "image")(large)
        return images[:n], images[n : 2 * n], images[2 * n :]

    @nn.compact
    def _extract(self, images: jax.Array) -> jax.Array:
        head = _leaky(_conv(64, 3, "head")(images))
        x = head
        for i in range(self.blocks):
            x = _Block(name=f"block{i + 1}")(x)
        return _conv(_FEATURES, 1, "features")(x + head)


def load(weights: Weights) -> Method:
    """Loads the method, for any factor from 1 to 4.

    Raises:
      UserError: the weights are missing or others.
    """
    network, params = weights.load(NAME, NAME, Cen, inputs=2)
    params = jax.device_put(params)

    def method(ir: Image, vis: Image, scale: float) -> Image:
        if not 1 <= scale <= LARGEST:
            raise UserError(f"{NAME} cannot enlarge {scale} times: give 1 to 4.")
        batches = (image[None, :, :, None] for image in (ir, vis))
        rows, columns = (round(scale * side) for side in ir.shape)
        fused = _run(network, params, *batches, rows, columns, scale)
        return np.asarray(fused)[0, :, :, 0]

    return method


@partial(jax.jit, static_argnames=("network", "rows", "columns", "factor"))
def _run(network, params, ir, vis, rows: int, columns: int, factor: float):
    grid = jnp.arange(rows), jnp.arange(columns)
    return network.apply({"params": params}, ir, vis, *grid, factor)[0]


def _loss(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array, key: jax.Array
) -> tuple[jax.Array, Scalars]:
    """Enlarges a 24x24 window of the result by a factor that is drawn from 1 to 4."""
    keys = jax.random.split(key)
    factor = jax.random.uniform(keys[0], minval=1.0, maxval=LARGEST)
    room = _SMALL * (factor - 1.0)
    corner = (room * jax.random.uniform(keys[1], (2,))).astype(jnp.int32)
    grid = [at + jnp.arange(_SMALL) for at in corner]
    truth = [
        lax.dynamic_slice(x, (0, *corner, 0), (x.shape[0], _SMALL, _SMALL, 1))
        for x in (ir, vis)
    ]
    low = [degrade_corner(x, factor, _SMALL) for x in (ir, vis)]
    fused, *sources = network.apply({"params": params}, *low, *grid, factor)
    terms = {
        "source": sum(map(_distance, sources, truth)),
        "fused": sum(_distance(fused, image) for image in truth),
    }
    return terms["source"] + terms["fused"], terms


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.abs(a - b))


def _validate(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array
) -> tuple[Scalars, Scalars]:
    """PSNR in dB and SSIM of both images at x2, and those of bicubic enlargement."""
    side = 2 * _SMALL
    values: Scalars = {}
    large = [x[:, :side, :side] for x in (ir, vis)]
    low = [degrade(x, 2) for x in large]
    grid = jnp.arange(side)
    fused, *sources = network.apply({"params": params}, *low, grid, grid, 2.0)
    bicubic = [resize_bicubic(x, 2) for x in low]
    for suffix, images in (("", sources), ("_bicubic", bicubic)):
        for name, measure in (("psnr", quality.psnr), ("ssim", quality.ssim)):
            each = [
                measure(jnp.clip(x, 0, 1), y)
                for x, y in zip(images, large, strict=True)
            ]
            values[f"{name}{suffix}"] = (each[0] + each[1]) / 2
    return values, {"ir": large[0], "vis": large[1], "fused": fused}


RECIPE = Recipe(lambda scale: Cen(), 2, _loss, _validate)
