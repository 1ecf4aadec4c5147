"""Matches infrared and visible files by name, and reads them as pairs."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES, read_gray
from hkdnet_jax.common.pair_names import (
    CONVENTIONS,
    FUSED_CONVENTIONS,
    NamePattern,
    composed,
)
from hkdnet_jax.common.paths import as_path, is_local

_STEM = NamePattern()


@dataclass(frozen=True)
class Pair:
    """The two files of one scene.

    Attributes:
      name: "stem" or "rootname/stem".
      ir: the infrared file.
      vis: the visible file.
      page: which page of both files, from 0; None for the first, whatever follows.
    """

    name: str
    ir: Path
    vis: Path
    page: int | None = None


@dataclass(frozen=True)
class Search:
    """How the files of a scene are recognised.

    Attributes:
      ir: pattern of infrared files; None for their stems.
      vis: pattern of visible files; None for their stems.
      recursive: whether folders in the folders are searched too.
    """

    ir: NamePattern | None = None
    vis: NamePattern | None = None
    recursive: bool = False


@dataclass
class Found:
    """The result of a search.

    Attributes:
      pairs: sorted by name; nested names have `/` between their parts.
      problems: one sentence for each file that is left out.
      notes: sentences on what was recognised without being asked for.
    """

    pairs: list[Pair]
    problems: list[str]
    notes: list[str] = field(default_factory=list)


def find_pairs(
    ir_dir: Path | str, vis_dir: Path | str, search: Search | None = None
) -> Found:
    """Pairs the images of two folders, or of one, by the scene that their names hold.

    Hidden files and files without an image suffix are ignored. Without patterns the
    scene is the stem; if that pairs nothing, the naming of known cameras is tried (see
    CONVENTIONS), and a note says so.

    Args:
      ir_dir: folder of infrared images.
      vis_dir: folder of visible images; with patterns, or names of a known camera, it
        may be the same folder.
      search: see `Search`; by default two folders are matched by stem.

    Raises:
      UserError: a folder does not exist or cannot be listed; or both are the same
        folder, and nothing tells its infrared from its visible files.
    """
    search = search or Search()
    ir, vis = (_list(as_path(x), search) for x in (ir_dir, vis_dir))
    same = ir.is_same_folder(vis)
    patterns = (search.ir or _STEM, search.vis or _STEM)
    found = (
        None if same and None in (search.ir, search.vis) else _pair(ir, vis, *patterns)
    )
    if search.ir is None and search.vis is None and not (found and found.pairs):
        known = [_by_convention(ir, vis, names) for names in CONVENTIONS]
        best = max(known, key=lambda one: len(one.pairs))
        found = best if best.pairs or not found else found
    if same and not found.pairs:
        raise UserError(
            f"{ir.folder} is both --ir and --vis, and nothing tells its infrared from "
            "its visible pictures: give two folders, or two patterns such as "
            "--ir-pattern '*_T.JPG' --vis-pattern '*_W.JPG'."
        )
    return found


def match_folders(
    ir_dir: Path | str, vis_dir: Path | str
) -> tuple[list[Pair], list[str]]:
    """Pairs the images of two folders by file stem alone.

    Hidden files and files without an image suffix are ignored.

    Returns:
      The pairs, sorted by name (the stem); and one sentence for each image without a
      partner and for each stem that several images of a folder share.

    Raises:
      UserError: a folder does not exist or cannot be listed.
    """
    ir, vis = (_list(as_path(folder), Search()) for folder in (ir_dir, vis_dir))
    found = _pair(ir, vis, _STEM, _STEM)
    return found.pairs, found.problems


def match_fused(
    folder: Path | str,
    pairs: Sequence[Pair],
    pattern: NamePattern | None = None,
) -> tuple[dict[str, Path], list[str]]:
    """Finds the fused image of each pair in a folder, by file stem or by a pattern.

    If no stem is that of a pair, names such as `a_fused.png` are recognised. Folders in
    the folder are searched if the pairs come from nested folders.

    Args:
      folder: the folder of one method's images.
      pairs: the pairs that are scored.
      pattern: pattern of the fused files; None for their stems.

    Returns:
      The fused file of each pair by name; and one sentence for each image that belongs
      to no pair, for each pair without an image, and for each stem that several images
      share.

    Raises:
      UserError: the folder does not exist or cannot be listed.
    """
    nested = any("/" in pair.name for pair in pairs)
    files = _list(as_path(folder), Search(ir=pattern, recursive=nested))
    names = {composed(pair.name): pair for pair in pairs}
    index = _index(files, pattern or _STEM)
    if pattern is None and not names.keys() & index.scenes.keys():
        known = [_index(files, NamePattern(text)) for text in FUSED_CONVENTIONS]
        best = max(known, key=lambda one: len(names.keys() & one.scenes.keys()))
        index = best if names.keys() & best.scenes.keys() else index
    problems = [*files.problems, *index.problems]
    problems += [
        f"{path} belongs to no pair of infrared and visible images named '{scene}.*'"
        for scene, paths in index.scenes.items()
        if scene not in names
        for path in paths
    ]
    problems += [
        f"{folder} holds no '{index.pattern.name(scene)}', the fused image of {pair.ir}"
        for scene, pair in names.items()
        if scene not in index.scenes
    ]
    single = {
        names[scene].name: paths[0]
        for scene, paths in index.scenes.items()
        if len(paths) == 1 and scene in names
    }
    return single, problems


@dataclass(frozen=True)
class _Files:
    """The files of a folder.

    Attributes:
      folder: the folder.
      images: relative paths of its images, sorted.
      others: relative paths of its other files.
      problems: a sentence for each folder in it that cannot be searched.
    """

    folder: Path
    images: list[PurePath]
    others: list[PurePath]
    problems: list[str]

    def is_same_folder(self, other: "_Files") -> bool:
        """Whether both are one folder, under whatever names."""
        if not (is_local(self.folder) and is_local(other.folder)):
            return self.folder == other.folder
        return self.folder.samefile(other.folder)


@dataclass(frozen=True)
class _Index:
    """The images of a folder by scene, as a pattern reads their names.

    Attributes:
      pattern: the pattern.
      scenes: scene -> its images; one, unless a sentence in `problems` complains.
      problems: a sentence for each scene that several images share.
    """

    pattern: NamePattern
    scenes: dict[str, list[Path]]
    problems: list[str]


def _list(folder: Path, search: Search) -> _Files:
    """Lists the files of a folder.

    Raises:
      UserError: the folder does not exist or cannot be listed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images.")
    depths = [x.depth for x in (search.ir, search.vis) if x is not None]
    problems: list[str] = []
    try:
        paths = list(_walk(folder, max(depths, default=1), search.recursive, problems))
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}): change its permissions, or "
            "give another folder."
        ) from error
    paths = sorted(path for path in paths if not path.name.startswith("."))
    images = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in paths if path.suffix.lower() not in IMAGE_SUFFIXES]
    return _Files(folder, images, others, problems)


