"""Infrared/visible pairs on disk: find them, split them, read them as gray images.

A data set is a folder with two sub-folders, ``ir/`` and ``vis/``, whose files have
equal stems.  Every image leaves this module as one luminance channel ``[H, W]`` in
the file's own depth (uint8 or uint16).
"""

import hashlib
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data_pipelines.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

# Naming the decoders keeps a mislabelled file away from Pillow's other ones (some of
# which start external programs).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_EXIF_ORIENTATION = 0x0112
_GRAY_MODES = ("1", "L", "LA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr")


@dataclass(frozen=True)
class Pair:
    """One scene: `name` is "stem" or "rootname/stem", `ir` and `vis` the two files."""

    name: str
    ir: Path
    vis: Path


def listing(items: Sequence[str], limit: int = 10) -> str:
    """Joins `items` with "; ", and counts those beyond the first `limit`."""
    more = len(items) - limit
    shown = "; ".join(items[:limit])
    return f"{shown}; and {more} more" if more > 0 else shown


# --- finding ------------------------------------------------------------------------


def match_folders(
    ir_dir: Path | str, vis_dir: Path | str
) -> tuple[list[Pair], list[str]]:
    """Pairs the images of two folders by file stem.

    Files that are not images by suffix, and hidden ones, are ignored.

    Returns:
      The pairs sorted by name (the stem), and one sentence for each image that is in
      no pair: no partner, or several files of one folder with one stem.

    Raises:
      UserError: a folder does not exist.
    """
    ir, ir_problems = _by_stem(Path(ir_dir))
    vis, vis_problems = _by_stem(Path(vis_dir))
    problems = ir_problems + vis_problems
    for here, there, folder in ((ir, vis, vis_dir), (vis, ir, ir_dir)):
        for stem in sorted(here.keys() - there.keys()):
            for path in here[stem]:
                problems.append(f"{path} has no partner '{stem}.*' in {folder}")
    pairs = [
        Pair(stem, ir[stem][0], vis[stem][0])
        for stem in sorted(ir.keys() & vis.keys())
        if len(ir[stem]) == len(vis[stem]) == 1
    ]
    return pairs, problems


def match_fused(
    folder: Path | str, pairs: Sequence[Pair]
) -> tuple[dict[str, Path], list[str]]:
    """Finds the fused image of each pair in a folder, by file stem.

    Returns:
      The file of each pair's name, and one sentence for each image that is no pair's,
      for each pair that has none, and for each stem used twice.

    Raises:
      UserError: the folder does not exist.
    """
    found, problems = _by_stem(Path(folder))
    names = {pair.name for pair in pairs}
    problems += [
        f"{path} belongs to no pair of infrared and visible images named '{stem}.*'"
        for stem, paths in found.items()
        if stem not in names
        for path in paths
    ]
    problems += [
        f"{folder} holds no '{pair.name}.*', the fused image of {pair.ir}"
        for pair in pairs
        if pair.name not in found
    ]
    single = {stem: paths[0] for stem, paths in found.items() if len(paths) == 1}
    return {stem: path for stem, path in single.items() if stem in names}, problems


def _by_stem(folder: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The images of `folder` by stem, and a sentence for each stem used twice."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images.")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    problems = [
        f"{folder} holds several images named '{stem}' "
        f"({', '.join(path.name for path in paths)}), keep one"
        for stem, paths in found.items()
        if len(paths) > 1
    ]
    return found, problems


def find_pairs(roots: Sequence[Path | str]) -> list[Pair]:
    """All pairs of several data sets, each a folder with ``ir/`` and ``vis/``.

    Names are "rootname/stem"; roots whose last parts are equal are told apart by as
    many parent folders as that takes ("msrs/train/0001", "llvip/train/0001").

    Raises:
      UserError: no root, a root given twice, without ``ir/`` or ``vis/``, without
        pairs, or with an image that has no partner.
    """
    if not roots:
        raise UserError("No data folder was given; name one that holds ir/ and vis/.")
    pairs, problems = [], []
    for root, name in zip(roots, _root_names(roots), strict=True):
        root = Path(root)
        if not ((root / "ir").is_dir() and (root / "vis").is_dir()):
            raise UserError(
                f"{root} is not a data folder; it must hold ir/ and vis/ with images "
                "of equal stems."
            )
        found, unpaired = match_folders(root / "ir", root / "vis")
        if not found and not unpaired:
            raise UserError(
                f"{root} holds no pairs; put images of equal stems "
                f"({', '.join(IMAGE_SUFFIXES)}) into its ir/ and vis/."
            )
        pairs += [replace(pair, name=f"{name}/{pair.name}") for pair in found]
        problems += unpaired
    if problems:
        raise UserError(
            "Every image needs exactly one partner of equal stem, so add it or "
            f"remove the image: {listing(problems)}."
        )
    return sorted(pairs, key=lambda pair: pair.name)


