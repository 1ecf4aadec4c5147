"""What every format's header says, in one form, and what is refused on its account."""

from dataclasses import dataclass

from hkdnet_jax.common.levels import BYTES, Range

# Every pixel that is read takes up to eight bytes, and up to 16 times as much when it
# is fused at x4: a header that claims more than this is a mistake or an attack.
MOST_PIXELS = 2**28
_SIDEWAYS = (5, 6, 7, 8)  # orientations that swap height and width


class NotSupported(Exception):
    """An intact file is of a kind that is not read; says which, as "a TIFF of ..."."""


@dataclass(frozen=True)
class Header:
    """What a file's header says about one of its pictures.

    Attributes:
      format: "PNG", "JPEG", "BMP", "WebP", "TIFF", "PNM", "PFM" or "NPY".
      decoder: the library for the samples: "pillow", "imagecodecs", "tifffile" or
        "numpy".
      colour: "gray", "RGB", "palette", "CMYK" or "YCbCr", as stored, without alpha.
      bits: bits per sample as stored.
      size: (height, width) of the image that the decoder returns.
      orientation: EXIF orientation, 1..8, of the image that the decoder returns.
      samples: "unsigned", "signed" or "floating-point".
      extra: channels beside the colour, such as alpha.
      pages: number of pictures in the file.
      white: the level of white where it is not the largest one of `bits`.
    """

    format: str
    decoder: str
    colour: str
    bits: int
    size: tuple[int, int]
    orientation: int = 1
    samples: str = "unsigned"
    extra: int = 0
    pages: int = 1
    white: int | None = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) of the image after it is turned upright."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size

    @property
    def full(self) -> Range:
        """The levels of black and white in the decoded pixels."""
        if self.samples == "floating-point":
            return Range(0, 1)
        if self.samples == "signed":
            return Range(-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        if self.bits <= 8:
            return BYTES  # to which fewer bits are expanded
        return Range(0, self.white or 2**self.bits - 1)

    def check_size(self) -> None:
        """Checks that the picture has pixels, and not absurdly many.

        Raises:
          ValueError: it is otherwise.
        """
        height, width = self.size
        if not (height > 0 and width > 0):
            raise ValueError(f"its header says {width}x{height} pixels")
        if height * width > MOST_PIXELS:
            raise ValueError(
                f"its header says {width}x{height} pixels, of which at most "
                f"{MOST_PIXELS:,} are read"
            )
