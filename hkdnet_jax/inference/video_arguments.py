"""The flags of videos, and whether a user means videos."""

import argparse
from fractions import Fraction
from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.inference.video_sinks import CODECS
from hkdnet_jax.inference.video_sources import VIDEO_SUFFIXES, is_stream, is_video


def source(text: str) -> Path | str:
    """An input as a path, or unchanged if it is a camera's index or an address.

    A file whose name is a number comes before the camera of that index.
    """
    if is_stream(text) and not (text.isdecimal() and Path(text).exists()):
        return text
    return Path(text)


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that only videos have."""
    add = parser.add_argument
    add(
        "--ir-offset",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="for videos: how much later the infrared one began (default: 0)",
    )
    add(
        "--fps",
        type=_rate,
        metavar="RATE",
        help="for videos: frames per second of both, such as 25 or 30000/1001 "
        "(default: what the files say, 25 for folders of frames)",
    )
    add(
        "--codec",
        choices=tuple(CODECS),
        default="h264",
        help="for videos: how the result is encoded (default: h264)",
    )


def _rate(text: str) -> Fraction:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1000")
    return rate


def means_video(args: argparse.Namespace) -> bool:
    """Whether --ir and --vis are videos, or frames that become one.

    Raises:
      UserError: only one of them is a video, and the other is no folder of frames.
    """
    given = (args.ir, args.vis)
    if None in given:
        return False
    videos = sum(is_video(one) for one in given)
    folders = sum(not is_video(one) and Path(one).is_dir() for one in given)
    if videos and videos + folders < 2:
        raise UserError(
            f"{args.ir} and {args.vis} do not belong together: give two videos, or a "
            "video and a folder of frames."
        )
    becomes_one = args.out.suffix.lower() in VIDEO_SUFFIXES and not args.out.is_dir()
    return videos > 0 or (folders == 2 and becomes_one)
