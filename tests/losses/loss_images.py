"""Images for the tests of the losses, and SSIM of them by scikit-image."""

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

KINDS = ("noise", "smooth", "dark", "bright", "flat", "levels", "saturated", "equal")


def float_images(kind: str, height: int = 40, width: int = 53, count: int = 3):
    """Two float32 stacks [count, height, width, 1] in [0, 1] of one kind."""
    rng = np.random.default_rng(7)
    shape = (count, height, width, 1)
    noise = rng.random(shape)
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    other = np.clip(smooth + rng.normal(0, 0.05, shape), 0, 1)
    a, b = {
        "noise": (noise, rng.random(shape)),
        "smooth": (smooth, other),
        "dark": (0.02 * smooth, 0.02 * other),
        "bright": (1 - 0.02 * smooth, 1 - 0.02 * other),
        "flat": (np.full(shape, 0.3), np.full(shape, 0.3)),
        "levels": (np.full(shape, 0.97), np.full(shape, 0.93)),
        "saturated": (np.ones(shape), (smooth > 0.5).astype(float)),
        "equal": (smooth, smooth),
    }[kind]
    return a.astype(np.float32), b.astype(np.float32)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """scikit-image's map in float64, mean where the window lies inside the image."""
    values = []
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        _, full = structural_similarity(
            x[..., 0],
            y[..., 0],
            win_size=11,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            full=True,
        )
        values.append(full[5:-5, 5:-5].mean())
    return np.array(values)
