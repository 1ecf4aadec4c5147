"""Harris corner response of every channel (Harris & Stephens 1988; Eq. 8)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from hkdnet_jax.ops import portable
from hkdnet_jax.ops.extent import Extent, clear, reflect
from hkdnet_jax.ops.filters import sobel, window_sum

BLOCK = 3  # side of the box over which the products are summed, in pixels
SOBEL = 3  # side of the Sobel kernel, in pixels
# Bytes of an image's planes that `corner_mask` processes at once: the response takes
# about ten times as much, which would be most of the memory for a large image.
GROUP_BYTES = 4 * 2**20
# OpenCV scales the derivatives of its float path by this factor; so do we, so that the
# responses agree.
DERIVATIVE_SCALE = 1.0 / (2 ** (SOBEL - 1) * BLOCK)


def _reflect(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Pads H and W by one, reflecting without repeating the edge sample."""
    h, w = x.shape[1:3]
    if h > 1 and w > 1:
        return reflect(x, extent)
    # A one-pixel axis has nothing to reflect; its only sample is repeated.
    x = jnp.pad(
        x, ((0, 0), (1, 1), (0, 0), (0, 0)), mode="reflect" if h > 1 else "edge"
    )
    return jnp.pad(
        x, ((0, 0), (0, 0), (1, 1), (0, 0)), mode="reflect" if w > 1 else "edge"
    )


def harris_response(
    x: Float[Array, "n h w c"], k: float = 0.04, extent: Extent | None = None
) -> Float32[Array, "n h w c"]:
    """Computes the Harris response `det(S) - k * trace(S)^2` of each channel.

    S holds the products of the 3x3 Sobel derivatives, summed over a 3x3 box.  For both
    filters the plane is reflected at its border without repeating the edge sample,
    which is OpenCV's default, so the response, including the border, equals
    `cv2.cornerHarris(plane, blockSize=3, ksize=3, k=k)`.

    Args:
      x: [N, H, W, C]; computed in float32 whatever the dtype.
      k: weight of the squared trace.
      extent: of the images; see `ops.extent`.

    Returns:
      float32 [N, H, W, C].
    """
    padded = _reflect(x.astype(jnp.float32) * DERIVATIVE_SCALE, extent)
    dx, dy = sobel(padded, axes=(1, 2))

    def box(product: jax.Array) -> jax.Array:
        return window_sum(_reflect(product, extent), np.ones(BLOCK), axes=(1, 2))

    sxx, syy, sxy = box(dx * dx), box(dy * dy), box(dx * dy)
    trace = sxx + syy
    return sxx * syy - sxy * sxy - k * trace * trace


def corner_mask(
    x: Float[Array, "n h w c"],
    gamma: float | Float[Array, ""] = 0.7,
    k: float = 0.04,
    extent: Extent | None = None,
) -> Float[Array, "n h w c"]:
    """Computes Eq. 8's corner map: 1 where the response exceeds `gamma` * maximum.

    The maximum is taken per image and channel.  A channel whose largest response is
    not positive (flat, or a single straight edge) has no corner.  The map carries no
    gradient.

    Args:
      x: [N, H, W, C].
      gamma: threshold as a share of the channel's maximum, in (0, 1).
      k: see `harris_response`.
      extent: of the images; see `ops.extent`.

    Returns:
      [N, H, W, C] of x's dtype, containing zeros and ones.
    """
    x = jax.lax.stop_gradient(x)
    if portable.active():
        return _mask(x, gamma, k, extent).astype(x.dtype)
    n, h, w, c = x.shape
    fitting = GROUP_BYTES // (4 * h * w)
    group = max(d for d in range(1, c + 1) if c % d == 0 and d <= max(1, fitting))
    if group == c:
        return _mask(x, gamma, k, extent).astype(x.dtype)
    groups = jnp.moveaxis(x.reshape(n, h, w, c // group, group), 3, 0)
    masks = jax.lax.map(lambda planes: _mask(planes, gamma, k, extent), groups)
    # Until here they are bool, a quarter of the memory.
    return jnp.moveaxis(masks, 0, 3).reshape(x.shape).astype(x.dtype)


def _mask(
    x: jax.Array, gamma: float | jax.Array, k: float, extent: Extent | None
) -> jax.Array:
    # A peak that is not positive has no corner, so the zeros do not matter.
    response = clear(harris_response(x, k, extent), extent)
    peak = jnp.max(response, axis=(1, 2), keepdims=True)
    # gamma is below 1, so nothing exceeds the threshold of a peak that is not positive.
    return response > gamma * peak
