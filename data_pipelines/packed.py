"""Packed data sets: decoded pairs in one file, of which training reads only the crops.

A packed data set is a folder of two files:

- ``pixels.npy``: uint8 [bytes], the infrared and the visible image of the first pair,
  row by row, then those of the second pair, and so on.  It is mapped into memory, so
  that the operating system reads what is used, keeps what fits, and shares it between
  processes.
- ``pairs.json``: the name, height and width of each pair, in that order.
"""

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax.common.atomic_files import to_json
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.paths import is_local

INDEX, PIXELS = "pairs.json", "pixels.npy"
_FORMAT = "hkdnet-jax-pairs-1"
_REMEDY = "pack it again (python -m data_pipelines.prepare --pack)"

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class _Pixels:
    """The file of a data set's pixels; another process gets its name and maps it."""

    file: Path

    @functools.cached_property
    def mapped(self) -> np.memmap:
        """uint8 [bytes], read-only."""
        return np.load(self.file, mmap_mode="r", allow_pickle=False)

    def __getstate__(self) -> dict:
        return {"file": self.file}


@dataclass(frozen=True, eq=False)
class PackedPair:
    """A pair in a packed data set; see `pairs.StoredPair`.

    Attributes:
      name: "rootname/stem".
      pixels: where the pixels of the data set are.
      start: number of the pair's first byte among them.
      height: height of both images, in pixels.
      width: width of both images, in pixels.
    """

    name: str
    pixels: _Pixels
    start: int
    height: int
    width: int

    def place(self) -> str:
        """See `pairs.StoredPair`."""
        return f"{self.name} in {self.pixels.file.parent}"

    def size(self) -> Size:
        """See `pairs.StoredPair`."""
        return self.height, self.width

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """See `pairs.StoredPair`; nothing is read from the disk yet."""
        end = self.start + 2 * self.height * self.width
        images = self.pixels.mapped[self.start : end]
        ir, vis = images.reshape(2, self.height, self.width)
        return ir, vis


def is_packed(folder: Any) -> bool:
    """Whether a folder, a path, holds a packed data set."""
    return (folder / INDEX).exists()


def find_pairs(folder: Any, name: str) -> list[PackedPair]:
    """Opens a packed data set.

    Args:
      folder: a path.
      name: what the names of the pairs begin with.

    Raises:
      UserError: the folder is in an object store, or its files are damaged.
    """
    if not is_local(folder):
        raise UserError(
            f"{folder} is packed, and only a file of this machine can be mapped into "
            "memory: copy the folder to a local disk."
        )
    pixels = _Pixels(folder / PIXELS)
    pairs, start = [], 0
    for stem, height, width in _index(folder):
        pairs.append(PackedPair(f"{name}/{stem}", pixels, start, height, width))
        start += 2 * height * width
    try:
        mapped = pixels.mapped
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{pixels.file} cannot be read ({error}): {_REMEDY}."
        ) from error
    if mapped.dtype != np.uint8 or mapped.shape != (start,):
        raise UserError(
            f"{pixels.file} holds {mapped.size} values of {mapped.dtype} instead of "
            f"the {start} bytes that {INDEX} lists: {_REMEDY}."
        )
    return pairs


def _index(folder: Path) -> list[tuple[str, int, int]]:
    """The name, height and width of each pair."""
    file = folder / INDEX
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        entries = [(str(name), int(h), int(w)) for name, h, w in content["pairs"]]
        if not entries or min(min(h, w) for _, h, w in entries) < 1:
            raise ValueError("it lists no pair, or one without pixels")
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file} cannot be read ({reason}): {_REMEDY}.") from error
    return entries


def write(
    folder: Path,
    entries: Sequence[tuple[str, Size]],
    images: Iterable[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Writes a packed data set.

    Args:
      folder: an existing folder.
      entries: the name (without "/") and the (height, width) of each pair.
      images: the infrared and the visible image of each pair, uint8 [H, W], in the
        order of `entries`; one pair at a time is in memory.

    Raises:
      ValueError: an image has another size or dtype than its entry says, or there are
        fewer or more images than entries.
      OSError: the files cannot be written.
    """
    total = sum(2 * height * width for _, (height, width) in entries)
    # Not through a memory map: on a full disk, writing to one kills the process.
    with (folder / PIXELS).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(file, header)
        for (name, size), pair in zip(entries, images, strict=True):
            for image in pair:
                if image.dtype != np.uint8 or image.shape != size:
                    raise ValueError(
                        f"{name} is {image.shape} {image.dtype}, not {size} uint8"
                    )
                file.write(np.ascontiguousarray(image))
    listed = [[name, height, width] for name, (height, width) in entries]
    text = to_json({"format": _FORMAT, "pairs": listed})
    (folder / INDEX).write_text(text, encoding="utf-8")
