"""Infrared and visible files that belong together: matched by stem, read as a pair."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, read_gray
from hkdnet_jax.common.paths import as_path


@dataclass(frozen=True)
class Pair:
    """One scene: `name` is "stem" or "rootname/stem", `ir` and `vis` the two files."""

    name: str
    ir: Path
    vis: Path


def match_folders(
    ir_dir: Path | str, vis_dir: Path | str
) -> tuple[list[Pair], list[str]]:
    """Pairs the images of two folders by file stem.

    Files that are not images by suffix, and hidden ones, are ignored.

    Returns:
      The pairs sorted by name (the stem), and one sentence for each image that is in
      no pair: no partner, or several files of one folder with one stem.

    Raises:
      UserError: a folder does not exist.
    """
    ir, ir_problems = _by_stem(as_path(ir_dir))
    vis, vis_problems = _by_stem(as_path(vis_dir))
    problems = ir_problems + vis_problems
    for here, there, folder in ((ir, vis, vis_dir), (vis, ir, ir_dir)):
        for stem in sorted(here.keys() - there.keys()):
            for path in here[stem]:
                problems.append(f"{path} has no partner '{stem}.*' in {folder}")
    pairs = [
        Pair(stem, ir[stem][0], vis[stem][0])
        for stem in sorted(ir.keys() & vis.keys())
        if len(ir[stem]) == len(vis[stem]) == 1
    ]
    return pairs, problems


def match_fused(
    folder: Path | str, pairs: Sequence[Pair]
) -> tuple[dict[str, Path], list[str]]:
    """Finds the fused image of each pair in a folder, by file stem.

    Returns:
      The file of each pair's name, and one sentence for each image that is no pair's,
      for each pair that has none, and for each stem used twice.

    Raises:
      UserError: the folder does not exist.
    """
    found, problems = _by_stem(as_path(folder))
    names = {pair.name for pair in pairs}
    problems += [
        f"{path} belongs to no pair of infrared and visible images named '{stem}.*'"
        for stem, paths in found.items()
        if stem not in names
        for path in paths
    ]
    problems += [
        f"{folder} holds no '{pair.name}.*', the fused image of {pair.ir}"
        for pair in pairs
        if pair.name not in found
    ]
    single = {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}
    return {stem: path for stem, path in single.items() if stem in names}, problems


def _by_stem(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The images of `folder` by stem, and a sentence for each stem used twice."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    problems = [
        f"{folder} holds several images named '{stem}' "
        f"({', '.join(path.name for path in paths)}), keep one"
        for stem, paths in found.items()
        if len(paths) > 1
    ]
    return found, problems


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Reads both images, see `read_gray`; UserError if their sizes differ."""
    ir, vis = read_gray(pair.ir), read_gray(pair.vis)
    check_sizes(pair, ir.shape, vis.shape)
    return ir, vis


def check_sizes(pair: Pair, ir: tuple[int, int], vis: tuple[int, int]) -> None:
    """UserError unless the (height, width) of both images are equal."""
    if ir != vis:
        raise UserError(
            f"{pair.ir} is {ir[1]}x{ir[0]} but {pair.vis} is {vis[1]}x{vis[0]}; "
            "crop or resize them to one registered size."
        )