def _walk(
    folder: Path, depth: int, recursive: bool, problems: list[str]
) -> Iterable[PurePath]:
    """Yields relative paths of files, at most `depth` parts long unless recursive.

    A link to a folder is not entered, because it may lead out of the folder, or in a
    circle; it and every folder that cannot be listed become a sentence.
    """
    if not is_local(folder):
        yield from (PurePath(path.name) for path in folder.iterdir())
        return
    waiting = [PurePath()]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(folder / here), key=lambda entry: entry.name)
        except OSError as error:
            if not here.parts:
                raise
            problems.append(
                f"{folder / here} cannot be listed ({error.strerror}): change its "
                "permissions, or move it away"
            )
            continue
        for entry in entries:
            path = here / entry.name
            if not entry.is_dir():
                yield path
            elif entry.name.startswith(".") or not (
                recursive or len(path.parts) < depth
            ):
                continue
            elif entry.is_symlink():
                problems.append(
                    f"{folder / path} is a link to a folder, which is not followed: "
                    "give that folder by itself"
                )
            else:
                waiting.append(path)


def _index(files: _Files, pattern: NamePattern) -> _Index:
    found: dict[str, list[Path]] = {}
    for path in files.images:
        scene = pattern.scene(path)
        if scene is not None:
            found.setdefault(scene, []).append(files.folder / path)
    problems = [
        f"{files.folder} holds several images named '{scene}' "
        f"({', '.join(path.name for path in paths)}): keep one"
        for scene, paths in found.items()
        if len(paths) > 1
    ]
    return _Index(pattern, found, problems)


