"""Brings an infrared and a visible image of two sizes to one.

The smaller image is enlarged by the student that goes farthest towards the size of the
larger one, and the rest of the way by Lanczos resampling; the pair is then fused at
that size by the teacher.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float32
from PIL import Image

from hkdnet_jax import pretrained
from hkdnet_jax.inference import programs
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.ops.places import enlarged

Size = tuple[int, int]  # height, width
Unit = Float32[np.ndarray, "h w"]
Sized = Float32[np.ndarray, "{size[0]} {size[1]}"]  # by the argument `size`

# How much the aspect ratios of the two images may differ: up to ROUNDING they are taken
# for one view, rounded to whole pixels; up to CROPPED the visible image is cropped in
# the middle; beyond that, nobody can tell which part of it the other one shows.
ROUNDING = 0.02
CROPPED = 0.10


@dataclass(frozen=True)
class Plan:
    """How two sizes become one.

    Attributes:
      size: (height, width) at which the pair is fused, which is that of the output.
      crop: (height, width) that is kept, in the middle, of the visible image.
      scales: of the student that enlarges the infrared and the visible image; 1 for
        none.
    """

    size: Size
    crop: Size
    scales: tuple[int, int]


def plan(ir: Size, vis: Size, scale: int | float | None = None) -> Plan:
    """Says how images of two sizes become one.

    Args:
      ir: (height, width) of the infrared image.
      vis: the same of the visible image.
      scale: None for the size of the larger image; otherwise the target is that many
        times the smaller one.

    Raises:
      ValueError: their aspect ratios differ by more than CROPPED; the message is the
        end of a sentence that names both.
    """
    wider = (vis[1] / vis[0]) / (ir[1] / ir[0])
    difference = max(wider, 1 / wider) - 1
    if difference > CROPPED:
        raise ValueError(
            f"their aspect ratios differ by {difference:.0%}: crop them to one view"
        )
    crop = vis
    if difference > ROUNDING:
        height, width = vis
        crop = (
            (height, round(width / wider))
            if wider > 1
            else (
                round(height * wider),
                width,
            )
        )
    small, large = sorted((ir, crop), key=math.prod)
    size = large if scale is None else tuple(enlarged(side, scale) for side in small)
    return Plan(size, crop, (_student(ir, size), _student(crop, size)))


def _student(own: Size, size: Size) -> int:
    """The scale of the student that goes farthest towards a size without passing it."""
    factor = min(target / side for target, side in zip(size, own, strict=True))
    return max([scale for scale in SCALES if scale <= factor * (1 + ROUNDING)] or [1])


def plan_note(plan: Plan, ir: Size, vis: Size) -> str:
    """A sentence on what a plan does to images of these sizes."""
    steps = []
    for name, full, kept, scale in (
        ("infrared", ir, ir, plan.scales[0]),
        ("visible", vis, plan.crop, plan.scales[1]),
    ):
        if kept != full:
            steps.append(f"the {name} image is cropped in the middle to {_said(kept)}")
        if scale > 1:
            steps.append(f"the {name} image is enlarged x{scale} by the student")
        if tuple(side * scale for side in kept) != plan.size:
            steps.append(f"the {name} image is resampled to {_said(plan.size)}")
    return f"Of {_said(ir)} and {_said(vis)} pixels, {', '.join(steps)}."


def crop(image: np.ndarray, size: Size) -> np.ndarray:
    """The middle of an image [H, W, ...], of (height, width) `size`."""
    top, left = (
        (full - kept) // 2 for full, kept in zip(image.shape, size, strict=False)
    )
    return image[top : top + size[0], left : left + size[1]]


def resample(image: Unit, size: Size) -> Sized:
    """Resamples float32 [H, W] in [0, 1] by a Lanczos filter, anti-aliased."""
    if image.shape == size:
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.clip(np.asarray(resized), 0, 1)


class Enlarger:
    """Enlarges single images by the students that come with the package."""

    def __init__(self, devices: Sequence[jax.Device], free: int | None):
        """Loads nothing yet.

        Args:
          devices: the devices that may share the work.
          free: bytes that a program may take, see `programs.budget`.
        """
        self.devices = devices
        self.free = free
        self._load = functools.cache(pretrained.load)

    def __call__(self, image: Unit, scale: int, size: Size) -> Sized:
        """Enlarges float32 [H, W] in [0, 1] by a student, and resamples it to `size`.

        A student fuses the image with itself, which gives the image back, enlarged.

        Raises:
          programs.DoesNotFit: the image needs more memory than is free.
        """
        if scale > 1:
            model = self._load(scale)
            program = programs.choose(model, image.shape, 1, self.devices, self.free)
            batch = image[None, :, :, None]
            image = np.asarray(program.run(model.params, batch, batch))[0, :, :, 0]
        return resample(np.clip(image, 0, 1), size)


def _said(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
