"""Where the frames of a fused video go: a file with sound, or a folder of pictures."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.common.image_files import encode
from hkdnet_jax.inference.video_sources import VIDEO_SUFFIXES

CODECS = {"h264": "libx264", "h265": "libx265", "mjpeg": "mjpeg"}
# Quality near what the eye tells apart from the original, by codec.
_QUALITY = {
    "h264": {"crf": "18"},
    "h265": {"crf": "20", "x265-params": "log-level=error"},
    "mjpeg": {"qmin": "2", "qmax": "3"},
}
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers of the colours that players expect


class FolderSink:
    """Writes each frame as a PNG, of 8 or 16 bits."""

    def __init__(self, folder: Path):
        """Creates the folder.

        Raises:
          UserError: it cannot be written to.
        """
        self.folder = folder
        self.count = 0
        atomic_files.make_writable(folder)

    def write(self, picture: np.ndarray) -> None:
        """Writes the next frame as frame_000000.png and so on."""
        out = self.folder / f"frame_{self.count:06d}.png"
        atomic_files.write_atomically(out, encode(picture, out))
        self.count += 1


class FileSink:
    """Encodes frames into a video file, with the sound of an input."""

    def __init__(
        self, container: Any, stream: Any, rate: Fraction, sound: "_Sound | None"
    ):
        """See `open_file`."""
        self._container = container
        self._stream = stream
        self._rate = rate
        self._sound = sound
        self.count = 0

    def write(self, picture: np.ndarray) -> None:
        """Encodes the next frame, uint8 [H, W] or [H, W, 3]."""
        import av

        form = "gray" if picture.ndim == 2 else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=form)
        frame = frame.reformat(format=self._stream.pix_fmt, dst_colorspace="ITU709")
        frame.pts = self.count
        frame.time_base = 1 / self._rate
        self._mux(frame)
        self.count += 1
        if self._sound is not None:
            self._sound.copy_until(float(self.count / self._rate))

    def finish(self) -> None:
        """Encodes what the encoder holds back."""
        self._mux(None)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


class _Sound:
    """Copies the packets of an input's sound, as far as the video has got.

    Without that the packets of the video would wait in memory for those of the sound.
    """

    def __init__(self, source: Any, container: Any):
        self._from = source.streams.audio[0]
        self._packets = source.demux(self._from)
        self._to = container.add_stream_from_template(self._from)
        self._container = container
        self._next = next(self._packets, None)

    def copy_until(self, seconds: float) -> None:
        while self._next is not None:
            packet = self._next
            if packet.dts is not None:
                if float(packet.dts * packet.time_base) >= seconds:
                    return
                packet.stream = self._to
                self._container.mux(packet)
            self._next = next(self._packets, None)


@contextlib.contextmanager
def open_file(
    out: Path, size: tuple[int, int], rate: Fraction, codec: str, sound: Path | None
) -> Iterator[FileSink]:
    """Opens a video file, which appears under its name when it is complete.

    Args:
      out: the file; its suffix decides the container.
      size: (height, width) of the frames, in pixels.
      rate: frames per second.
      codec: a key of CODECS.
      sound: a file whose first sound track is copied, if it has one; None for none.

    Raises:
      UserError: the file cannot be written, or cannot hold the codec.
    """
    with needs_extra("Video", "video"):
        import av
    temporary = out.with_name(f".{out.stem[:200]}.{os.getpid()}.tmp{out.suffix}")
    try:
        with contextlib.ExitStack() as stack:
            container = stack.enter_context(av.open(str(temporary), "w"))
            stream = container.add_stream(CODECS[codec], rate=rate)
            stream.height, stream.width = size
            stream.pix_fmt = _pixel_format(codec, size)
            stream.options = dict(_QUALITY[codec])
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            if codec != "mjpeg":
                context.color_range = _LIMITED
            track = _open_sound(sound, container, stack)
            sink = FileSink(container, stream, rate, track)
            yield sink
            sink.finish()
        os.replace(temporary, out)
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"{out} cannot be written as a video ({error.strerror or error}): give a "
            f"name that ends in {', '.join(VIDEO_SUFFIXES[:4])}, another --codec, or a "
            "folder with free space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _pixel_format(codec: str, size: tuple[int, int]) -> str:
    """Chroma of half the size, as players expect it, where the size is even."""
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    form = "yuv420p" if even else "yuv444p"
    return form.replace("yuv", "yuvj") if codec == "mjpeg" else form


def _open_sound(
    path: Path | None, container: Any, stack: contextlib.ExitStack
) -> _Sound | None:
    import av

    if path is None:
        return None
    source = stack.enter_context(av.open(str(path)))
    known = container.supported_codecs
    if not source.streams.audio or source.streams.audio[0].codec.name not in known:
        return None
    return _Sound(source, container)
