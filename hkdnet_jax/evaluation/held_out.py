"""Cameras that no student was trained on: a degradation to measure students with.

`ops.camera`, which trains them, must not also judge them.  This one shares neither its
code nor its kernels, distributions and levels; it is made of SciPy and Pillow:

- the infrared image is moved by up to a low-resolution pixel along each axis (cubic
  splines), and defocused: averaged over a disc of 0.3 to 0.7 low-resolution pixels;
- the visible image is smeared along a line of up to 1.2 low-resolution pixels;
- Pillow reduces the infrared image by Lanczos' kernel and the visible one by Hamming's;
- the infrared image gets noise of Laplace's distribution, of 2 to 5 levels, the offsets
  of a column are a random walk of 1.5 levels, and 0.05 % of the pixels are stuck;
- the visible image gets Poisson noise of 800 to 8,000 photons for white, and uniform
  noise of 1.5 levels;
- half of the images are JPEG files of quality 50, 70 or 90, by Pillow.

Sizes of noise are standard deviations in levels of 0..255.
"""

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from hkdnet_jax.common.image_files import to_8_bit
from hkdnet_jax.common.pair_files import Pair, read_pair
from hkdnet_jax.evaluation.pictures import (
    Picture,
    as_batch,
    crop_to_multiple,
    degrade_picture,
    enlarge,
)
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.losses import quality
from hkdnet_jax.model_files.model import Model

SHIFT, DISC, SMEAR = 1.0, (0.3, 0.7), 1.2  # low-resolution pixels
LAPLACE, WALK, STUCK = (2.0, 5.0), 1.5, 0.0005  # levels, levels, share
PHOTONS, UNIFORM = (800.0, 8000.0), 1.5  # photons, levels
COMPRESSED, QUALITIES = 0.5, (50, 70, 90)
INPUTS = "clean", "held out"
BICUBIC = "teacher, bicubic"


def held_out_pair(
    ir: Picture, vis: Picture, scale: int, seed: int
) -> tuple[Picture, Picture]:
    """Makes the low-resolution pair that two cameras would take, see the module.

    Args:
      ir, vis: uint8 [H, W]; H and W divisible by ``scale``.
      scale: 2, 3 or 4.
      seed: decides all that is random.

    Returns:
      Two uint8 [H / scale, W / scale].
    """
    rng = np.random.default_rng([seed, scale])
    offset = scale * rng.uniform(-SHIFT, SHIFT, 2)
    moved = ndimage.shift(ir.astype(np.float64), offset, order=3, mode="mirror")
    moved = ndimage.convolve(moved, _disc(scale * rng.uniform(*DISC)), mode="mirror")
    line = _line(scale * rng.uniform(0, SMEAR), rng.uniform(0, np.pi))
    smeared = ndimage.convolve(vis.astype(np.float64), line, mode="mirror")
    low_ir = _reduced(moved, scale, Image.Resampling.LANCZOS)
    low_vis = _reduced(smeared, scale, Image.Resampling.HAMMING)
    taken = _thermal(rng, low_ir), _visible(rng, low_vis)
    first, second = (_stored(rng, image) for image in taken)
    return first, second


def _disc(radius: float) -> np.ndarray:
    """Shares of the pixels in a disc; those at its rim count by a hundred points."""
    reach = int(np.ceil(radius + 0.5))
    points = (np.arange((2 * reach + 1) * 10) + 0.5) / 10 - reach - 0.5
    inside = points[:, None] ** 2 + points[None] ** 2 <= radius**2
    shares = inside.reshape(2 * reach + 1, 10, 2 * reach + 1, 10).sum((1, 3))
    return shares / shares.sum()


def _line(length: float, angle: float) -> np.ndarray:
    """The same of a line through the middle, whose points are shared out linearly."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for place in np.linspace(-length / 2, length / 2, 33):
        y, x = reach + place * np.sin(angle), reach + place * np.cos(angle)
        top, left = int(np.floor(y)), int(np.floor(x))
        for i, j in np.ndindex(2, 2):
            share = (1 - abs(top + i - y)) * (1 - abs(left + j - x))
            kernel[top + i, left + j] += share
    return kernel / kernel.sum()


def _reduced(image: np.ndarray, scale: int, kernel: Image.Resampling) -> np.ndarray:
    size = tuple(side // scale for side in image.shape[::-1])
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, kernel))


def _thermal(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    noise = rng.laplace(0, rng.uniform(*LAPLACE) / np.sqrt(2), image.shape)
    walk = np.cumsum(rng.normal(size=image.shape[1]))
    walk = WALK * (walk - walk.mean()) / walk.std()
    taken = image + noise + walk
    stuck = rng.random(image.shape) < STUCK
    return np.where(stuck, rng.choice([0, 255], image.shape), taken)


def _visible(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    white = np.exp(rng.uniform(*np.log(PHOTONS)))
    shot = rng.poisson(np.clip(image, 0, None) / 255 * white) / white * 255
    return shot + rng.uniform(-1, 1, image.shape) * UNIFORM * np.sqrt(3)


def _stored(rng: np.random.Generator, image: np.ndarray) -> Picture:
    picture = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    quality_factor = int(rng.choice(QUALITIES))
    if rng.random() >= COMPRESSED:
        return picture
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality_factor)
    return np.asarray(Image.open(file))


def measure_pairs(
    models: Mapping[str, Model], teacher: Model, pairs: Sequence[Pair]
) -> Iterator[dict[str, dict[str, float]]]:
    """Scores students on clean pairs and on held-out ones, against the clean label.

    Args:
      models: students of one scale, by name.
      teacher: the one whose picture of the high-resolution pair is the label.
      pairs: high-resolution pairs; a pair's place in them is its seed.

    Yields:
      For each pair, INPUTS -> the models' names, and BICUBIC for the teacher's picture
      of the low-resolution pair, enlarged -> PSNR in dB.

    Raises:
      UserError: a file cannot be read.
    """
    (scale,) = {model.scale for model in models.values()}
    for seed, pair in enumerate(pairs):
        images = (to_8_bit(image) for image in read_pair(pair))
        ir, vis = (crop_to_multiple(image, scale) for image in images)
        label = as_batch(fuse_pair(teacher, ir, vis))
        clean = degrade_picture(ir, scale), degrade_picture(vis, scale)
        taken = held_out_pair(ir, vis, scale, seed)
        found: dict[str, dict[str, float]] = {}
        for name, low in zip(INPUTS, (clean, taken), strict=True):
            shown = {key: fuse_pair(model, *low) for key, model in models.items()}
            small = fuse_pair(teacher.for_reduced(scale), *low)
            shown[BICUBIC] = enlarge(small, scale)
            found[name] = {
                key: float(quality.psnr(as_batch(picture), label)[0])
                for key, picture in shown.items()
            }
        yield found
