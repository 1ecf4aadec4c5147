"""What the page takes of its visitors, so that none of them can occupy the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size

MEGABYTE = 2**20  # bytes, as browsers and Gradio count
# The pictures of an archive may be this many times as large as an upload in all.
_UNPACKED = 4


@dataclass(frozen=True)
class Limits:
    """The limits of one server.

    Attributes:
      upload: bytes of one file.
      pixels: pixels of one picture that goes in.
      seconds: the longest that the work on one pair may take; waiting is not counted.
      queue: requests that may wait for their turn.
      pairs: pairs of one archive.
    """

    upload: int = 50 * MEGABYTE
    pixels: int = 2 * 10**6
    seconds: float = 120.0
    queue: int = 40
    pairs: int = 100

    @property
    def unpacked(self) -> int:
        """Bytes that the files of one archive may have in all."""
        return _UNPACKED * self.upload

    def check_pictures(self, paths: Sequence[Path]) -> None:
        """Checks the sizes that the headers of some pictures state.

        Raises:
          UserError: a file is too large, has too many pixels, or is no picture.
        """
        for path in paths:
            if path.stat().st_size > self.upload:
                raise UserError(
                    f"{path} has more than the {self.upload / MEGABYTE:g} MB that this "
                    "page takes: save it in fewer bytes."
                )
            height, width = image_size(path)
            if height * width > self.pixels:
                raise UserError(
                    f"{path} is {width}x{height} pixels, more than the "
                    f"{self.pixels / 1e6:g} million that this page takes: make it "
                    "smaller."
                )