def _pair(
    ir: _Files, vis: _Files, ir_pattern: NamePattern, vis_pattern: NamePattern
) -> Found:
    """Pairs files by scene; each file that finds no partner is a sentence."""
    sides = _index(ir, ir_pattern), _index(vis, vis_pattern)
    problems = [*ir.problems, *(vis.problems if ir.folder != vis.folder else ())]
    problems += sides[0].problems + sides[1].problems
    for own, other, files in ((*sides, vis), (*sides[::-1], ir)):
        for scene in sorted(own.scenes.keys() - other.scenes.keys()):
            expected = other.pattern.name(scene)
            hint = _other_format(files, scene, other.pattern)
            problems += [
                f"{path} has no partner '{expected}' in {files.folder}{hint}"
                for path in own.scenes[scene]
            ]
    ir_scenes, vis_scenes = (side.scenes for side in sides)
    pairs = [
        Pair(scene, ir_scenes[scene][0], vis_scenes[scene][0])
        for scene in sorted(ir_scenes.keys() & vis_scenes.keys())
        if len(ir_scenes[scene]) == len(vis_scenes[scene]) == 1
    ]
    twice = [pair for pair in pairs if pair.ir == pair.vis]
    problems += [f"{pair.ir} fits both patterns: change one of them" for pair in twice]
    return Found([pair for pair in pairs if pair not in twice], problems)


def _other_format(files: _Files, scene: str, pattern: NamePattern) -> str:
    """Names a file of the scene that is no image by its suffix; empty if none is."""
    if not pattern.stem:
        return ""
    near = [path.name for path in files.others if pattern.scene(path) == scene]
    if not near:
        return ""
    return f" ({near[0]} is there, but such files are not read: save it as PNG or TIFF)"


def _by_convention(ir: _Files, vis: _Files, names: tuple[str, str]) -> Found:
    """Pairs by one of CONVENTIONS; says so if it pairs anything."""
    found = _pair(ir, vis, *(NamePattern(text) for text in names))
    if found.pairs:
        images = {files.folder / path for files in (ir, vis) for path in files.images}
        others = len(images) - 2 * len(found.pairs) - len(found.problems)
        rest = f"; {others} other pictures are left out" if others > 0 else ""
        found.notes.append(
            f"{len(found.pairs)} pairs are recognised by their names: '{names[0]}.*' "
            f"is infrared, '{names[1]}.*' visible{rest}."
        )
    return found


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Reads the infrared and the visible image of a pair, each by `read_gray`.

    Raises:
      UserError: an image cannot be read, or the sizes differ.
    """
    ir, vis = read_gray(pair.ir), read_gray(pair.vis)
    check_sizes(pair, ir.shape, vis.shape)
    return ir, vis


def check_sizes(pair: Pair, ir: tuple[int, int], vis: tuple[int, int]) -> None:
    """Checks that both images have the same (height, width).

    Raises:
      UserError: the sizes differ.
    """
    if ir != vis:
        raise UserError(
            f"{pair.ir} is {ir[1]}x{ir[0]} but {pair.vis} is {vis[1]}x{vis[0]}; "
            "register them, and crop or resize them to the same size."
        )
