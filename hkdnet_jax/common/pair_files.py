"""Matches infrared and visible files by stem, and reads them as pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, read_gray
from hkdnet_jax.common.paths import as_path


@dataclass(frozen=True)
class Pair:
    """The two files of one scene.

    Attributes:
      name: "stem" or "rootname/stem".
      ir: the infrared file.
      vis: the visible file.
    """

    name: str
    ir: Path
    vis: Path


def match_folders(
    ir_dir: Path | str, vis_dir: Path | str
) -> tuple[list[Pair], list[str]]:
    """Pairs the images of two folders by file stem.

    Hidden files and files without an image suffix are ignored.

    Returns:
      The pairs, sorted by name (the stem); and one sentence for each image without a
      partner and for each stem that several images of a folder share.

    Raises:
      UserError: a folder does not exist.
    """
    ir, ir_problems = _by_stem(as_path(ir_dir))
    vis, vis_problems = _by_stem(as_path(vis_dir))
    problems = ir_problems + vis_problems
    for own, other, folder in ((ir, vis, vis_dir), (vis, ir, ir_dir)):
        for stem in sorted(own.keys() - other.keys()):
            for path in own[stem]:
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
      The fused file of each pair by name; and one sentence for each image that belongs
      to no pair, for each pair without an image, and for each stem that several images
      share.

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
    """Lists the images of `folder` by stem, and a sentence for each shared stem.

    Raises:
      UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    problems = [
        f"{folder} holds several images named '{stem}' "
        f"({', '.join(path.name for path in paths)}): keep one"
        for stem, paths in found.items()
        if len(paths) > 1
    ]
    return found, problems


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Reads the infrared and the visible image of a pair, each by `read_gray`.

    Raises:
      UserError: an image cannot be read, or the sizes differ.
    """
    ir, vis = read_gray(pair.ir), read_gray(pair.vis)
    check_sizes(pair, ir.shape, vis.shape)
    return ir, vis


def check_sizes(pair: Pair, ir: tuple[int, int], vis: tuple[int, int]) -> None:
    """Checks that both images have the same (height, width).

    Raises:
      UserError: the sizes differ.
    """
    if ir != vis:
        raise UserError(
            f"{pair.ir} is {ir[1]}x{ir[0]} but {pair.vis} is {vis[1]}x{vis[0]}; "
            "register them, and crop or resize them to the same size."
        )
