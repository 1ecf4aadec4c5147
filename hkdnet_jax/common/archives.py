"""Unpacks ZIP and tar archives of which nothing is trusted.

Neither names, which may lead out of the folder, nor the sizes that an archive states,
nor what kinds of files it holds.
"""

import bz2
import contextlib
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from hkdnet_jax.common.errors import UserError

_PIECE = 2**16  # bytes that are unpacked at once
# How compressed tar archives start, and what opens them.
_COMPRESSIONS = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    ValueError,
    OSError,
)


def unpack(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    """Unpacks the files of a ZIP archive, or of a tar archive, compressed or not.

    Owners, permissions and times are not taken over, and no file is replaced.  After an
    error the folder holds a part of the files.

    Args:
      archive: the file.
      folder: an empty folder.
      most_bytes: bytes that all files together may have.
      most_files: number of files that it may hold.

    Raises:
      UserError: it is no such archive, is damaged or encrypted, holds too much, a name
        that leads out of the folder, a name twice, a link or a device.
      OSError: a file cannot be read or written.
    """
    left = most_bytes
    try:
        # By its start: a tar archive may end with a ZIP archive that it holds.
        read = _zip_files if _start(archive).startswith(b"PK") else _tar_files
        for number, (name, source) in enumerate(read(archive, most_bytes), start=1):
            if number > most_files:
                raise UserError(
                    f"{archive} holds more than {most_files} files: unpack it by hand "
                    "if you trust it."
                )
            path = folder.joinpath(*member_parts(archive, name))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                while piece := source.read(_PIECE):
                    left -= len(piece)
                    if left < 0:
                        raise _too_large(archive, most_bytes)
                    file.write(piece)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{archive} holds {name!r} twice, or as a file and as a folder: pack it "
            "again."
        ) from error
    except (NotImplementedError, RuntimeError) as error:  # a compression, a password
        raise UserError(f"{archive} cannot be unpacked ({error}).") from error
    except _DAMAGED as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's, such as a full disk; decoders give no number
        raise UserError(
            f"{archive} cannot be read as a ZIP or tar archive ({error}): fetch it "
            "again."
        ) from error


def member_parts(archive: Path, name: str) -> tuple[str, ...]:
    """The parts of a relative path in an archive; backslashes separate them too.

    Raises:
      UserError: the name leads out of the archive, on this system or on another.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    outside = plain.is_absolute() or PureWindowsPath(name).drive
    if outside or ".." in plain.parts or not plain.parts or "\0" in name:
        raise UserError(
            f"{archive} holds {name!r}, which leads out of the archive: pack it again, "
            "with plain names."
        )
    return plain.parts


def no_link(archive: Path, name: str) -> UserError:
    """The error for a link, which may point to any file of this machine."""
    return UserError(
        f"{archive} holds {name!r}, which is a link: pack the file itself."
    )


def is_zip_link(member: zipfile.ZipInfo) -> bool:
    """Whether a member of a ZIP archive is a symbolic link."""
    return stat.S_ISLNK(member.external_attr >> 16)


def _too_large(archive: Path, most_bytes: int) -> UserError:
    return UserError(
        f"{archive} holds more than the {most_bytes / 1e6:.0f} MB that an archive of "
        "its size may hold: unpack it by hand if you trust it."
    )


def _zip_files(archive: Path, most_bytes: int) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(archive) as opened:
        members = [one for one in opened.infolist() if not one.is_dir()]
        if sum(one.file_size for one in members) > most_bytes:
            raise _too_large(archive, most_bytes)
        for member in members:
            if is_zip_link(member):
                raise no_link(archive, member.filename)
            with opened.open(member) as source:
                yield member.filename, source


def _tar_files(archive: Path, most_bytes: int) -> Iterator[tuple[str, BinaryIO]]:
    with (
        _decompressed(archive) as content,
        tarfile.open(fileobj=_Bounded(archive, content, most_bytes), mode="r|") as tar,
    ):
        for member in tar:
            if member.isdir():
                continue
            if member.issym() or member.islnk():
                raise no_link(archive, member.name)
            if not member.isfile():
                raise UserError(
                    f"{archive} holds {member.name!r}, which is no regular file: pack "
                    "only files."
                )
            if member.size > most_bytes:
                raise _too_large(archive, most_bytes)
            yield member.name, tar.extractfile(member)


def _start(archive: Path) -> bytes:
    with archive.open("rb") as raw:
        return raw.read(6)


@contextlib.contextmanager
def _decompressed(archive: Path) -> Iterator[BinaryIO]:
    start = _start(archive)
    fitting = [o for magic, o in _COMPRESSIONS.items() if start.startswith(magic)]
    with (fitting[0] if fitting else open)(archive, "rb") as content:
        yield content


class _Bounded:
    """A stream that ends with an error: headers of a tar archive are read at once."""

    def __init__(self, archive: Path, content: BinaryIO, most_bytes: int):
        # Headers and padding take 1 kB a file at most, as a rule; twice is ample.
        self._left = 2 * most_bytes + 2**20
        self._archive, self._content, self._most = archive, content, most_bytes

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise _too_large(self._archive, self._most)
        return self._content.read(size)
