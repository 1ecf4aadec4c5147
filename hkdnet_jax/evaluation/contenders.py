"""The methods that `compare` sets side by side: functions, and folders of pictures.

A function maps (ir, vis, scale), float32 [H, W] in [0, 1], to float32
[scale * H, scale * W]; at scale 1 it returns its fusion alone.  A scale is an int, or a
float such as 2.5.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from hkdnet_jax.common import arrays
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import quantize, read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, match_fused
from hkdnet_jax.evaluation.pictures import Picture, crop_to_multiple, stretch

SCALES = (1.5, 2, 2.5, 3, 3.5, 4)
Function = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def multiple_of(scale: float) -> int:
    """What sources are cropped to multiples of; 12, which suits every whole scale."""
    return math.lcm(12, Fraction(scale).numerator)


@dataclass(frozen=True)
class Running:
    """A method that runs here.

    Attributes:
      name: its name in tables.
      function: see the module.
    """

    name: str
    function: Function

    def fuse(
        self, pair: Pair, ir: Picture, vis: Picture, scale: float, protocol: str
    ) -> Picture:
        """Fuses a pair and enlarges it.

        Args:
          pair: its files.
          ir: uint8 [H, W].
          vis: uint8 [H, W].
          scale: out of SCALES; or 1, for the fusion alone.
          protocol: `paper` stretches each input and the result to its own range, as
            the authors' demo does; `plain` clips the result.

        Returns:
          uint8 [scale * H, scale * W].

        Raises:
          UserError: the method cannot do it, or returns something else.
        """
        del pair
        units = [image.astype(np.float32) / np.float32(255) for image in (ir, vis)]
        if protocol == "paper":
            units = [_stretched(unit) for unit in units]
        image = self.function(*units, scale)
        shape = tuple(round(scale * side) for side in ir.shape)
        found = np.shape(image), getattr(image, "dtype", type(image).__name__)
        if found != (shape, np.float32) or not np.isfinite(image).all():
            raise UserError(
                f"{self.name} returned {found[1]} of shape {found[0]}, where finite "
                f"float32 of shape {shape} is wanted: correct the method."
            )
        return quantize(_stretched(image) if protocol == "paper" else image, "8")


@dataclass(frozen=True)
class Saved:
    """A method whose pictures are files.

    Attributes:
      name: its name in tables.
      files: scale -> name of the pair -> file.
    """

    name: str
    files: Mapping[float, Mapping[str, Path]]

    def fuse(
        self, pair: Pair, ir: Picture, vis: Picture, scale: float, protocol: str
    ) -> Picture | None:
        """Reads the picture of a pair, and crops it to the size that is scored.

        Args:
          pair: its files.
          ir: uint8 [H, W], the small infrared image.
          vis: uint8 [H, W].
          scale: out of SCALES.
          protocol: `paper` stretches the picture to its own range.

        Returns:
          uint8 [scale * H, scale * W]; None if there is no picture.

        Raises:
          UserError: the file cannot be read, or has another size.
        """
        del vis
        file = self.files.get(scale, {}).get(pair.name)
        if file is None:
            return None
        picture = to_8_bit(read_gray(file))
        wanted = tuple(round(scale * side) for side in ir.shape)
        # The sources were cropped at the bottom and right.
        cropped = picture[: wanted[0], : wanted[1]]
        whole = crop_to_multiple(picture, multiple_of(scale)).shape
        if cropped.shape != wanted or wanted not in (whole, picture.shape):
            raise UserError(
                f"{file} is {picture.shape[1]}x{picture.shape[0]} pixels, but its pair "
                f"is {wanted[1]}x{wanted[0]}: give pictures of the sources' size."
            )
        return stretch(cropped) if protocol == "paper" else cropped


Contender = Running | Saved


def saved(
    spec: str, scales: Sequence[float], pairs: Sequence[Pair]
) -> tuple[Saved, list[str]]:
    """Finds the pictures that `--fused NAME=DIR` means.

    Args:
      spec: the name and the folder, in which {scale} stands for the scale.
      scales: the scales that are measured.
      pairs: the pairs.

    Returns:
      The method, and a sentence for each picture and pair without a partner.

    Raises:
      UserError: the name, the folder or {scale} is missing.
    """
    name, _, folder = spec.partition("=")
    if not name or not folder or ("{scale}" not in folder and len(scales) > 1):
        raise UserError(
            f"--fused {spec} must be NAME=DIR, with {{scale}} in DIR if there are "
            "several scales."
        )
    files, problems = {}, []
    for scale in scales:
        directory = folder.replace("{scale}", str(scale))
        files[scale], unmatched = match_fused(directory, pairs)
        problems += unmatched
    return Saved(name, files), problems


def check_names(contenders: Sequence[Contender]) -> None:
    """Raises UserError if two methods have the same name."""
    names = [contender.name for contender in contenders]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"Two methods are called {name!r}: give one of them another NAME=."
            )


def _stretched(unit: np.ndarray) -> np.ndarray:
    """Maps the minimum and maximum of float32 [H, W] to 0 and 1."""
    images = jnp.asarray(unit[None, :, :, None])
    return np.asarray(arrays.normalize_minmax(images))[0, :, :, 0]