def _root_names(roots: Sequence[Path | str]) -> list[str]:
    """The shortest path tail of each root that no other root shares."""
    if len({os.path.realpath(root) for root in roots}) < len(roots):
        listed = ", ".join(str(root) for root in roots)
        raise UserError(f"A data folder is given twice in {listed}; name each once.")
    parts = [Path(os.path.abspath(root)).parts for root in roots]
    names = []
    for mine in parts:
        depth = 1
        while sum(other[-depth:] == mine[-depth:] for other in parts) > 1:
            depth += 1
        names.append("/".join(mine[-depth:]))
    return names


# --- splitting ----------------------------------------------------------------------


def read_split(path: Path | str) -> list[str]:
    """The names in a split file: one a line; blank lines and '#' comments skipped.

    Raises:
      UserError: the file cannot be read or names nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Split file {path} cannot be read: {error}.") from error
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"Split file {path} names no pair; write one name a line.")
    return names


def split_pairs(
    pairs: Sequence[Pair], train_split: str, val_split: str, val_fraction: float
) -> tuple[list[Pair], list[Pair]]:
    """Divides `pairs` into training and validation pairs, both in the given order.

    With both split files, each side is what its file names.  With one, the other side
    is the rest.  With none (empty strings), a hash of the stem decides, so a pair stays
    on its side when others are added or the folder moves; about `val_fraction` of the
    pairs are for validation, at least one of two or more unless the fraction is 0.

    Raises:
      UserError: a split file names a pair that is not there, or an ambiguous one, both
        files name the same pair, training would be empty, or the fraction is not in
        [0, 1).
    """
    if train_split or val_split:
        train = _named(pairs, train_split) if train_split else None
        val = _named(pairs, val_split) if val_split else None
        if train is None:
            train = set(pairs) - val
        elif val is None:
            val = set(pairs) - train
        both = sorted(pair.name for pair in train & val)
        if both:
            raise UserError(
                f"{train_split} and {val_split} both name {listing(both)}; keep each "
                "in one of them."
            )
    else:
        val = _hashed(pairs, val_fraction)
        train = set(pairs) - val
    if not train:
        raise UserError(
            f"No pair is left for training after {val_split or 'the split'}; add pairs "
            "or name fewer for validation."
        )
    return [p for p in pairs if p in train], [p for p in pairs if p in val]


def _stem(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _named(pairs: Sequence[Pair], path: str) -> set[Pair]:
    """The pairs that split file `path` names, by full name or by stem."""
    by_name: dict[str, list[Pair]] = {}
    for pair in pairs:
        for key in {pair.name, _stem(pair.name)}:
            by_name.setdefault(key, []).append(pair)
    names = read_split(path)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UserError(
            f"Split file {path} names pairs that are not in the data folders (names "
            f"have no suffix): {listing(unknown)}."
        )
    vague = [name for name in names if len(by_name[name]) > 1]
    if vague:
        raise UserError(
            f"Split file {path} has stems that several data folders hold, write "
            f"rootname/stem for them: {listing(vague)}."
        )
    return {by_name[name][0] for name in names}


def _hashed(pairs: Sequence[Pair], val_fraction: float) -> set[Pair]:
    """The validation pairs by a hash of the stem, a number in [0, 1)."""
    if not 0 <= val_fraction < 1:
        raise UserError(
            f"val_fraction is {val_fraction}; give a number from 0 to below 1."
        )

    def score(pair: Pair) -> float:
        digest = hashlib.sha256(_stem(pair.name).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    val = {pair for pair in pairs if score(pair) < val_fraction}
    if pairs and val_fraction > 0:
        # A handful of pairs can fall on one side; neither side may stay empty, and a
        # single pair is for training.
        ranked = sorted(pairs, key=lambda pair: (score(pair), pair.name))
        val = (val | {ranked[0]}) - {ranked[-1]}
    return val


# --- reading ------------------------------------------------------------------------


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Reads both images, see `read_gray`; UserError if their sizes differ."""
    ir, vis = read_gray(pair.ir), read_gray(pair.vis)
    check_sizes(pair, ir.shape, vis.shape)
    return ir, vis


