"""CNN fusion [4], [14]: a network's weight map, applied in a Laplacian pyramid.

Source: Liu, Chen, Cheng, Peng and Wang, "Infrared and visible image fusion with
convolutional neural networks", Int. J. Wavelets, Multiresolution and Information
Processing 16(3), 2018, whose network is that of Liu, Chen, Peng and Wang, "Multi-focus
image fusion with a deep convolutional neural network", Information Fusion 36, 2017.

Known: everything that the authors' MATLAB program does.  Two branches with the same
weights (3x3 convolutions to 64, 128 and 256 channels, ReLU, one max-pooling) see the
infrared and the visible image; an 8x8 convolution without bias makes of both a softmax
for each 16x16 patch at every second pixel, whose second probability is the infrared
image's weight; overlapping patches are averaged.  The Gaussian pyramid of that weight
meets the Laplacian pyramids of the images.  Where these are similar (more than 0.6),
they are averaged by the weight; elsewhere the one with more energy in 3x3 pixels wins.

Weights: the authors' own (research only); `convert --kind cnn` reads the MATLAB file
or its arrays.  `configs/baseline.py:cnn` trains the network here, as [14] does: it
learns which of two 16x16 patches is sharp, the other being blurred one to five times by
a 7x7 Gaussian of sigma 2.  There the patches are of natural images, here of our pairs.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from scipy import ndimage, signal

from hkdnet_jax.baselines.recipe import Params, Recipe, Scalars, one_of
from hkdnet_jax.baselines.types import Fusion, Image
from hkdnet_jax.baselines.weights import Weights, run
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.ops.conv import LAYOUT, Conv3x3
from hkdnet_jax.ops.filters import gaussian, window_sum
from hkdnet_jax.released.tensors import Tensors
from hkdnet_jax.runtime.precision import FULL

NAME = "cnn"
WIDTHS = (64, 128, 256)
PATCH = 16  # side of a patch in pixels
_WINDOW = PATCH // 2  # the same after the pooling
_SIMILAR = 0.6
_BLUR, _BLURS = gaussian(7, 2.0), 5  # of the training
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16


class _Branch(nn.Module):
    """Features of one image at half its resolution."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps [N, H, W, 1] to [N, ceil(H / 2), ceil(W / 2), 256]."""
        x = image
        for i, width in enumerate(WIDTHS):
            if i == 2:
                x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
            x = nn.relu(Conv3x3(width, name=f"conv{i + 1}")(x))
        return x


class SiameseNetwork(nn.Module):
    """The network, which says of each patch how much of it is the infrared image's."""

    @nn.compact
    def __call__(self, ir: jax.Array, vis: jax.Array) -> jax.Array:
        """Maps float32 [N, H, W, 1] in [0, 1] to a probability for each patch.

        Returns:
          float32 [N, ceil(H / 2) - 7, ceil(W / 2) - 7, 1].
        """
        branch = _Branch(name="branch")
        x = jnp.concatenate([branch(ir), branch(vis)], -1)
        shape = (_WINDOW, _WINDOW, x.shape[-1], 2)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        scores = lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=LAYOUT, precision=FULL
        )
        return nn.softmax(scores)[..., 1:]


