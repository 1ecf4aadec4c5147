"""Images that the tests of the metrics share."""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden" / "metrics"

PAPER = ("FMI_dct", "FMI_w", "SCD", "MS_SSIM", "AG", "CC")
EXTRA = ("EN", "SD", "SF", "MI", "Qabf", "VIF", "SSIM", "PSNR", "Nabf")
ALL = PAPER + EXTRA
# Side below which a metric has no value: 3x3 windows; three scales of 11x11 patches,
# halved twice; differences of neighbours; windows of 17, 9, 5 and 3 with halvings.
MIN_SIDES = dict.fromkeys(ALL, 1) | {
    "FMI_dct": 3,
    "MS_SSIM": 44,
    "AG": 2,
    "SF": 2,
    "Qabf": 3,
    "VIF": 41,
    "SSIM": 11,
    "Nabf": 3,
}

# The one size of most tests, odd and large enough for every metric.  FMI takes nine
# tenths of a score's time: ask for it only where it is looked at.
H, W = 45, 47


def scene(seed=0, height=H, width=W):
    """Structured infrared, visible and fused image, uint8, inside 20..235.

    The fused one is a mixture with noise of its own, so that no metric is at its
    bound.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    distance = (y - height / 3) ** 2 + (x - width / 2) ** 2
    blob = np.exp(-9 * distance / (height * width))
    ir = 60 + 120 * blob + 15 * np.sin(x / 5 + seed)
    vis = 120 + 50 * np.sin(x / 2.7) * np.cos(y / 4.1 + seed) + 20 * (x > width / 2)
    ir, vis = (z + rng.normal(0, 4, (height, width)) for z in (ir, vis))
    fused = 0.6 * ir + 0.5 * vis - 10 + rng.normal(0, 2, (height, width))
    return tuple(z.clip(20, 235).astype(np.uint8) for z in (ir, vis, fused))


def noise(seed, height, width, low=0, high=255):
    """Three unrelated images of uniform noise, uint8 in low..high."""
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(low, high, (3, height, width), np.uint8, endpoint=True))


def read_triple(folder, files):
    """Reads {"ir": {...}, "vis": {...}, "fused": {...}} of a reference list."""
    images = []
    for kind in ("ir", "vis", "fused"):
        entry = files[kind]
        path = Path(folder) / entry.get("png", entry.get("file"))
        want = entry.get("sha256_png", entry.get("sha256"))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == want, path
        image = np.asarray(Image.open(path))
        assert image.dtype == np.uint8
        images.append(image if image.ndim == 2 else rgb2gray(image))
    return tuple(images)


def rgb2gray(image):
    """MATLAB's: not quite BT.601, to whole levels."""
    red, green, blue = np.moveaxis(image.astype(np.float64), -1, 0)
    gray = 0.298936 * red + 0.587043 * green + 0.114021 * blue
    return np.floor(gray + 0.5).astype(np.uint8)


def golden_vectors():
    """Name -> (its three images, metric -> value) of the made reference images."""
    entries = json.loads((GOLDEN / "vectors.json").read_text())
    return {
        entry["name"]: (read_triple(GOLDEN, entry["files"]), entry["metrics"])
        for entry in entries
    }


def golden_windows():
    """[(case, source [9], fused [9], score)], the values column by column."""
    rows = json.loads((GOLDEN / "fmi_windows.json").read_text())

    def by_column(values):
        return np.array(values, np.float64).reshape(3, 3).flatten(order="F")

    return [
        (
            row["case"],
            by_column(row["source_rowmajor"]),
            by_column(row["fused_rowmajor"]),
            row["score"],
        )
        for row in rows
    ]
