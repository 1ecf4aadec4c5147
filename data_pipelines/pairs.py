"""Data sets on disk: folders of pairs of files, and packed ones.

A folder has ``ir/`` and ``vis/``, whose files share stems; see `packed` for the other
kind.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipelines import packed
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, image_size, to_8_bit
from hkdnet_jax.common.pair_files import Pair, check_sizes, match_folders, read_pair
from hkdnet_jax.common.paths import as_path, is_local


class StoredPair(Protocol):
    """A pair that can be read, however it is stored.

    Attributes:
      name: "stem" or "rootname/stem".
    """

    name: str

    def place(self) -> str:
        """Where the pair is, as the subject of a sentence."""

    def size(self) -> tuple[int, int]:
        """Reads the (height, width) of both images, without decoding them.

        Raises:
          UserError: an image cannot be read, or the sizes differ.
        """

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads both images, infrared first, uint8 [H, W].

        Raises:
          UserError: an image cannot be read, or the sizes differ.
        """


@dataclass(frozen=True)
class FilePair(Pair):
    """Two files; 16-bit images become uint8."""

    def place(self) -> str:
        """See `StoredPair`."""
        return f"{self.ir} and its partner"

    def size(self) -> tuple[int, int]:
        """See `StoredPair`."""
        ir, vis = (image_size(path) for path in (self.ir, self.vis))
        check_sizes(self, ir, vis)
        return ir

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """See `StoredPair`."""
        ir, vis = read_pair(self)
        return to_8_bit(ir), to_8_bit(vis)


def find_pairs(roots: Sequence[Path | str]) -> list[StoredPair]:
    """Finds all pairs of several data sets, folders and packed ones.

    Names are "rootname/stem". Roots with the same last part are distinguished by as
    many parent folders as necessary ("msrs/train/0001", "llvip/train/0001").

    Args:
      roots: the folders, or their addresses.

    Returns:
      The pairs, sorted by name.

    Raises:
      UserError: no root is given, or a root is given twice, has no ``ir/`` or ``vis/``,
        has no pairs, or has an image without a partner; or it is packed, and damaged.
    """
    if not roots:
        raise UserError("No data folder was given; name one that holds ir/ and vis/.")
    pairs, problems = [], []
    for root, name in zip(roots, _root_names(roots), strict=True):
        root = as_path(root)
        if packed.is_packed(root):
            pairs += packed.find_pairs(root, name)
            continue
        if not ((root / "ir").is_dir() and (root / "vis").is_dir()):
            raise UserError(
                f"{root} is not a data folder; it must hold ir/ and vis/ with images "
                "of the same stems."
            )
        found, unpaired = match_folders(root / "ir", root / "vis")
        if not found and not unpaired:
            raise UserError(
                f"{root} holds no pairs; put images of the same stems "
                f"({', '.join(IMAGE_SUFFIXES)}) into its ir/ and vis/."
            )
        pairs += [FilePair(f"{name}/{pair.name}", pair.ir, pair.vis) for pair in found]
        problems += unpaired
    if problems:
        raise UserError(
            "Every image needs exactly one partner with the same stem, so add it or "
            f"remove the image: {listing(problems)}."
        )
    return sorted(pairs, key=lambda pair: pair.name)


def _root_names(roots: Sequence[Path | str]) -> list[str]:
    """The shortest path tail of each root that no other root shares."""
    paths = [as_path(root) for root in roots]
    places = {os.path.realpath(p) if is_local(p) else str(p) for p in paths}
    if len(places) < len(roots):
        listed = ", ".join(str(root) for root in roots)
        raise UserError(f"A data folder is given twice in {listed}; name each once.")
    parts = [Path(os.path.abspath(p)).parts if is_local(p) else p.parts for p in paths]
    names = []
    for mine in parts:
        depth = 1
        while sum(other[-depth:] == mine[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(mine[-depth:]))
    return names
