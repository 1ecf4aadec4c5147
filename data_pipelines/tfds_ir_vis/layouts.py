"""Finds named pairs in unpacked archives; needs only pathlib, not tfds.

Each function takes the folder in which a data set was unpacked, finds the data set in
it or a few levels below it, and returns its pairs by split.  A pair's name is the file
stem that it gets on export, so it is unique within the data set and has no "/".  Each
function raises `LayoutMissing` if the folder does not hold the data set.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Pair, match_folders

# Archives are unpacked as NAME/, NAME-commit/ or NAME/NAME/.
_SEARCH_DEPTH = 3


class LayoutMissing(UserError):
    """The folder does not hold the data set at all."""


@dataclass(frozen=True)
class Layout:
    """The pairs by split, and one sentence for each image without a partner."""

    splits: dict[str, list[Pair]]
    problems: list[str] = field(default_factory=list)


def two_folders(root: Path, splits: Mapping[str, tuple[str, str]]) -> Layout:
    """Finds splits that are two folders with the same stems each.

    Args:
      root: folder in which the archive was unpacked.
      splits: split name -> (ir folder, vis folder), relative to a common folder;
        upper and lower case are not distinguished.

    Raises:
      LayoutMissing: a folder is missing.
    """
    wanted = [folder for pair in splits.values() for folder in pair]
    base = _locate(root, wanted)
    if base is None:
        raise _missing(root, f"the folders {', '.join(wanted)}")
    found, problems = {}, []
    for split, (ir, vis) in splits.items():
        found[split], unpaired = match_folders(_below(base, ir), _below(base, vis))
        problems += unpaired
    return Layout(found, problems)


def m3fd(root: Path) -> Layout:
    """M3FD_Detection (split train) and M3FD_Fusion (test), one of which may be absent.

    The stems of both archives are plain numbers, so names start with the archive's.
    """
    splits, problems = {}, []
    for split, archive in (("train", "M3FD_Detection"), ("test", "M3FD_Fusion")):
        folders = (f"{archive}/Ir", f"{archive}/Vis")
        if _locate(root, folders) is None:
            continue
        part = two_folders(root, {split: folders})
        splits[split] = [
            replace(pair, name=f"{archive}_{pair.name}") for pair in part.splits[split]
        ]
        problems += part.problems
    if not splits:
        raise _missing(
            root, "M3FD_Detection/ or M3FD_Fusion/ with the folders Ir and Vis"
        )
    return Layout(splits, problems)


def kaist(root: Path) -> Layout:
    """KAIST: setXX/VXXX/{lwir,visible}; sets 00-05 are train, 06-11 test."""
    splits: dict[str, list[Pair]] = {"train": [], "test": []}
    problems = []
    for folder in _folders_holding(root, "lwir", "visible"):
        number = re.fullmatch(r"set(\d\d)", folder.parent.name)
        if not number:
            continue
        pairs, unpaired = match_folders(folder / "lwir", folder / "visible")
        split = "train" if int(number[1]) < 6 else "test"
        prefix = f"{folder.parent.name}_{folder.name}"
        splits[split] += [replace(p, name=f"{prefix}_{p.name}") for p in pairs]
        problems += unpaired
    splits = {split: pairs for split, pairs in splits.items() if pairs}
    if not splits:
        raise _missing(root, "folders setXX/VXXX with lwir/ and visible/ in each")
    return Layout(splits, problems)


def vlirvdif(root: Path) -> Layout:
    """VLIRVDIF: frames of videos, VIDEO/IR and VIDEO/VIS, paired by their numbers.

    A file test.txt beside the folders of the videos chooses frames, VIDEO_NUMBER with
    four digits or more, one per line; without it all frames are taken.
    """
    folders = [f for f in _folders_holding(root, "IR", "VIS") if f != Path(root)]
    if not folders:
        raise _missing(root, "folders VIDEO with IR/ and VIS/ in each")
    frames, problems = [], []
    for folder in folders:
        frames += _numbered_frames(folder.name, folder / "IR", folder / "VIS", problems)
    chosen = folders[0].parent / "test.txt"
    if chosen.is_file():
        names = chosen.read_text(encoding="utf-8").split()
        found = {pair.name: pair for pair in frames}
        problems += [
            f"{chosen} names '{name}', of which there is no pair"
            for name in names
            if name not in found
        ]
        frames = [found[name] for name in names if name in found]
    return Layout({"test": frames}, problems)


def flir_aligned(root: Path) -> Layout:
    """The aligned FLIR ADAS release: one folder of images and two lists of stems."""
    base = _locate(root, ["JPEGImages"])
    lists = {}
    for split, file in (
        ("train", "align_train.txt"),
        ("validation", "align_validation.txt"),
    ):
        candidates = [base / file, base / "ImageSets" / "Main" / file] if base else []
        lists[split] = next((path for path in candidates if path.is_file()), None)
    if not all(lists.values()):
        raise _missing(
            root,
            "JPEGImages/ with FLIR_*_RGB.jpg and FLIR_*_PreviewData.jpeg beside "
            "align_train.txt and align_validation.txt (the aligned release, not "
            "FLIR's own archives, whose two cameras are not registered)",
        )
    splits, problems = {}, []
    for split, path in lists.items():
        splits[split] = []
        for line in path.read_text(encoding="utf-8").split():
            stem = line.removesuffix("_PreviewData").removesuffix("_RGB")
            ir = base / "JPEGImages" / f"{stem}_PreviewData.jpeg"
            vis = base / "JPEGImages" / f"{stem}_RGB.jpg"
            absent = [file for file in (ir, vis) if not file.is_file()]
            if absent:
                problems.append(f"{path} names '{line}' but {absent[0]} is missing")
            else:
                splits[split].append(Pair(stem, ir, vis))
    return Layout(splits, problems)


# --- TNO ----------------------------------------------------------------------------

_TNO_CAMERAS = ("Athena_images", "DHV_images", "FEL_images", "Triclobs_images")
_TNO_SEQUENCES = (("thermal", "dhv"), ("rad", "dhv"), ("thermal", "visual"))
_TNO_ROLES = {"lwir": "ir", "ir": "ir", "vis": "vis", "nir": "nir", "ii": "nir"}


def tno(root: Path) -> Layout:
    """TNO: long-wave IR and visible; scenes (split test) and video frames (sequences).

    Each of the four cameras has its own naming.  Scenes without a long-wave image (only
    near infrared or an intensifier) are not thermal pairs and are skipped.
    """
    base = next(
        (f for f in _walk(root) if any((f / cam).is_dir() for cam in _TNO_CAMERAS)),
        None,
    )
    if base is None:
        raise _missing(root, f"one of the folders {', '.join(_TNO_CAMERAS)}")
    scenes, frames, problems = [], [], []
    for folder in sorted(Path(entry) for entry, _, _ in os.walk(base)):
        name = str(folder.relative_to(base)).replace("_images", "").replace(os.sep, "_")
        for ir, vis in _TNO_SEQUENCES:
            if (folder / ir).is_dir() and (folder / vis).is_dir():
                frames += _numbered_frames(name, folder / ir, folder / vis, problems)
        roles: dict[str, list[Path]] = {"ir": [], "vis": []}
        for file in _images(folder):
            roles.setdefault(_tno_role(file.stem), []).append(file)
        if len(roles["ir"]) == len(roles["vis"]) == 1:
            scenes.append(Pair(name, roles["ir"][0], roles["vis"][0]))
        elif roles["ir"]:
            problems.append(
                f"{folder} has {len(roles['ir'])} thermal and {len(roles['vis'])} "
                "visible images where one of each is expected"
            )
    splits = {"test": scenes, "sequences": frames}
    return Layout({split: pairs for split, pairs in splits.items() if pairs}, problems)


def _tno_role(stem: str) -> str:
    """The role, "ir", "vis" or "nir", that the first telling word names; "" if none."""
    # Two Athena scenes are named differently: APC_2 numbers its cameras, and the
    # visible image of the bunker has no prefix (its _r is the red channel).
    if re.match(r"[12]_fk_", stem):
        return "ir" if stem[0] == "2" else "vis"
    if stem.lower() == "bunker_r":
        return "vis"
    words = re.findall("[a-z]+", stem.lower())
    return next((_TNO_ROLES[word] for word in words if word in _TNO_ROLES), "")


def _numbered_frames(
    name: str, ir_dir: Path, vis_dir: Path, problems: list[str]
) -> list[Pair]:
    """Frames of one sequence, paired by the number in the stem."""

    def by_number(folder: Path) -> dict[int, Path]:
        found = {}
        for file in _images(folder):
            number = re.search(r"\d+", file.stem)
            if number:
                found[int(number[0])] = file
        return found

    ir, vis = by_number(ir_dir), by_number(vis_dir)
    for number in sorted(ir.keys() ^ vis.keys()):
        file = ir.get(number) or vis[number]
        problems.append(f"{file} has no partner with number {number}")
    return [
        Pair(f"{name}_{number:04d}", ir[number], vis[number])
        for number in sorted(ir.keys() & vis.keys())
    ]


# --- folders ------------------------------------------------------------------------


def _missing(root: Path, expected: str) -> LayoutMissing:
    return LayoutMissing(
        f"{root} does not hold the data set: expected {expected}, at most "
        f"{_SEARCH_DEPTH} folders deep."
    )


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def _walk(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, the shallow ones first."""
    level = [Path(root)] if Path(root).is_dir() else []
    for _ in range(_SEARCH_DEPTH + 1):
        yield from level
        level = [
            sub
            for folder in level
            for sub in sorted(folder.iterdir())
            if sub.is_dir() and not sub.name.startswith(".")
        ]


def _below(folder: Path, relative: str) -> Path | None:
    """The folder `relative` ("a/b") of `folder`, ignoring case, or None."""
    for part in relative.split("/"):
        matches = [
            sub
            for sub in sorted(folder.iterdir())
            if sub.name.lower() == part.lower() and sub.is_dir()
        ]
        if not matches:
            return None
        folder = matches[0]
    return folder


def _locate(root: Path, wanted: list[str] | tuple[str, ...]) -> Path | None:
    """The shallowest folder that has all of the `wanted` folders, or None."""
    for folder in _walk(root):
        if all(_below(folder, relative) for relative in wanted):
            return folder
    return None


def _folders_holding(root: Path, *names: str) -> list[Path]:
    """All folders below `root` that have sub-folders of the given names."""
    found = []
    for entry, folders, _ in os.walk(root):
        if set(names) <= set(folders):
            found.append(Path(entry))
            folders.clear()
    return sorted(found)
