"""Which part of a file's name is the scene's: by a pattern, or by the stem.

A scene is the same in two names that differ only in how Unicode composes a letter.
"""

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePath

from hkdnet_jax.common.errors import UserError

# How cameras and data sets tell the two pictures of a scene apart, as patterns of the
# stem: the infrared one, then the visible one.
CONVENTIONS = (
    ("*_T", "*_W"),  # DJI: thermal and wide camera
    ("*_T", "*_V"),  # DJI, Autel: thermal and visible
    ("*_T", "*_Z"),  # DJI: thermal and zoom camera
    ("*_PreviewData", "*_RGB"),  # FLIR ADAS
    ("*_ir", "*_vis"),
    ("*_ir", "*_vi"),
    ("*_ir", "*_rgb"),
    ("*_thermal", "*_visible"),
    ("*_thermal", "*_rgb"),
    ("*_lwir", "*_rgb"),
    ("*-ir", "*-vis"),
    ("ir_*", "vis_*"),
    ("ir*", "vis*"),
)
# The same for a method's pictures.
FUSED_CONVENTIONS = ("*_fused", "fused_*", "*-fused", "*_fusion", "*_F")


@dataclass(frozen=True)
class NamePattern:
    """A pattern with one `*`, which stands for the scene's name.

    Attributes:
      text: the pattern, such as `*_T.JPG`, or `*/ir.png` for folders that name scenes.
      stem: whether the pattern is one of the stem, and upper and lower case are alike.
    """

    text: str = "*"
    stem: bool = True

    @property
    def depth(self) -> int:
        """Number of path parts that the pattern describes."""
        return self.text.count("/") + 1

    def scene(self, path: PurePath) -> str | None:
        """The scene in a path, or None if the pattern does not fit.

        Args:
          path: relative to the folder that was searched.

        Returns:
          The text that `*` stands for, after the folders above the pattern, joined by
          `/`; letters are composed, so that equal scenes are equal.
        """
        parts = list(path.parts)
        if self.stem:
            parts[-1] = path.stem
        above, own = parts[: -self.depth], "/".join(parts[-self.depth :])
        # A pattern's own letters may be written in either form.
        before, after = map(re.escape, composed(self.text).split("*"))
        flags = re.IGNORECASE if self.stem else 0
        found = re.fullmatch(f"{before}([^/]+){after}", composed(own), flags)
        return composed("/".join([*above, found[1]])) if found else None

    def name(self, scene: str) -> str:
        """The name, or if `stem` the name without suffix, of a scene's file."""
        above, slash, own = scene.rpartition("/")
        return above + slash + self.text.replace("*", own) + (".*" if self.stem else "")


def composed(text: str) -> str:
    """Text with composed letters (Unicode's form NFC); undecodable bytes stay."""
    return unicodedata.normalize("NFC", text)


def read_pattern(flag: str, text: str | None) -> NamePattern | None:
    """Checks a pattern that a user gives; None stays None.

    Args:
      flag: the flag that gave it, for the message.
      text: such as `*_T.JPG`.

    Raises:
      UserError: the pattern has not exactly one `*`.
    """
    if text is None:
        return None
    text = text.replace(os.sep, "/")
    if text.count("*") != 1 or text.startswith("/"):
        raise UserError(
            f"{flag} {text!r} must have one *, which stands for the name of the scene, "
            "such as '*_T.JPG': write it so, in quotes."
        )
    return NamePattern(text, stem=False)
