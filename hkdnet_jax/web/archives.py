"""Archives that visitors send and get: pairs go in, fused pictures come out.

Nothing of an archive is trusted: neither names, which may lead out of the folder, nor
the sizes that it states.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hkdnet_jax.common import archives
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.web.limits import MEGABYTE

_FILES_PER_PAIR = 20  # an archive may hold this many files for each pair it may hold
_PIECE = 2**16  # bytes that are unpacked at once
_SIDES = ("ir", "vis")


def unpack(archive: Path, folder: Path, unpacked: int, pairs: int) -> None:
    """Unpacks the pictures of a ZIP archive; all other files are left out.

    Args:
      archive: the file.
      folder: an empty folder.
      unpacked: bytes that all files together may have.
      pairs: pairs that it may hold.

    Raises:
      UserError: it is no ZIP archive, is damaged, encrypted or too large, or holds a
        name that leads out of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
            if len(members) > _FILES_PER_PAIR * pairs:
                raise UserError(
                    f"{archive} holds {len(members)} files, far more than the {pairs} "
                    "pairs that this page takes: split it."
                )
            targets = {m: _target(archive, m, folder) for m in members}
            if not any(targets.values()):
                raise UserError(
                    f"{archive} holds no pictures: pack a folder ir and a folder vis."
                )
            left = unpacked
            for member, path in targets.items():
                if path is not None:
                    left -= _unpack(archive, opened, member, path, left, unpacked)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise UserError(
            f"{archive} cannot be read as a ZIP archive ({error}): pack it again."
        ) from error
    except NotImplementedError as error:  # a compression that Python lacks
        raise UserError(
            f"{archive} is compressed in a way that is not read ({error}): pack it as "
            "an ordinary ZIP archive."
        ) from error


def _target(archive: Path, member: zipfile.ZipInfo, folder: Path) -> Path | None:
    """Where a file of an archive goes; None if it is left out.

    Raises:
      UserError: its name leads out of the folder, or it is encrypted or a link.
    """
    name = PurePosixPath(*archives.member_parts(archive, member.filename))
    if archives.is_zip_link(member):
        raise archives.no_link(archive, member.filename)
    if name.suffix.lower() not in IMAGE_SUFFIXES or "__MACOSX" in name.parts:
        return None
    if member.flag_bits & 1:
        raise UserError(f"{archive} is encrypted: pack it without a password.")
    return folder.joinpath(*name.parts)


def _unpack(
    archive: Path,
    opened: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    path: Path,
    left: int,
    unpacked: int,
) -> int:
    """Unpacks one file; returns its number of bytes.

    Raises:
      UserError: it has more than `left` bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(member) as source, path.open("wb") as file:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > left:
                raise UserError(
                    f"{archive} holds more than the {unpacked / MEGABYTE:g} MB of "
                    "pictures that this page takes: split it."
                )
            file.write(piece)
    return size


def sides(folder: Path) -> tuple[Path, Path]:
    """The folders of infrared and visible pictures among what was unpacked.

    They are called `ir` and `vis`, in whatever folder; without them, all pictures are
    in one folder, and their names tell them apart.
    """
    every = [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]
    for parent in every:
        if all((parent / side).is_dir() for side in _SIDES):
            return parent / _SIDES[0], parent / _SIDES[1]
    with_files = [p for p in every if any(q.is_file() for q in p.iterdir())]
    only = with_files[0] if with_files else folder
    return only, only


def pack(files: Mapping[str, bytes]) -> bytes:
    """Packs files, by their names, into a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
