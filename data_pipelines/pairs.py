"""Data sets on disk: folders that hold ``ir/`` and ``vis/``, files of equal stems."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Pair, match_folders
from hkdnet_jax.common.paths import as_path, is_local


def find_pairs(roots: Sequence[Path | str]) -> list[Pair]:
    """All pairs of several data sets, each a folder with ``ir/`` and ``vis/``.

    Names are "rootname/stem"; roots whose last parts are equal are told apart by as
    many parent folders as that takes ("msrs/train/0001", "llvip/train/0001").

    Raises:
      UserError: no root, a root given twice, without ``ir/`` or ``vis/``, without
        pairs, or with an image that has no partner.
    """
    if not roots:
        raise UserError("No data folder was given; name one that holds ir/ and vis/.")
    pairs, problems = [], []
    for root, name in zip(roots, _root_names(roots), strict=True):
        root = as_path(root)
        if not ((root / "ir").is_dir() and (root / "vis").is_dir()):
            raise UserError(
                f"{root} is not a data folder; it must hold ir/ and vis/ with images "
                "of equal stems."
            )
        found, unpaired = match_folders(root / "ir", root / "vis")
        if not found and not unpaired:
            raise UserError(
                f"{root} holds no pairs; put images of equal stems "
                f"({', '.join(IMAGE_SUFFIXES)}) into its ir/ and vis/."
            )
        pairs += [replace(pair, name=f"{name}/{pair.name}") for pair in found]
        problems += unpaired
    if problems:
        raise UserError(
            "Every image needs exactly one partner of equal stem, so add it or "
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
