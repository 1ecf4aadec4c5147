"""Checks a user's settings of a benchmark before the work starts."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring.measure import Settings, Size, size_text
from hkdnet_jax.measuring.subjects import Subject
from hkdnet_jax.models.presets import PRESETS
from hkdnet_jax.runtime.precision import DTYPES


def check_settings(subject: Subject, settings: Settings) -> None:
    """Raises UserError unless the subject can be measured with these settings."""
    for flag, value, choices in (
        ("--preset", settings.preset, tuple(PRESETS)),
        ("--scale", settings.scale, subject.scales),
        ("--dtype", settings.dtype, DTYPES),
    ):
        if value not in choices:
            listed = ", ".join(map(str, choices))
            raise UserError(f"{flag} {value} is not a choice: give one of {listed}.")
    check_count("--batch", settings.batch)


def check_count(flag: str, value: int) -> None:
    """Raises UserError unless the value of a flag is 1 or more."""
    if value < 1:
        raise UserError(f"{flag} {value} is too few: give 1 or more.")


def parse_sizes(spec: str, least: int) -> list[Size]:
    """Parses a list of sizes such as 64x64,400x500.

    Args:
      spec: comma-separated sizes, height first.
      least: shortest side that is allowed, in pixels.

    Returns:
      (height, width) of each size, in pixels.

    Raises:
      UserError: a part is not a size, has a side that is too short, or occurs twice.
    """
    sizes: list[Size] = []
    for part in spec.split(","):
        found = re.fullmatch(r"\s*(\d+)x(\d+)\s*", part)
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if min(size) < least:
            raise UserError(
                f"--size {spec}: {part!r} is not a height and width of at least "
                f"{least} pixels: give a size such as 400x500."
            )
        sizes.append(size)
    if len(set(sizes)) < len(sizes):
        raise UserError(f"--size {spec} names a size twice: give each once.")
    return sizes


def check_training(sizes: Sequence[Size], batch: int, devices: int) -> None:
    """Raises UserError unless sizes are square and the devices can share the batch."""
    for size in sizes:
        if size[0] != size[1]:
            raise UserError(
                f"--size {size_text(size)} is not square, but training crops are: "
                f"give {size_text((max(size), max(size)))}."
            )
    if batch % devices:
        raise UserError(
            f"--batch {batch} cannot be split over the {devices} devices: give a "
            "multiple."
        )


def check_out(out: Path | None) -> None:
    """Raises UserError unless the file can be written."""
    if out is None:
        return
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give a file for the JSON.")
    if not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise UserError(
            f"--out {out}: {out.parent} is not a folder that can be written to: "
            "create it or choose another one."
        )
