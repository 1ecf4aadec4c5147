"""The metrics beside the paper's six, in float64 NumPy and SciPy, for tests only.

Written from the papers and from what the MATLAB programs in circulation print, pixel by
pixel where that is bearable, and without a look at the JAX code.  Every function takes
the infrared, the visible and the fused image, uint8 [H, W], and returns a float.
"""

import math
from collections import Counter

import numpy as np
from scipy.ndimage import correlate
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity


def levels(*images):
    return [image.astype(np.float64) for image in images]


def entropy_of(values):
    """Bits of the distribution of some hashable values."""
    counts = Counter(values)
    total = sum(counts.values())
    return -sum(n / total * math.log2(n / total) for n in counts.values())


def en(ir, vis, fused):
    return entropy_of(fused.ravel().tolist())


def mi(ir, vis, fused):
    """I(A; F) + I(B; F), each as H(X) + H(F) - H(X, F)."""
    f = fused.ravel().tolist()
    total = 0.0
    for source in (ir, vis):
        x = source.ravel().tolist()
        pairs = list(zip(x, f, strict=True))
        total += entropy_of(x) + entropy_of(f) - entropy_of(pairs)
    return total


def sd(ir, vis, fused):
    return float(np.std(fused.astype(np.float64)))


def sf(ir, vis, fused):
    (f,) = levels(fused)
    height, width = f.shape
    across = down = 0.0
    for i in range(height):
        for j in range(1, width):
            across += (f[i, j] - f[i, j - 1]) ** 2
    for i in range(1, height):
        for j in range(width):
            down += (f[i, j] - f[i - 1, j]) ** 2
    return math.sqrt(across / (height * (width - 1)) + down / ((height - 1) * width))


def ssim(ir, vis, fused):
    """scikit-image's own, which counts the pixels 5 and more from the border."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    values = [
        structural_similarity(x, fused, data_range=255, **options) for x in (ir, vis)
    ]
    return float(np.mean(values))


def psnr(ir, vis, fused):
    a, b, f = levels(ir, vis, fused)
    error = (np.mean((a - f) ** 2) + np.mean((b - f) ** 2)) / 2
    return 10 * math.log10(255**2 / error) if error else math.inf


# --- Qabf ---------------------------------------------------------------------------

SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)
SOBEL_Y = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]], float)


def strength_and_angle(x):
    """Sobel magnitude and atan(Sy / Sx), pi/2 where Sx is 0; black outside."""
    sx = convolve2d(x, SOBEL_X, mode="same")
    sy = convolve2d(x, SOBEL_Y, mode="same")
    slope = np.divide(sy, sx, where=sx != 0, out=np.zeros_like(x))
    return np.hypot(sx, sy), np.where(sx != 0, np.arctan(slope), np.pi / 2)


def preservation(strength, angle, strength_f, angle_f):
    """Q^{AF}(n, m) of Xydeas & Petrovic, pixel by pixel."""
    out = np.zeros_like(strength)
    for at in np.ndindex(out.shape):
        g, g_f = strength[at], strength_f[at]
        ratio = min(g, g_f) / max(g, g_f) if max(g, g_f) > 0 else 0.0
        direction = 1 - abs(angle[at] - angle_f[at]) / (np.pi / 2)
        of_strength = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))
        of_angle = 0.9879 / (1 + math.exp(-22 * (direction - 0.8)))
        out[at] = of_strength * of_angle
    return out


def qabf(ir, vis, fused):
    if np.ptp(ir) == 0 and np.ptp(vis) == 0:
        return math.nan  # the only edges would be those to the black outside
    a, b, f = (strength_and_angle(x) for x in levels(ir, vis, fused))
    kept = (preservation(*a, *f) * a[0]).sum() + (preservation(*b, *f) * b[0]).sum()
    return float(kept / (a[0].sum() + b[0].sum()))


# --- Nabf ---------------------------------------------------------------------------


def nabf(ir, vis, fused):
    """Shreyamsha Kumar 2013, where the fused edge is stronger than both sources'."""
    (g_a, t_a), (g_b, t_b), (g_f, t_f) = (
        kumar_edges(x) for x in levels(ir, vis, fused)
    )
    lost = weights = 0.0
    for at in np.ndindex(g_f.shape):
        for g, t in ((g_a, t_a), (g_b, t_b)):
            weight = g[at] ** 1.5 if g[at] >= 2 else 0.001
            weights += weight
            if g_f[at] > g_a[at] and g_f[at] > g_b[at]:
                lost += (1 - kumar_quality(g[at], t[at], g_f[at], t_f[at])) * weight
    return lost / weights


def kumar_edges(x):
    """Sobel over 8, mirrored about the edge pixel; strength and angle."""
    across = correlate(x, SOBEL_X / 8, mode="mirror")
    down = correlate(x, -SOBEL_Y / 8, mode="mirror")
    angle = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        if down[at] != 0:
            angle[at] = math.atan(across[at] / down[at])
        elif across[at] != 0:
            angle[at] = math.copysign(math.pi / 2, across[at])
    return np.hypot(across, down), angle


def kumar_quality(g, t, g_f, t_f):
    ratio = min(g, g_f) / max(g, g_f) if g > 0 and g_f > 0 else 0.0
    direction = abs(abs(t - t_f) - math.pi / 2) * 2 / math.pi
    of_strength = 0.9999 / (1 + math.exp(-19 * (ratio - 0.5)))
    of_angle = 0.9995 / (1 + math.exp(-22 * (direction - 0.5)))
    return math.sqrt(of_strength * of_angle)


# --- VIF ----------------------------------------------------------------------------


def vif(ir, vis, fused):
    return vif_of_source(ir, fused) + vif_of_source(vis, fused)


def vif_of_source(source, fused):
    """Pixel-domain VIF over four scales (Sheikh & Bovik), noise variance 2."""
    x, y = levels(source, fused)
    seen = shown = 0.0
    for size in (17, 9, 5, 3):
        window = gaussian(size, size / 5)
        if size < 17:
            x = convolve2d(x, window, mode="valid")[::2, ::2]
            y = convolve2d(y, window, mode="valid")[::2, ::2]

        def local(z, window=window):
            return convolve2d(z, window, mode="valid")

        mean_x, mean_y = local(x), local(y)
        var_x = np.maximum(local(x * x) - mean_x**2, 0)
        var_y = np.maximum(local(y * y) - mean_y**2, 0)
        cov = local(x * y) - mean_x * mean_y
        for vx, vy, c in zip(var_x.flat, var_y.flat, cov.flat, strict=True):
            part, whole = vif_terms(vx, vy, c)
            seen, shown = seen + part, shown + whole
    return seen / shown if shown > 0 else math.nan


def vif_terms(vx, vy, c, noise=2.0, tiny=1e-10):
    """Information of one window that the fused image keeps, and that the source has."""
    gain = c / (vx + tiny)
    distortion = vy - gain * c
    if vx < tiny:
        gain, distortion, vx = 0.0, vy, 0.0
    if vy < tiny:
        gain, distortion = 0.0, 0.0
    if gain < 0:
        gain, distortion = 0.0, vy
    distortion = max(distortion, tiny)
    kept = math.log10(1 + gain**2 * vx / (distortion + noise))
    return kept, math.log10(1 + vx / noise)


def gaussian(size, sigma):
    offset = np.arange(size) - size // 2
    window = np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma**2))
    return window / window.sum()


EXTRA = {
    "EN": en,
    "SD": sd,
    "SF": sf,
    "MI": mi,
    "Qabf": qabf,
    "VIF": vif,
    "SSIM": ssim,
    "PSNR": psnr,
    "Nabf": nabf,
}
