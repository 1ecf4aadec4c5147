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


def average_squares(x: jax.Array, side: int) -> jax.Array:
    """Averages over squares, which are cut off at the lower and right edges.

    Args:
      x: float32 [N, H, W, C].
      side: side of a square in pixels.

    Returns:
      float32 [N, ceil(H / side), ceil(W / side), C].
    """

    def sums(images: jax.Array) -> jax.Array:
        channels = images.shape[-1]
        return lax.conv_general_dilated(
            images,
            jnp.ones((side, side, 1, channels), images.dtype),
            (side, side),
            # Enough for the last square of any size; what is too much is dropped.
            ((0, side - 1), (0, side - 1)),
            dimension_numbers=LAYOUT,
            feature_group_count=channels,
            precision=FULL,
        )

    return sums(x) / sums(_ones_like_one_of(x))


def resize_bicubic(image: jax.Array, scale: int) -> jax.Array:
    """Computes `common.arrays.resize_bicubic` of images with one channel.

    Each of the scale * scale places within an input pixel has its own 5x5 kernel.

    Args:
      image: float32 [N, H, W, 1].
      scale: output pixels per input pixel along each side.

    Returns:
      float32 [N, scale * H, scale * W, 1].
    """
    kernel = jnp.asarray(_cubic_kernels(scale))
    # Weights that fall outside the image count for nothing, and the others sum to 1.
    share = conv(_ones_like_one_of(image), kernel, _CUBIC_REACH)
    return shuffle_pixels(conv(image, kernel, _CUBIC_REACH) / share, scale)


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


def _ones_like_one_of(images: jax.Array) -> jax.Array:
    """Ones of the size of an image of [N, H, W, C], [1, H, W, 1]."""
    return jnp.ones((1, *images.shape[1:3], 1), images.dtype)


def _cubic_kernels(scale: int) -> np.ndarray:
    """Keys' cubic (a = -0.5) at each place within a pixel, [5, 5, 1, scale * scale]."""
    places = (np.arange(scale) + 0.5) / scale - 0.5
    taps = np.arange(-_CUBIC_REACH, _CUBIC_REACH + 1)
    d = np.abs(np.subtract.outer(taps, places))  # [5, scale]
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    kernels = np.einsum("ip,jq->ijpq", weights, weights)
    return kernels.reshape(len(taps), len(taps), 1, scale**2).astype(np.float32)
