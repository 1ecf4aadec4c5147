"""Image arrays on the device: NHWC, one channel, float32 in [0, 1].

Every function is pure, traceable and batched.  Files are read by `common.image_files`;
this module only converts, resizes and normalizes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Shaped, UInt8


def to_float(
    image: Shaped[Array | np.ndarray, "*shape"],
) -> Float32[Array, "*shape"]:
    """Maps uint8 (0..255) or uint16 (0..65535) of any shape to float32 in [0, 1].

    Raises:
      TypeError: the dtype is neither uint8 nor uint16.
    """
    if image.dtype not in (jnp.uint8, jnp.uint16):
        raise TypeError(f"to_float takes uint8 or uint16, got {image.dtype}")
    return jnp.asarray(image, jnp.float32) / float(jnp.iinfo(image.dtype).max)


def to_uint8(image: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Converts to uint8: clips to [0, 1], scales to 0..255 and rounds half to even."""
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _shrink(image: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Resizes to `shape`, bilinear and anti-aliased, and rounds as `_as_bytes` does."""
    return _as_bytes(jax.image.resize(image, shape, method="linear", antialias=True))


def _as_bytes(small: jax.Array) -> jax.Array:
    """Rounds to multiples of 1/255; values outside [0, 1] are clipped."""
    # Half is rounded up, as PIL does.  Where PIL's integer arithmetic meets an exact
    # half, float32 may fall short of it by a rounding error, hence the small excess.
    return jnp.floor(jnp.clip(small, 0.0, 1.0) * 255.0 + (0.5 + 1e-4)) / 255.0


def degrade(
    image: Float32[Array, "n h w 1"], scale: int
) -> Float32[Array, "n h//{scale} w//{scale} 1"]:
    """Makes the low-resolution image, as a camera's 8-bit file would hold it.

    Equals `PIL.Image.resize(..., BILINEAR)` of the 8-bit picture, by which the authors
    made the low-resolution inputs that they released: a triangle filter `scale` times
    as wide as the bilinear one is applied along the width and then along the height,
    and each result is rounded to 8 bits.

    Args:
      image: float32 [N, H, W, 1] in [0, 1]; H and W divisible by `scale`.
      scale: 1, 2, 3 or 4.

    Returns:
      float32 [N, H / scale, W / scale, 1], multiples of 1/255.

    Raises:
      ValueError: H or W is not divisible by `scale`.
    """
    n, h, w, c = image.shape
    if h % scale or w % scale:
        raise ValueError(f"degrade: {h}x{w} is not divisible by the scale {scale}")
    narrow = _shrink(image, (n, h, w // scale, c))
    return _shrink(narrow, (n, h // scale, w // scale, c))


def degrade_corner(
    image: Float32[Array, "n h w 1"], scale: jax.Array | float, side: int
) -> Float32[Array, "n {side} {side} 1"]:
    """Makes the top left of the low-resolution image, for a factor that may be traced.

    Args:
      image: float32 [N, H, W, 1] in [0, 1]; both sides are at least `scale * side`.
      scale: at least 1; for 1, 2, 3 or 4 the result is that of `degrade`, up to
        rounding, except that pixels beyond `scale * side` count for the last ones.
      side: pixels of the result along each side.

    Returns:
      float32 [N, side, side, 1], multiples of 1/255.
    """
    for axis in (2, 1):
        shape = (*image.shape[:axis], side, *image.shape[axis + 1 :])
        factor = jnp.full(1, 1.0 / scale, jnp.float32)
        small = jax.image.scale_and_translate(
            image, shape, (axis,), factor, jnp.zeros(1), "linear", antialias=True
        )
        image = _as_bytes(small)
    return image


def resize_bicubic(
    image: Float[Array, "n h w c"], scale: int
) -> Float[Array, "n h*{scale} w*{scale} c"]:
    """Upsamples [N, H, W, C] `scale` times with the Keys cubic (a = -0.5), as PIL does.

    The result is not clipped, and a cubic overshoots next to edges.
    """
    n, h, w, c = image.shape
    return jax.image.resize(image, (n, h * scale, w * scale, c), method="cubic")


def normalize_minmax(
    image: Float[Array, "n h w 1"], inside: Bool[Array, "n h w 1"] | None = None
) -> Float[Array, "n h w 1"]:
    """Stretches each image of [N, H, W, 1] to [0, 1] by its own minimum and maximum.

    A flat image becomes all zeros.

    Args:
      image: the images.
      inside: which pixels count, at least one of each image; all if None.
    """
    axes = {"axis": (1, 2, 3), "keepdims": True, "where": inside}
    low = jnp.min(image, initial=jnp.inf, **axes)
    high = jnp.max(image, initial=-jnp.inf, **axes)
    return (image - low) / jnp.where(high > low, high - low, 1.0)
