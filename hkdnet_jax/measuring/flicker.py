"""How much fused video changes from frame to frame beyond what its label changes.

A student fuses each frame by itself, so its mistakes may come and go.  What moves in
the scene moves in the label too, the teacher's picture of the high-resolution frames;
what changes beyond that is flicker.  Two figures tell it apart from detail that the
student does not see, all in levels of 0..255:

- ``excess``: the mean change of a pixel less that of the label's.  A picture that only
  lacks detail changes less than its label;
- ``pumping``: by how much the mean level of a block of BLOCK x BLOCK pixels changes
  unlike the label's, the mean over the blocks.  It is what a viewer sees of a gain or
  an attention that depends on the whole picture.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipelines import scenes
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size, to_8_bit
from hkdnet_jax.common.pair_files import Pair, check_sizes, match_folders, read_pair
from hkdnet_jax.evaluation.pictures import (
    Picture,
    crop_to_multiple,
    degrade_picture,
    enlarge,
)
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.measuring.measure import Row
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE

BLOCK = 16  # pixels
METHODS = "student", "teacher, bicubic"
# Of the made sequences: their number, frames, and size in pixels.
_MADE, _FRAMES, _SIZE = 3, 6, (240, 320)
_STEP = 1, 1  # by how many pixels the camera turns down and right from frame to frame
Frame = tuple[Picture, Picture]  # infrared and visible


def sequences_of(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    """Groups the frames of sequences, whose names differ by a number at their end.

    Frames are in the order of their numbers; a name without a number is left out, and
    so is a sequence of one frame.
    """
    found: dict[str, list[tuple[int, Pair]]] = {}
    for pair in pairs:
        match = re.fullmatch(r"(.*?)[_-]?(\d+)", pair.name)
        if match:
            found.setdefault(match[1], []).append((int(match[2]), pair))
    return {
        name: [pair for _, pair in sorted(members, key=lambda member: member[0])]
        for name, members in found.items()
        if len(members) > 1
    }


def stored_frames(pairs: Iterable[Pair]) -> Iterator[Frame]:
    """Reads the frames of a sequence, uint8 [H, W] each.

    Raises:
      UserError: a file cannot be read.
    """
    for pair in pairs:
        ir, vis = (to_8_bit(image) for image in read_pair(pair))
        yield ir, vis


def made_sequences(seed: int = 0) -> dict[str, list[Frame]]:
    """Made scenes, over which a camera turns by a pixel a frame, down and right."""
    height, width = _SIZE
    offsets = [(i * _STEP[0], i * _STEP[1]) for i in range(_FRAMES)]
    found = {}
    for number in range(_MADE):
        size = height + offsets[-1][0], width + offsets[-1][1]
        pair = scenes.render(seed, number, *size)
        found[f"made_{number}"] = [
            tuple(image[y : y + height, x : x + width] for image in pair)
            for y, x in offsets
        ]
    return found


def change_beyond(
    before: Picture, after: Picture, label_before: Picture, label_after: Picture
) -> dict[str, float]:
    """Compares the change of a picture with that of its label.

    Args:
      before, after: uint8 [H, W] of two frames.
      label_before, label_after: those of the label.

    Returns:
      `change` and `label_change`, the mean magnitudes of the pixels' changes; `excess`
      and `pumping`, see the module.
    """
    picture, label = (
        b.astype(np.float64) - a
        for a, b in ((before, after), (label_before, label_after))
    )
    change, label_change = np.abs(picture).mean(), np.abs(label).mean()
    height, width = (side - side % BLOCK for side in picture.shape)
    unlike = (picture - label)[:height, :width]
    blocks = unlike.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return {
        "change": float(change),
        "label_change": float(label_change),
        "excess": float(change - label_change),
        "pumping": float(np.abs(blocks.mean((1, 3))).mean()),
    }


def measure_flicker(
    student: Model, teacher: Model, sequences: Mapping[str, Iterable[Frame]]
) -> Iterator[Row]:
    """Measures sequences of high-resolution frames, which are degraded for the student.

    Args:
      student: the model that fuses frame by frame.
      teacher: the one whose pictures are the labels.
      sequences: name -> at least two frames of one size, at least BLOCK on each side.

    Yields:
      For each sequence a row for the student, and one for the teacher's picture of the
      degraded frames, enlarged by bicubic interpolation: means over all steps from one
      frame to the next.
    """
    for name, frames in sequences.items():
        steps: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        pictures = (_pictures(student, teacher, frame) for frame in frames)
        for (before, label_before), (after, label_after) in pairwise(pictures):
            for method in METHODS:
                steps[method].append(
                    change_beyond(
                        before[method], after[method], label_before, label_after
                    )
                )
        for method, rows in steps.items():
            means = {key: float(np.mean([r[key] for r in rows])) for key in rows[0]}
            yield {"sequence": name, "method": method, "steps": len(rows), **means}


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """The means of the rows of each method, in which every step counts alike."""
    found = []
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        steps = [row["steps"] for row in own]
        keys = own[0].keys() - {"sequence", "method", "steps"}
        means = {k: float(np.average([r[k] for r in own], weights=steps)) for k in keys}
        found.append(
            {"sequence": "mean", "method": method, "steps": sum(steps)} | means
        )
    return found


def open_sequences(
    ir: Path | None, vis: Path | None, scale: int
) -> dict[str, Iterable[Frame]]:
    """The sequences of two folders, or the made ones if none are given.

    Raises:
      UserError: only one folder is given, they hold no sequence, a file has no partner
        or its sizes differ, or a sequence's frames have several sizes or are too small.
    """
    if ir is None and vis is None:
        return made_sequences()
    if ir is None or vis is None:
        raise UserError("Give both --ir and --vis, or neither for made scenes.")
    pairs, problems = match_folders(ir, vis)
    if problems:
        raise UserError(f"{problems[0]}: add its partner, or remove it.")
    found = sequences_of(pairs)
    if not found:
        raise UserError(
            f"{ir} and {vis} hold no sequence: name frames NAME_0001.png, "
            "NAME_0002.png and so on."
        )
    least = max(BLOCK, MIN_SIDE * scale)
    for members in found.values():
        sizes = {}
        for pair in members:
            check_sizes(pair, *(image_size(path) for path in (pair.ir, pair.vis)))
            sizes.setdefault(image_size(pair.ir), pair.ir)
        if len(sizes) > 1:
            one, other, *_ = sizes.values()
            raise UserError(
                f"{other} has another size than {one}: the frames of a sequence must "
                "have one."
            )
        if min(next(iter(sizes))) < least:
            raise UserError(
                f"{members[0].ir} is too small: frames need {least} pixels a side."
            )
    return {name: stored_frames(members) for name, members in found.items()}


def _pictures(
    student: Model, teacher: Model, frame: Frame
) -> tuple[dict[str, Picture], Picture]:
    """The pictures of each method, and the label."""
    ir, vis = (crop_to_multiple(image, student.scale) for image in frame)
    low = [degrade_picture(image, student.scale) for image in (ir, vis)]
    small = fuse_pair(teacher.for_reduced(student.scale), *low)
    fused = fuse_pair(student, *low), enlarge(small, student.scale)
    return dict(zip(METHODS, fused, strict=True)), fuse_pair(teacher, ir, vis)
