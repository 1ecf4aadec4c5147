"""Archives that nobody vouches for: what is unpacked, and what is refused."""

import bz2
import errno
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest

from hkdnet_jax.common.archives import unpack
from hkdnet_jax.common.errors import UserError

FILES = {"set/ir/a.png": b"1" * 70_000, "set/vis/a.png": b"2", "readme": b""}
PLAIN = {"zip", "tar", "tar.gz", "tar.bz2", "tar.xz"}
COMPRESS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


def zipped(path, files, mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            out.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def tarred(path, files, kind=tarfile.REGTYPE, **about):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            for key, value in about.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(data))
    compress = COMPRESS.get(path.suffix[1:], bytes)
    path.write_bytes(compress(content.getvalue()))
    return path


def made(path, files):
    return (zipped if path.suffix == ".zip" else tarred)(path, files)


def unpacked(path, most_bytes=10**6, most_files=10):
    folder = path.parent / "folder"
    folder.mkdir()
    unpack(path, folder, most_bytes, most_files)
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(path, **limits):
    with pytest.raises(UserError) as caught:
        unpacked(path, **limits)
    said = str(caught.value)
    assert said.startswith(str(path)) and said.endswith(".") and "\n" not in said
    # Nothing is beside what was there.
    assert {p.name for p in path.parent.iterdir()} == {path.name, "folder"}
    return said


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_what_is_packed_is_unpacked(tmp_path, kind):
    assert unpacked(made(tmp_path / f"x.{kind}", FILES)) == FILES


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "name",
    [
        *("../a", "set/../../a", "/etc/a", "..\\a", "C:\\a", "C:a", "\\\\host\\a"),
        *("./..", "."),
    ],
)
def test_a_name_that_leads_out_is_refused(tmp_path, kind, name):
    path = made(tmp_path / f"x.{kind}", {"a": b"1", name: b"2"})
    assert "leads out of the archive" in refused(path)


def test_links_are_refused(tmp_path):
    link = zipped(tmp_path / "x.zip", {"a": b"/etc/passwd"}, stat.S_IFLNK | 0o777)
    assert "is a link" in refused(link)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(tmp_path, kind):
    path = tarred(tmp_path / "x.tar", {"a": b""}, kind, linkname="/etc/passwd")
    assert "is a link" in refused(path)


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_are_refused(tmp_path, kind):
    path = tarred(tmp_path / "x.tar", {"a": b""}, kind, devmajor=1, devminor=3)
    assert "no regular file" in refused(path)


def test_owners_and_permissions_are_not_taken_over(tmp_path):
    path = tarred(tmp_path / "x.tar", {"a": b"1"}, mode=0o6777, uid=0, mtime=1)
    unpacked(path)
    about = (tmp_path / "folder" / "a").stat()
    assert not about.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
    assert about.st_mtime > 1


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_a_bomb_is_refused(tmp_path, kind):
    path = made(tmp_path / f"x.{kind}", {"a": bytes(600), "b": bytes(500)})
    assert "more than the 0 MB" in refused(path, most_bytes=1000)
    written = sum(p.stat().st_size for p in (tmp_path / "folder").rglob("*"))
    assert written <= 1000


def test_a_zip_bomb_that_states_small_sizes_is_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a": bytes(10**5), "b": bytes(10**5)})
    lying = bytearray(path.read_bytes())
    # The sizes in the central directory, 24 bytes after each signature.
    start = lying.find(b"PK\x01\x02")
    while start >= 0:
        lying[start + 24 : start + 28] = struct.pack("<I", 1)
        start = lying.find(b"PK\x01\x02", start + 4)
    path.write_bytes(lying)
    refused(path, most_bytes=1000)
    written = sum(p.stat().st_size for p in (tmp_path / "folder").rglob("*"))
    assert written <= 1000


def test_a_header_of_a_tar_that_would_fill_the_memory_is_refused(tmp_path):
    """A comment of 64 MB, which compresses to 60 kB and is read at once."""
    path = tmp_path / "x.tar.gz"
    comment = {"comment": "0" * 2**26}
    tarred(path, {"a": b"1"}, pax_headers=comment)
    assert path.stat().st_size < 10**6
    assert "more than the 0 MB" in refused(path, most_bytes=1000)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_files_are_refused(tmp_path, kind):
    path = made(tmp_path / f"x.{kind}", {f"{n}": b"" for n in range(4)})
    assert "more than 3 files" in refused(path, most_files=3)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_is_not_replaced_by_a_later_one(tmp_path, kind):
    path = made(tmp_path / f"x.{kind}", {"a": b"1", "./a": b"2"})
    assert "'./a' twice" in refused(path)
    assert (tmp_path / "folder" / "a").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_that_is_a_folder_too_is_refused(tmp_path, kind):
    path = made(tmp_path / f"x.{kind}", {"a": b"1", "a/b/c": b"2"})
    assert "'a/b/c' twice, or as a file and as a folder" in refused(path)


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"b": b"2"})
    files = {"a": b"1", "inner.zip": inner.read_bytes()}
    path = tarred(tmp_path / "x.tar", files)
    assert zipfile.is_zipfile(path)
    assert unpacked(path) == files


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_full_disk_is_not_the_archive_s_fault(tmp_path, monkeypatch, kind):
    path = made(tmp_path / f"x.{kind}", FILES)
    opened = Path.open

    def full(self, mode="r", *args, **kwargs):
        if mode == "xb":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        unpacked(path)


def test_an_encrypted_archive_is_refused(tmp_path):
    path = zipped(tmp_path / "x.zip", {"a": b"1"})
    data = bytearray(path.read_bytes())
    # Bit 0 of the flags: 6 bytes into the file's header, 8 into that of the directory.
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"no archive", b"PK\x03\x04" + b"\0" * 40, b"\x1f\x8b" + b"\0" * 40],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    assert "cannot be read as a ZIP or tar archive" in refused(path)


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_a_cut_archive_is_refused(tmp_path, kind):
    path = made(tmp_path / f"x.{kind}", {"a": bytes(range(256)) * 40})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be read as a ZIP or tar archive" in refused(path)
