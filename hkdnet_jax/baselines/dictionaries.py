"""Learns the dictionaries of `yin` from pairs.

    python -m hkdnet_jax.baselines.dictionaries --roots DATA/roadscene --out weights/yin

A window of every image of the pairs, infrared or visible, gives patches at x2, x3 and
x4; the small images are made as in training.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_pipelines import loader, pairs, splits
from hkdnet_jax.baselines import yin
from hkdnet_jax.baselines.simple import bicubic
from hkdnet_jax.common.errors import exit_code
from hkdnet_jax.evaluation.pictures import degrade_picture
from hkdnet_jax.model_files import file_format

ROUNDS = 15
LEARN_USED = 6  # atoms of a patch while the dictionary is learnt
PER_SCALE = 20_000  # patches, about
LEAST = 2 / 255  # deviation of a patch that is worth learning from
WINDOW = 120  # side of the part of each image that is used, in large pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m hkdnet_jax.baselines.dictionaries",
        description="Learn the dictionaries of yin from pairs.",
    )
    add = parser.add_argument
    add("--roots", required=True, metavar="DIR,...", help="folders with ir/ and vis/")
    text = "file that names the pairs, one per line (default: all)"
    add("--split", default="", metavar="FILE", help=text)
    add("--out", type=Path, required=True, metavar="DIR", help="model directory")
    return exit_code(lambda: _run(parser.parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    found = pairs.find_pairs(args.roots.split(","))
    taken = found
    if args.split:
        taken, _ = splits.split_pairs(found, args.split, "", 0.0)
    source = loader.PairSource(taken, min_size=WINDOW)
    samples = {scale: sample(source, scale) for scale in yin.SCALES}
    arrays = {k: v.astype(np.float16) for k, v in learn(samples).items()}
    file_format.save_model(args.out, {"kind": yin.NAME}, arrays)
    print(f"Wrote {args.out}, from {len(source)} pairs.")
    return 0


Samples = dict[int, tuple[np.ndarray, np.ndarray]]  # [N, 64], [N, (4 * scale)**2]


def sample(source: loader.Source, scale: int, wanted: int = PER_SCALE) -> tuple:
    """Draws patches of the small images' high frequencies, and what belongs to them.

    Args:
      source: the pairs.
      scale: 2, 3 or 4.
      wanted: number of patches, about; of each image as many.

    Returns:
      float32 [N, 64], and [N, (4 * scale)**2]: the middles of the large images less the
      enlarged low frequencies of the small ones.
    """
    rng = np.random.default_rng(scale)
    each = max(1, wanted // (2 * len(source)))
    small, large = [], []
    for index in tqdm(range(len(source)), desc=f"x{scale}", file=sys.stderr):
        for kind in ("ir", "vis"):
            picture = source[index][kind][:, :, 0]
            spare = (side - WINDOW for side in picture.shape)
            top, left = (int(rng.integers(room + 1)) for room in spare)
            picture = picture[top : top + WINDOW, left : left + WINDOW]
            unit = np.float32(1 / 255) * picture
            low, high = yin.split(np.float32(1 / 255) * degrade_picture(picture, scale))
            candidates = yin.patches(high)
            rough = np.flatnonzero(candidates.std(1) > LEAST)
            at = rng.permutation(rough)[:each]
            small.append(candidates[at])
            large.append(_middles(unit - bicubic(low, scale), at, low.shape[1], scale))
    return np.concatenate(small), np.concatenate(large)


def _middles(image: np.ndarray, at: np.ndarray, width: int, scale: int) -> np.ndarray:
    """The squares of a large image that belong to patches of a small one."""
    side = yin.MIDDLE * scale
    top, left = np.divmod(at, width - yin.MIDDLE + 1)
    tops, lefts = (scale * x[:, None, None] for x in (top, left))
    steps = np.arange(side)
    return image[tops + steps[:, None], lefts + steps].reshape(len(at), side**2)


def learn(samples: Samples, rounds: int = ROUNDS, atoms: int = yin.ATOMS) -> dict:
    """Learns the small dictionary from all patches, and one for each scale.

    Args:
      samples: scale -> what `sample` returns.
      rounds: how often coding and least squares alternate.
      atoms: size of the dictionaries.

    Returns:
      `small` and `x2` and so on, see `yin.shapes`.
    """
    every = np.concatenate([small for small, _ in samples.values()])
    rng = np.random.default_rng(0)
    small = _unit(every[rng.permutation(len(every))[:atoms]])
    for _ in tqdm(range(rounds), desc="rounds", file=sys.stderr):
        codes = yin.code(small, every, LEARN_USED)
        rest = ((every - codes @ small) ** 2).sum(1)
        small = _fit(codes, every)
        # An atom that nobody uses becomes the patch that is described worst.
        idle = np.flatnonzero((codes != 0).sum(0) == 0)
        small[idle] = every[np.argsort(rest)[::-1][: len(idle)]]
        small = _unit(small)
    fitted = {
        f"x{scale}": _fit(yin.code(small, patches), wanted)
        for scale, (patches, wanted) in samples.items()
    }
    return {"small": small} | fitted


def _fit(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The dictionary that describes `wanted` best by these codes."""
    matrix = codes.T @ codes
    matrix += 1e-4 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    return np.linalg.solve(matrix, codes.T @ wanted).astype(np.float32)


def _unit(atoms: np.ndarray) -> np.ndarray:
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