def _sharp_and_blurred(
    image: jax.Array, times: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The 16x16 patches in the middle of [N, H, W, 1], and the same blurred.

    Args:
      image: H and W at least 16, and better 32, which leaves room for the blur.
      times: int32 [N], how often each is blurred, at least 1.
    """
    blurred, x = image, image
    for i in range(1, _BLURS + 1):
        margin = len(_BLUR) // 2
        border = ((0, 0), (margin, margin), (margin, margin), (0, 0))
        x = window_sum(jnp.pad(x, border, mode="reflect"), _BLUR, axes=(1, 2))
        blurred = jnp.where((times == i)[:, None, None, None], x, blurred)
    top, left = ((side - PATCH) // 2 for side in image.shape[1:3])
    window = np.s_[:, top : top + PATCH, left : left + PATCH]
    return image[window], blurred[window]


def _share(
    network: nn.Module, params: Params, first: jax.Array, second: jax.Array
) -> jax.Array:
    """The probability that the first patch is the sharp one, [N]."""
    return network.apply({"params": params}, first, second)[:, 0, 0, 0]


def _loss(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array, key: jax.Array
) -> tuple[jax.Array, Scalars]:
    keys, n = jax.random.split(key, 3), ir.shape[0]
    times = jax.random.randint(keys[0], (n,), 1, _BLURS + 1)
    sharp, blurred = _sharp_and_blurred(one_of(keys[1], ir, vis), times)
    first = jax.random.bernoulli(keys[2], shape=(n, 1, 1, 1))
    patches = jnp.where(first, sharp, blurred), jnp.where(first, blurred, sharp)
    share = _share(network, params, *patches)
    right = jnp.where(first[:, 0, 0, 0], share, 1.0 - share)
    entropy = -jnp.mean(jnp.log(right + 1e-6))
    return entropy, {"entropy": entropy, "accuracy": jnp.mean(right > 0.5)}


def _validate(
    network: nn.Module, params: Params, ir: jax.Array, vis: jax.Array
) -> tuple[Scalars, Scalars]:
    """The share of right answers about the middle of both images of each pair."""
    hits, times = [], jnp.arange(ir.shape[0]) % _BLURS + 1
    for image in (ir, vis):
        sharp, blurred = _sharp_and_blurred(image, times)
        hits.append(_share(network, params, sharp, blurred) > 0.5)
        hits.append(_share(network, params, blurred, sharp) < 0.5)
    accuracy = jnp.mean(jnp.stack(hits).astype(jnp.float32), axis=0)
    return {"accuracy": accuracy}, {"ir": sharp, "vis": blurred}


RECIPE = Recipe(lambda scale: SiameseNetwork(), 2, _loss, _validate, "accuracy")


def convert(tensors: Tensors) -> tuple[dict, Params]:
    """Converts the arrays of the MATLAB file to attributes and parameters.

    Kernels are stored by columns.  The last bias is not used by the program either.
    """
    tensors.leave_out("biases_output", 2, 1)
    branch = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise((1, *WIDTHS))):
        name = f"weights_b1_{i + 1}"
        # The file drops the first axis of the first layer, which has length 1.
        shape = (9, outputs) if inputs == 1 else (inputs, 9, outputs)
        kernel = tensors.take(name, *shape).reshape(inputs, 3, 3, outputs)
        bias = tensors.take(f"biases_b1_{i + 1}", outputs, 1)[:, 0]
        branch[f"conv{i + 1}"] = {"kernel": _by_rows(kernel), "bias": bias}
    last = tensors.take("weights_output", 2 * WIDTHS[-1], _WINDOW**2, 2)
    kernel = _by_rows(last.reshape(2 * WIDTHS[-1], _WINDOW, _WINDOW, 2))
    return {}, {"branch": branch, "kernel": kernel}


def _by_rows(kernel: np.ndarray) -> np.ndarray:
    """Maps [inputs, column, row, outputs] to [row, column, inputs, outputs]."""
    return kernel.transpose(2, 1, 0, 3)


def load(weights: Weights) -> Fusion:
    """Loads the fusion.

    Raises:
      UserError: the weights are missing or others.
    """
    network, params = weights.load(NAME, NAME, SiameseNetwork, inputs=2)

    def fuse(ir: Image, vis: Image) -> Image:
        if min(ir.shape) < PATCH:
            raise UserError(
                f"{NAME} cannot fuse {ir.shape[1]}x{ir.shape[0]} pixels: both sides "
                f"need {PATCH}."
            )
        share = spread(run(network, params, ir, vis)[..., 0], ir.shape)
        return merge(ir, vis, share)

    return fuse


def spread(patches: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Averages the values of all patches that cover a pixel.

    Args:
      patches: [H', W'], one value for each 16x16 patch at every second pixel.
      shape: (H, W) of the image.

    Returns:
      float64 [H, W].
    """
    # A patch covers whole 2x2 squares, so sums over squares suffice.
    window = np.ones((_WINDOW, _WINDOW))
    patches = patches.astype(np.float64)
    count = signal.convolve2d(np.ones_like(patches), window)
    mean = signal.convolve2d(patches, window) / count
    return mean.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]


def merge(ir: Image, vis: Image, share: np.ndarray) -> Image:
    """Fuses the Laplacian pyramids of two images.

    Args:
      ir: [H, W].
      vis: [H, W].
      share: [H, W], the infrared image's weight.

    Returns:
      float32 [H, W].
    """
    levels = int(np.log2(min(ir.shape)))
    shares = _gaussian_pyramid(share.astype(np.float64), levels)
    a, b = (_laplacian_pyramid(x.astype(np.float64), levels) for x in (ir, vis))
    fused = [_merge_level(*level) for level in zip(a, b, shares, strict=True)]
    image = fused[-1]
    for detail in fused[-2::-1]:
        image = _expand(image, detail.shape) + detail
    return image.astype(np.float32)


def _merge_level(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Averages two similar levels, and chooses between others."""

    def around(x: np.ndarray) -> np.ndarray:
        return 9 * ndimage.uniform_filter(x, 3, mode="mirror")

    energy_a, energy_b = around(a * a), around(b * b)
    total = energy_a + energy_b + np.finfo(np.float64).eps
    similar = 2 * around(a * b) / total > _SIMILAR
    chosen = np.where(energy_a > energy_b, a, b)
    return np.where(similar, share * a + (1 - share) * b, chosen)


def _gaussian_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    pyramid = [image]
    for _ in range(levels - 1):
        pyramid.append(_reduce(pyramid[-1]))
    return pyramid


def _laplacian_pyramid(image: np.ndarray, levels: int) -> list[np.ndarray]:
    steps = itertools.pairwise(_gaussian_pyramid(image, levels))
    details, image = [], image
    for large, small in steps:
        details.append(large - _expand(small, large.shape))
        image = small
    return [*details, image]


def _reduce(image: np.ndarray) -> np.ndarray:
    """Halves an image; its border is repeated with the edge sample, as in MATLAB."""
    for axis in (0, 1):
        image = ndimage.correlate1d(image, _BINOMIAL, axis, mode="reflect")
    return image[::2, ::2]


def _expand(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Doubles an image, to the given (height, width)."""
    padded = np.pad(image, 1, mode="edge")
    spaced = np.zeros((2 * padded.shape[0], 2 * padded.shape[1]))
    spaced[::2, ::2] = 4 * padded
    for axis in (0, 1):
        spaced = ndimage.correlate1d(spaced, _BINOMIAL, axis, mode="constant")
    return spaced[2 : 2 + shape[0], 2 : 2 + shape[1]]