def check_sizes(pair: Pair, ir: tuple[int, int], vis: tuple[int, int]) -> None:
    """UserError unless the (height, width) of both images are equal."""
    if ir != vis:
        raise UserError(
            f"{pair.ir} is {ir[1]}x{ir[0]} but {pair.vis} is {vis[1]}x{vis[0]}; "
            "crop or resize them to one registered size."
        )


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) as `read_gray` returns it, from the file's header alone.

    Raises:
      UserError: the header cannot be read.
    """
    try:
        with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            width, height = image.size
            # Asking a PNG without early EXIF data for it would decode the whole file;
            # a TIFF's size has its orientation applied already.
            if image.format in ("JPEG", "MPO") or "exif" in image.info:
                orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                if orientation in (5, 6, 7, 8):
                    width, height = height, width
    except Exception as error:
        raise _unreadable(path, error) from error
    return height, width


def read_gray(path: Path | str) -> np.ndarray:
    """Reads a PNG, JPEG, BMP or TIFF file as one luminance channel.

    Gray, RGB, RGBA (alpha ignored), palette and CMYK files; colour becomes BT.601 luma
    as MATLAB's rgb2gray, ``0.298936 R + 0.587043 G + 0.114021 B``, rounded.  EXIF
    orientation is applied.

    Returns:
      [H, W] uint8, or uint16 if the file holds 16 bits a channel.

    Raises:
      UserError: the file is missing or broken, or has another pixel format (such as
        floating point).
    """
    try:
        # Bytes, not the path: Pillow 13 memory-maps an uncompressed TIFF given by path,
        # and scrambles it if its orientation swaps width and height.
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if ";16" in _raw_mode(image) and image.mode[0] != "I":
                gray = _read_colour16(content, image.mode)
                image.load()
            else:
                gray = _to_gray(image)
            # After loading: only then is the EXIF data of every format complete, and
            # Pillow has turned a TIFF and taken its tag away.
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            mode = image.mode
    except Exception as error:
        raise _unreadable(path, error) from error
    if gray is None:
        raise UserError(
            f"{path} has the pixel format '{mode}'; save it as 8 or 16 bit gray or "
            "colour."
        )
    return np.ascontiguousarray(_upright(gray, orientation))


def to_uint8(image: np.ndarray) -> np.ndarray:
    """uint16 to uint8 by rounding x/257, so that 65535 becomes 255; uint8 unchanged."""
    if image.dtype == np.uint8:
        return image
    if image.dtype != np.uint16:
        raise TypeError(f"expected uint8 or uint16, got {image.dtype}")
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _unreadable(path: Path | str, error: Exception) -> UserError:
    # Pillow's decoders raise many types on broken files (OSError, SyntaxError,
    # ValueError, struct.error, IndexError ...), so callers catch them all.
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} does not exist.")
    detail = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        # Its own words name the object in memory that held the file's content.
        detail = f"it is none of {', '.join(_FORMATS)}"
    return UserError(
        f"{path} cannot be read as an image ({detail}); replace or remove it."
    )


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its samples, in Pillow's words, such as "RGB;16B"."""
    if not image.tile:
        return ""
    args = image.tile[0].args
    return str(args if isinstance(args, str) else args[0])


def _to_gray(image: Image.Image) -> np.ndarray | None:
    """[H, W] uint8 or uint16; None for a pixel format that is not supported."""
    # Alpha is ignored; left in, a transparent palette makes Pillow warn.
    image.info.pop("transparency", None)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if image.mode in _GRAY_MODES:
        return np.asarray(image.convert("L"))
    if image.mode in _COLOUR_MODES:
        return _luma(np.asarray(image.convert("RGB")))
    return None


def _luma(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma of [H, W, >=3] in the same dtype, exact in integers."""
    # MATLAB's coefficients, which published metric values rest on: the rounded ones of
    # the standard (0.299, 0.587, 0.114) change one pixel in two hundred by a level.
    red, green, blue = (rgb[..., i].astype(np.uint64) for i in range(3))
    millionths = 298936 * red + 587043 * green + 114021 * blue
    return ((millionths + 500_000) // 1_000_000).astype(rgb.dtype)


def _read_colour16(content: bytes, mode: str) -> np.ndarray:
    """Luma of a file with 16 bits a sample and several samples a pixel, uint16.

    Pillow keeps only the high byte of such samples.  So the file is decoded twice: as
    if samples were big-endian (";16B" yields the first byte of each) and as if they
    were little-endian (";16L" yields the second).
    """

    def decode(new_raw_mode: str) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if new_raw_mode == "RGBA":
                image._mode = "RGBA"
            image.tile = [
                tile._replace(
                    args=new_raw_mode
                    if isinstance(tile.args, str)
                    else (new_raw_mode, *tile.args[1:])
                )
                for tile in image.tile
            ]
            image.load()
            return np.asarray(image)

    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        bands, order = _raw_mode(image).split(";16")
    if bands == "LA":
        # Two big-endian 16-bit samples fill the four bytes of one RGBA pixel.
        pixels = decode("RGBA").astype(np.uint16)
        return (pixels[..., 0] << 8) | pixels[..., 1]
    # "RGBa" (premultiplied) would be divided by alpha byte by byte: read it as is.
    bands = "RGBA" if mode == "RGBA" else bands
    first = decode(f"{bands};16B").astype(np.uint16)
    second = decode(f"{bands};16L").astype(np.uint16)
    if order == "B" or (order == "N" and sys.byteorder == "big"):
        return _luma((first << 8) | second)
    return _luma((second << 8) | first)


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turns a stored [H, W] image as the EXIF orientation (1..8) says."""
    if orientation in (5, 6, 7, 8):
        image = image.T
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
