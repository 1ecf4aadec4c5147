"""VIF, visual information fidelity in the pixel domain, with both sources.

    VIF = v(A, F) + v(B, F)
    v(X, F) = sum log10(1 + k^2 S_X / (V + 2)) / sum log10(1 + S_X / 2)

Local variances S_X, gain k = S_XF / S_X and rest V = S_F - k S_XF under Gaussian
windows of 17, 9, 5 and 3 pixels (sigma a fifth of that) on levels 0..255, each scale
after the first on the image filtered with its window and halved; sums over pixels and
scales.
Range 0 and up, 2 for A = B = F; a contrast stretch can give more; higher is better.
This is Sheikh & Bovik's released `vifp_mscale`, summed over the sources as fusion
toolboxes print it; not the wavelet-domain VIF (`vifvec`), and not Han's VIFF, by which
name some toolboxes print this sum.  2 is the noise's variance in squared levels.
Source: Sheikh & Bovik, "Image information and visual quality", IEEE Transactions on
Image Processing 15(2), 2006, and their code.
"""

import numpy as np

from hkdnet_jax.metrics.types import Image
from hkdnet_jax.metrics.windows import window_sum
from hkdnet_jax.ops.filters import gaussian

_SIZES = (17, 9, 5, 3)  # side of the window at each scale, pixels
_NOISE = 2.0  # variance, squared levels
_LEAST = 1e-10  # squared levels; smaller variances count as 0


def vif(ir: Image, vis: Image, fused: Image) -> float:
    """Computes the sum of the fidelities to each source; see the module.

    Args:
      ir, vis, fused: float64 [H, W], levels 0..255; H and W at least 41.

    Returns:
      Scalar; NaN if a source is flat.
    """
    images = np.stack([ir, vis, fused])
    # Subtracting the mean does not change variances, which lose fewer digits near 0.
    images -= np.mean(images, axis=(1, 2), keepdims=True)
    kept, total = np.zeros(2), np.zeros(2)
    for size in _SIZES:
        window = gaussian(size, size / 5)
        if size != _SIZES[0]:
            images = window_sum(images, window)[:, ::2, ::2]
        variance, variance_f, covariance = _moments(images, window)
        seen, present = _information(variance, variance_f, covariance)
        kept, total = kept + seen, total + present
    return float(np.sum(kept / total)) if total.all() else float("nan")


def _moments(
    images: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes local variances of the sources [2, h, w] and of F [1, h, w].

    The third result is the covariances of the sources with F, [2, h, w].
    """
    products = np.concatenate([images, images**2, images[:2] * images[2:]])
    means = window_sum(products, window)
    mean, mean_of_square, mean_of_product = means[:3], means[3:6], means[6:]
    variance = np.maximum(mean_of_square - mean**2, 0)
    return variance[:2], variance[2:], mean_of_product - mean[:2] * mean[2:]


def _information(
    variance: np.ndarray, variance_f: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes, at one scale, how much of each source F shows, and how much there is.

    Both are sums over the pixels, [2].
    """
    variance_f = np.broadcast_to(variance_f, variance.shape)
    gain = covariance / (variance + _LEAST)
    rest = variance_f - gain * covariance
    flat, flat_f = variance < _LEAST, variance_f < _LEAST
    # These steps are in the order of the released code.
    gain = np.where(flat, 0, gain)
    rest = np.where(flat, variance_f, rest)
    variance = np.where(flat, 0, variance)
    gain = np.where(flat_f, 0, gain)
    rest = np.where(flat_f, 0, rest)
    rest = np.where(gain < 0, variance_f, rest)
    gain = np.maximum(gain, 0)
    rest = np.maximum(rest, _LEAST)
    seen = np.log10(1 + gain**2 * variance / (rest + _NOISE))
    return seen.sum(axis=(1, 2)), np.log10(1 + variance / _NOISE).sum(axis=(1, 2))
