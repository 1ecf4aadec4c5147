"""Makes hkdnet_jax/evaluation/natural_model.npz of the training pairs.

    python tools/fit_natural_model.py DATA

DATA holds roadscene/, llvip/ and m3svd/, as for the training of the shipped weights.
"""

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from data_pipelines.pairs import StoredPair, find_pairs
from data_pipelines.splits import split_pairs
from hkdnet_jax.evaluation import natural

_SPLIT = Path(__file__).parents[1] / "configs" / "splits" / "train.txt"
_LEVELS = 3
_MIDDLE = 576  # side of what is taken of a larger picture, six squares


def main(data: Path) -> None:
    """Writes the file."""
    roots = [data / name for name in ("llvip", "m3svd", "roadscene")]
    pairs, _ = split_pairs(find_pairs(roots), str(_SPLIT), "", 0.0)
    natural.save(natural.fit(map(_fused, range(len(pairs)), pairs)), natural.FILE)
    print(f"Wrote {natural.FILE} of {len(pairs)} pairs.")


def _fused(number: int, pair: StoredPair) -> np.ndarray:
    """A pair fused by the average, every second one by a Laplacian pyramid."""
    ir, vis = (_middle(image).astype(np.float64) for image in pair.read())
    if number % 2 == 0:
        return np.round((ir + vis) / 2).astype(np.uint8)
    # Not decimated, so that nothing is interpolated.
    fused = np.zeros_like(ir)
    for level in range(_LEVELS):
        low = [ndimage.gaussian_filter(x, 2.0**level) for x in (ir, vis)]
        high = ir - low[0], vis - low[1]
        fused += np.where(np.abs(high[0]) >= np.abs(high[1]), *high)
        ir, vis = low
    return np.clip(np.round(fused + (ir + vis) / 2), 0, 255).astype(np.uint8)


def _middle(image: np.ndarray) -> np.ndarray:
    window = [
        slice(max(0, (side - _MIDDLE) // 2), max(0, (side - _MIDDLE) // 2) + _MIDDLE)
        for side in image.shape
    ]
    return image[tuple(window)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
