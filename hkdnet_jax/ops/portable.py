"""The form of the networks that other compilers and runtimes take.

A network whose field `portable` is set is traced inside `form(True)`.  Then the
operations below replace those that choose a method by the platform or by the size of
the image: a program of this form has symbolic sizes, serves every platform, and holds
only what StableHLO and ONNX share.  It computes the same up to rounding, is for
inference alone, and is slower than the usual form wherever that has a better method.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hkdnet_jax.runtime.precision import FULL

LAYOUT = ("NHWC", "HWIO", "NHWC")
_CUBIC_REACH = 2  # input pixels on each side of the nearest one that a cubic reads

_active = contextvars.ContextVar("portable", default=False)


@contextlib.contextmanager
def form(portable: bool) -> Iterator[None]:
    """Traces what is inside the `with` block in the portable form, or in the usual."""
    token = _active.set(portable)
    try:
        yield
    finally:
        _active.reset(token)


def active() -> bool:
    """Returns whether the portable form is being traced."""
    return _active.get()


def conv(
    x: jax.Array, kernel: jax.Array, padding: int, precision: str = FULL
) -> jax.Array:
    """Cross-correlates with stride 1.

    Args:
      x: floating [N, H, W, I].
      kernel: [K, K, I, O] of the same dtype.
      padding: zeros on each side, in pixels.
      precision: see `runtime.precision`.

    Returns:
      [N, H + 2 * padding - K + 1, W + 2 * padding - K + 1, O].
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((padding, padding), (padding, padding)),
        dimension_numbers=LAYOUT,
        precision=precision,
    )


def softmax(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Computes `jax.nn.softmax`, in either form; ONNX's is over one axis alone.

    Args:
      x: float32.
      axes: what the softmax is over.

    Returns:
      An array like x.
    """
    if len(axes) == 1 or not active():
        return jax.nn.softmax(x, axis=axes)
    powers = jnp.exp(x - jnp.max(x, axis=axes, keepdims=True))
    return powers / jnp.sum(powers, axis=axes, keepdims=True)


def average_squares(x: jax.Array, side: int) -> jax.Array:
    """Averages over squares, which are cut off at the lower and right edges.

    Args:
      x: float32 [N, H, W, C].
      side: side of a square in pixels.

    Returns:
      float32 [N, ceil(H / side), ceil(W / side), C].
    """
    h, w, channels = x.shape[1:]
    sums = lax.conv_general_dilated(
        x,
        jnp.ones((side, side, 1, channels), x.dtype),
        (side, side),
        # Enough for the last square of any size; what is too much is dropped.
        ((0, side - 1), (0, side - 1)),
        dimension_numbers=LAYOUT,
        feature_group_count=channels,
        precision=FULL,
    )
    ones = np.ones((side, 1), np.float32)
    rows, columns = (_share(length, ones, side, (0, side - 1)) for length in (h, w))
    return sums / (rows[None, :, None] * columns[None, None])


def largest_around(x: jax.Array) -> jax.Array:
    """Takes the largest of the 3x3 pixels around each, of fewer at the border.

    Args:
      x: floating [N, H, W, C].

    Returns:
      An array like x.
    """
    if not active():
        window, strides = (1, 3, 3, 1), (1, 1, 1, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "SAME")
    for axis in (1, 2):
        length, widths = x.shape[axis], [(0, 0)] * 4
        widths[axis] = (1, 1)
        padded = jnp.pad(x, widths, constant_values=-jnp.inf)
        before, own, after = (
            lax.slice_in_dim(padded, start, start + length, axis=axis)
            for start in range(3)
        )
        x = jnp.maximum(jnp.maximum(before, own), after)
    return x


def resize_bicubic(image: jax.Array, scale: int) -> jax.Array:
    """Computes `common.arrays.resize_bicubic` of images with one channel.

    Each of the scale * scale places within an input pixel has its own 5x5 kernel.

    Args:
      image: float32 [N, H, W, 1].
      scale: output pixels per input pixel along each side.

    Returns:
      float32 [N, scale * H, scale * W, 1].
    """
    weights = _cubic_weights(scale)
    taps, h, w = len(weights), *image.shape[1:3]
    kernel = np.einsum("ip,jq->ijpq", weights, weights)
    kernel = kernel.reshape(taps, taps, 1, scale**2)
    fused = conv(image, jnp.asarray(kernel), _CUBIC_REACH)
    # Weights that fall outside the image count for nothing, and the others sum to 1.
    reach = (_CUBIC_REACH, _CUBIC_REACH)
    rows, columns = (_share(length, weights, 1, reach) for length in (h, w))
    share = rows[:, None, :, None] * columns[None, :, None, :]
    return shuffle_pixels(fused / share.reshape(1, h, w, scale**2), scale)


def shuffle_pixels(x: jax.Array, scale: int) -> jax.Array:
    """Moves channels to space, as `dm_pix.depth_to_space` does.

    Args:
      x: [N, H, W, scale * scale * C].
      scale: output pixels per input pixel along each side.

    Returns:
      [N, scale * H, scale * W, C].
    """
    n, h, w, c = x.shape
    x = x.reshape(n, h, w, scale, scale, c // scale**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h * scale, w * scale, c // scale**2)


def _share(
    length: int, weights: np.ndarray, stride: int, padding: tuple[int, int]
) -> jax.Array:
    """Sums, at each place along an axis, the weights that fall inside of it.

    Along both axes at once, XLA would take seconds to compute this ahead.

    Args:
      length: number of pixels, which may be a symbol.
      weights: [K, P], P kernels of K taps.
      stride: pixels from one place to the next.
      padding: pixels before and after the axis.

    Returns:
      float32 [number of places, P].
    """
    out = lax.conv_general_dilated(
        jnp.ones((1, length, 1, 1), jnp.float32),
        jnp.asarray(weights[:, None, None, :]),
        (stride, 1),
        (padding, (0, 0)),
        dimension_numbers=LAYOUT,
        precision=FULL,
    )
    return jnp.squeeze(out, (0, 2))


def _cubic_weights(scale: int) -> np.ndarray:
    """Keys' cubic (a = -0.5) at each place within a pixel, float32 [5, scale]."""
    places = (np.arange(scale) + 0.5) / scale - 0.5
    taps = np.arange(-_CUBIC_REACH, _CUBIC_REACH + 1)
    d = np.abs(np.subtract.outer(taps, places))
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    return weights.astype(np.float32)
