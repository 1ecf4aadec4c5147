"""Where the frames of a video come from: a file, a folder of pictures, a camera.

A source yields frames in their order, one at a time, so
that a video of any length takes the memory of a few frames.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from hkdnet_jax.common import levels
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, Picture, image_size, read

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"),
    *(".mjpeg", ".wmv", ".flv"),
)
# Of folders and of cameras that do not say how many frames a second they show.
DEFAULT_RATE = Fraction(25)


class Frame(NamedTuple):
    """A picture and when it is shown, in seconds from the first frame."""

    time: float
    picture: Picture


class Source(Protocol):
    """A sequence of frames of one size.

    Attributes:
      name: what it is called in sentences.
      rate: frames per second.
      size: (height, width) of the frames, in pixels.
      count: number of frames, as far as it is known beforehand.
    """

    name: Path
    rate: Fraction
    size: tuple[int, int]
    count: int | None

    def frames(self) -> Iterator[Frame]:
        """Yields all frames."""

    def samples(self, number: int) -> list[Picture]:
        """Up to `number` frames, evenly spread where the source allows to seek."""


def is_stream(text: object) -> bool:
    """Whether an input is a camera's index or an address, rather than a path."""
    return isinstance(text, str) and (text.isdecimal() or "://" in text)


def is_video(given: Any) -> bool:
    """Whether an input is a video file, a camera or an address."""
    return is_stream(given) or Path(given).suffix.lower() in VIDEO_SUFFIXES


class FrameFolder:
    """The pictures of a folder in the order of their names, of any kind and depth."""

    def __init__(self, folder: Path, rate: Fraction | None):
        """Lists the pictures; see `video.open_source`."""
        paths = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        self._paths = sorted(path for path in paths if not path.name.startswith("."))
        if not self._paths:
            raise UserError(f"{folder} holds no pictures: give a folder of frames.")
        self.name = folder
        self.rate = rate or DEFAULT_RATE
        self.size = image_size(self._paths[0])
        self.count = len(self._paths)

    def frames(self) -> Iterator[Frame]:
        """See `Source`; a picture of another size ends the video with a UserError."""
        for number, path in enumerate(self._paths):
            picture = read(path, 0)
            if picture.pixels.shape[:2] != self.size:
                raise UserError(
                    f"{path} has another size than {self._paths[0]}: the frames of a "
                    "video must have one."
                )
            yield Frame(float(number / self.rate), picture)

    def samples(self, number: int) -> list[Picture]:
        """See `Source`."""
        chosen = np.linspace(0, self.count - 1, min(number, self.count)).astype(int)
        return [read(self._paths[index], 0) for index in chosen]


class VideoFile:
    """A file that FFmpeg's libraries decode, through PyAV."""

    def __init__(self, path: Path, rate: Fraction | None):
        """Reads the header; see `video.open_source`."""
        self.name = path
        with self._opened() as (container, stream):
            self.rate = rate or stream.average_rate or stream.guessed_rate
            if not self.rate:
                raise UserError(f"{path} does not say its frame rate: give --fps.")
            self.count = stream.frames or None
            self._seconds = (container.duration or 0) / 1e6
            self._stated = rate is not None
            first = next(self._decoded(container, stream), None)
        if first is None:
            raise UserError(f"{path} holds no frame: give another video.")
        self.size = first[1].pixels.shape[:2]

    def frames(self) -> Iterator[Frame]:
        """See `Source`."""
        with self._opened() as (container, stream):
            start = None
            for number, (time, picture) in enumerate(self._decoded(container, stream)):
                if self._stated or time is None:
                    time = float(number / self.rate)
                start = time if start is None else start
                yield Frame(time - start, picture)

    def samples(self, number: int) -> list[Picture]:
        """See `Source`."""
        pictures = []
        with self._opened() as (container, stream):
            for seconds in np.linspace(0, self._seconds, number, endpoint=False):
                container.seek(int(seconds * 1e6))
                pictures += [x for _, x in _first(self._decoded(container, stream))]
        return pictures

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        with needs_extra("Video", "video"):
            import av
        try:
            with av.open(str(self.name)) as container:
                if not container.streams.video:
                    raise UserError(f"{self.name} holds no video: give another file.")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                yield container, stream
        except (av.FFmpegError, OSError) as error:
            detail = error.strerror or error
            raise UserError(
                f"{self.name} cannot be read as a video ({detail}): replace it, or "
                "give a folder of its frames."
            ) from error

    def _decoded(
        self, container: Any, stream: Any
    ) -> Iterator[tuple[float | None, Picture]]:
        for frame in container.decode(stream):
            yield frame.time, _picture(frame)


def _first(frames: Iterator) -> list:
    return [frame for frame in [next(frames, None)] if frame is not None]


def _picture(frame: Any) -> Picture:
    """A decoded frame as a picture, upright, of 8 or 16 bits, gray or RGB."""
    parts = frame.format.components
    deep = max(part.bits for part in parts) > 8
    gray = len(parts) == 1
    if deep:
        pixels = frame.to_ndarray(format="gray16le" if gray else "rgb48le")
    else:
        pixels = frame.to_ndarray(format="gray" if gray else "rgb24")
    turns = round(frame.rotation / 90) % 4  # phones write a rotation beside the pixels
    pixels = np.ascontiguousarray(np.rot90(pixels, turns))
    bits = 16 if deep else 8
    return Picture(pixels, bits, levels.full_range(pixels.dtype, bits))
