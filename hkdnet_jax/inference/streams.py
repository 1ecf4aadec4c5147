"""Cameras and addresses as sources of frames, through OpenCV."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax.common import levels
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.image_files import Picture
from hkdnet_jax.inference.video_sources import DEFAULT_RATE, Frame


class Stream:
    """A camera by its index, or an address such as rtsp://HOST/PATH."""

    def __init__(self, given: str, rate: Fraction | None):
        """Connects, and waits for the first frame.

        Raises:
          UserError: there is no such camera or address, or OpenCV is not installed.
        """
        with needs_extra("A camera", "video"):
            # OpenCV prints what it tries, which is not for the user.
            os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
            import cv2
        self.name = Path(given)
        self._capture = cv2.VideoCapture(int(given) if given.isdecimal() else given)
        self._first = self._read()
        if self._first is None:
            raise UserError(
                f"{given} gives no frame: check that it is the index of a camera or an "
                "address that plays elsewhere."
            )
        found = self._capture.get(cv2.CAP_PROP_FPS)
        stated = Fraction(found).limit_denominator(1001) if 1 <= found <= 1000 else None
        self.rate = rate or stated or DEFAULT_RATE
        self.size = self._first.pixels.shape[:2]
        self.count = None

    def frames(self) -> Iterator[Frame]:
        """Yields frames until the address ends, or the user stops."""
        number, picture = 0, self._first
        while picture is not None and picture.pixels.shape[:2] == self.size:
            yield Frame(float(number / self.rate), picture)
            number, picture = number + 1, self._read()
        self._capture.release()

    def samples(self, number: int) -> list[Picture]:
        """The first frame alone: a camera cannot be wound back."""
        return [self._first]

    def _read(self) -> Picture | None:
        seen, pixels = self._capture.read()
        return _picture(pixels) if seen else None


def _picture(pixels: Any) -> Picture:
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1] if pixels.shape[2] == 3 else pixels[..., 0]
    pixels = np.ascontiguousarray(pixels)
    return Picture(pixels, 8 * pixels.itemsize, levels.full_range(pixels.dtype))
