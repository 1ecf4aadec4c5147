"""Low-resolution pairs as real cameras would take them: the degradation `camera`.

A pair passes through two optics and two sensors, and may be compressed:

    shift (infrared) -> blur -> reduction -> gain and offset -> sensor noise -> JPEG

Every strength is drawn anew for each pair.  Everything runs on the device, and is a
pure function of the key.  Sizes are in low-resolution pixels, noise is in levels of
0..255.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from hkdnet_jax.common.arrays import degrade, to_float, to_uint8

CLEAN = 0.4  # share of the pairs that are only reduced, by `common.arrays.degrade`
SHIFTED = 0.25  # share of the pairs whose cameras do not agree
SHIFT = 1.5  # largest shift of the infrared image along each axis, pixels
BLUR = (0.2, 0.8)  # standard deviation along each axis of the blur, pixels
ROUND = 0.5  # share of the images whose blur has one standard deviation
KERNELS = ("area", "bilinear", "bicubic")  # of the reduction, all equally likely
GAIN, OFFSET = 0.05, 5.0  # largest relative gain, and largest offset in levels
IR_NOISE = (0.0, 6.0)  # standard deviation of the infrared pixels' noise, levels
STRIPES = (0.0, 2.0)  # the same of each row's and each column's offset, levels
DEAD = (0.0, 0.001)  # share of infrared pixels that are stuck at black or white
PHOTONS = (400.0, 20000.0)  # that make a white visible pixel; few are low light
READ_NOISE = (0.0, 3.0)  # standard deviation of the visible sensor's own noise, levels
COMPRESSED = 0.5  # share of the images that are stored as JPEG
QUALITY = (40.0, 95.0)  # of JPEG

_LEVELS = 255.0
# Rows of reflection around an image, low-resolution pixels: more than the largest shift
# and four standard deviations of the blur.
_MARGIN = 6
# The luminance table of the JPEG standard (ITU-T T.81, annex K).
_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
_BLOCK = 8


def camera_pair(
    key: jax.Array, ir: jax.Array, vis: jax.Array, scale: int
) -> tuple[jax.Array, jax.Array]:
    """Makes a low-resolution pair as two cameras would take it.

    Args:
      key: the random key, of which the result is a function.
      ir, vis: float32 [N, H, W, 1] in [0, 1]; H and W divisible by ``scale`` and more
        than 6 times it.
      scale: 2, 3 or 4.

    Returns:
      Both images, float32 [N, H / scale, W / scale, 1], multiples of 1/255.

    Raises:
      ValueError: H or W is not divisible by ``scale``.
    """
    clean = degrade(ir, scale), degrade(vis, scale)
    keys = jax.random.split(key, 9)
    n = ir.shape[0]
    shift = _per_image(keys[0], n, -SHIFT, SHIFT, (2,))
    shift *= jax.random.bernoulli(keys[1], SHIFTED, (n, 1))
    ir = _optics(keys[2], ir, scale, shift)
    vis = _optics(keys[3], vis, scale, jnp.zeros_like(shift))
    ir = infrared_sensor(keys[4], ir)
    vis = visible_sensor(keys[5], vis)
    taken = _stored(keys[6], ir), _stored(keys[7], vis)
    same = jax.random.bernoulli(keys[8], CLEAN, (n, 1, 1, 1))
    low_ir, low_vis = (jnp.where(same, a, b) for a, b in zip(clean, taken, strict=True))
    return low_ir, low_vis


def _per_image(
    key: jax.Array, n: int, low: float, high: float, shape: tuple[int, ...] = (1, 1, 1)
) -> jax.Array:
    """One uniform number, or several, for each of n images: [n, *shape]."""
    return jax.random.uniform(key, (n, *shape), minval=low, maxval=high)


def _optics(
    key: jax.Array, image: jax.Array, scale: int, shift: jax.Array
) -> jax.Array:
    """Shifts, blurs and reduces [N, H, W, 1]; ``shift`` is in low-resolution pixels."""
    keys = jax.random.split(key, 4)
    n = image.shape[0]
    sigmas = _per_image(keys[0], n, *BLUR, (2,))
    is_round = jax.random.bernoulli(keys[1], ROUND, (n, 1))
    sigmas = jnp.where(is_round, sigmas[:, :1], sigmas)
    angle = _per_image(keys[2], n, 0.0, math.pi, ())
    image = blur_and_shift(image, scale * sigmas, angle, scale * shift, _MARGIN * scale)
    which = jax.random.randint(keys[3], (n, 1, 1, 1), 0, len(KERNELS))
    return jnp.select(
        [which == i for i in range(len(KERNELS))],
        [reduce_by(image, scale, kernel) for kernel in KERNELS],
    )


def blur_and_shift(
    image: jax.Array,
    sigmas: jax.Array,
    angle: jax.Array,
    shift: jax.Array,
    margin: int,
) -> jax.Array:
    """Blurs each image by a Gaussian of its own, and moves it by parts of a pixel.

    Both are products in the Fourier domain, where the Gaussian and the shift of a
    band-limited image are exact.  Beyond its border the image is reflected.

    Args:
      image: float32 [N, H, W, 1].
      sigmas: [N, 2] standard deviations along the two axes of the Gaussian, pixels.
      angle: [N] angle from the image's x axis to the first of them, radians.
      shift: [N, 2] by how much the image moves down and right, pixels.
      margin: width of the reflected border in pixels, below H and W; it must be larger
        than the shift and several standard deviations.

    Returns:
      float32 [N, H, W, 1].
    """
    _, height, width, _ = image.shape
    around = ((0, 0), (margin, margin), (margin, margin))
    padded = jnp.pad(image[..., 0], around, mode="reflect")
    rows, columns = padded.shape[1:]
    y = 2.0 * math.pi * jnp.fft.fftfreq(rows)[None, :, None]
    x = 2.0 * math.pi * jnp.fft.rfftfreq(columns)[None, None, :]
    cos, sin = (f(angle)[:, None, None] for f in (jnp.cos, jnp.sin))
    along, across = cos * x + sin * y, cos * y - sin * x
    first, second = (sigmas[:, i, None, None] for i in (0, 1))
    gaussian = jnp.exp(-0.5 * (jnp.square(first * along) + jnp.square(second * across)))
    down, right = (shift[:, i, None, None] for i in (0, 1))
    transfer = gaussian * jnp.exp(-1j * (down * y + right * x))
    moved = jnp.fft.irfft2(jnp.fft.rfft2(padded) * transfer, (rows, columns))
    inside = slice(margin, margin + height), slice(margin, margin + width)
    return moved[:, *inside, None]


def reduce_by(image: jax.Array, scale: int, kernel: str) -> jax.Array:
    """Reduces [N, H, W, 1] by ``scale`` with one of KERNELS; not rounded or clipped.

    ``area`` averages blocks, and the other two are widened against aliasing, as in PIL.
    """
    n, h, w, c = image.shape
    if kernel == "area":
        blocks = image.reshape(n, h // scale, scale, w // scale, scale, c)
        return blocks.mean((2, 4))
    method = {"bilinear": "linear", "bicubic": "cubic"}[kernel]
    return jax.image.resize(image, (n, h // scale, w // scale, c), method=method)


def _exposed(key: jax.Array, image: jax.Array) -> jax.Array:
    """A small gain and offset, as two automatic exposures differ."""
    keys = jax.random.split(key)
    n = image.shape[0]
    gain = 1.0 + _per_image(keys[0], n, -GAIN, GAIN)
    return gain * image + _per_image(keys[1], n, -OFFSET, OFFSET) / _LEVELS


def infrared_sensor(key: jax.Array, image: jax.Array) -> jax.Array:
    """The noise of an uncooled infrared sensor, on [N, H, W, 1] in [0, 1].

    Pixels have noise of their own; each row and each column has an offset, the fixed
    pattern; and some pixels are dead.
    """
    keys = jax.random.split(key, 10)
    n, h, w, _ = image.shape
    image = _exposed(keys[0], image)
    for i, (strength, shape) in enumerate(
        ((IR_NOISE, (n, h, w, 1)), (STRIPES, (n, h, 1, 1)), (STRIPES, (n, 1, w, 1)))
    ):
        sigma = _per_image(keys[1 + 2 * i], n, *strength) / _LEVELS
        image += sigma * jax.random.normal(keys[2 + 2 * i], shape)
    dead = jax.random.uniform(keys[7], image.shape) < _per_image(keys[8], n, *DEAD)
    stuck = jax.random.bernoulli(keys[9], shape=image.shape).astype(image.dtype)
    return jnp.where(dead, stuck, image)


def visible_sensor(key: jax.Array, image: jax.Array) -> jax.Array:
    """The shot and read noise of a visible sensor, on [N, H, W, 1] in [0, 1].

    In low light a white pixel has few photons, and the gain that keeps the picture's
    brightness amplifies their noise, whose variance grows with the level.
    """
    keys = jax.random.split(key, 5)
    n = image.shape[0]
    image = _exposed(keys[0], image)
    photons = jnp.exp(_per_image(keys[1], n, *map(math.log, PHOTONS)))
    read = _per_image(keys[2], n, *READ_NOISE) / _LEVELS
    shot = jnp.sqrt(jnp.maximum(image, 0.0) / photons)
    image += shot * jax.random.normal(keys[3], image.shape)
    return image + read * jax.random.normal(keys[4], image.shape)


def _stored(key: jax.Array, image: jax.Array) -> jax.Array:
    """Rounds to 8 bits, and compresses a share of the images."""
    keys = jax.random.split(key)
    n = image.shape[0]
    image = to_float(to_uint8(image))
    quality = jnp.round(_per_image(keys[0], n, *QUALITY))
    compressed = jax.random.bernoulli(keys[1], COMPRESSED, (n, 1, 1, 1))
    return jnp.where(compressed, jpeg(image, quality[:, 0, 0, 0]), image)


def jpeg(image: jax.Array, quality: jax.Array) -> jax.Array:
    """Compresses gray images as JPEG does, and decompresses them.

    It is baseline JPEG's lossy part: the DCT of blocks of 8x8 pixels is divided by the
    quantisation table of the standard, scaled by the quality as libjpeg does, and
    rounded.  At the right and lower borders the last pixels are repeated up to whole
    blocks.

    Args:
      image: float32 [N, H, W, 1] in [0, 1], multiples of 1/255.
      quality: [N], 1 to 100.

    Returns:
      float32 [N, H, W, 1], multiples of 1/255.  libjpeg's DCT is of whole numbers, so
      that it differs by 1/255 here and there, and in up to a fifth of the blocks,
      where a coefficient lies between two steps of its table, by a few levels.
    """
    n, h, w, _ = image.shape
    around = ((0, 0), (0, -h % _BLOCK), (0, -w % _BLOCK))
    levels = jnp.pad(jnp.round(image[..., 0] * _LEVELS), around, mode="edge") - 128.0
    down, across = (side // _BLOCK for side in levels.shape[1:])
    blocks = levels.reshape(n, down, _BLOCK, across, _BLOCK).transpose(0, 1, 3, 2, 4)
    worse = jnp.floor(5000.0 / quality)  # in whole numbers, as in libjpeg
    percent = jnp.where(quality < 50, worse, 200.0 - 2.0 * quality)
    table = jnp.floor((_TABLE[None] * percent[:, None, None] + 50.0) / 100.0)
    table = jnp.clip(table, 1.0, 255.0)[:, None, None]  # for each block
    basis = _dct_basis()
    precise = {"precision": jax.lax.Precision.HIGHEST}
    spectrum = jnp.einsum("ui,...ij,vj->...uv", basis, blocks, basis, **precise)
    spectrum = jnp.round(spectrum / table) * table
    blocks = jnp.einsum("ui,...uv,vj->...ij", basis, spectrum, basis, **precise)
    levels = blocks.transpose(0, 1, 3, 2, 4).reshape(levels.shape) + 128.0
    return jnp.clip(jnp.round(levels[:, :h, :w, None]), 0.0, _LEVELS) / _LEVELS


def _dct_basis() -> np.ndarray:
    """The orthonormal DCT-II of length 8, [frequency, position]."""
    frequency, position = np.ogrid[:_BLOCK, :_BLOCK]
    basis = np.cos(math.pi * (2 * position + 1) * frequency / (2 * _BLOCK))
    basis *= np.where(frequency == 0, math.sqrt(1 / _BLOCK), math.sqrt(2 / _BLOCK))
    return basis.astype(np.float32)
