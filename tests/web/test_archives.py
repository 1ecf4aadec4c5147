"""Archives from strangers: what is unpacked, and what is refused."""

import io
import stat
import struct
import zipfile

import pytest

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.web.archives import pack, sides, unpack


def archive(tmp_path, files, change=lambda info: None):
    path = tmp_path / "pairs.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            out.writestr(info, content)
    return path


def unpacked(tmp_path, path, limit=1000, pairs=2):
    folder = tmp_path / "folder"
    folder.mkdir()
    unpack(path, folder, limit, pairs)
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(tmp_path, path, **limits):
    with pytest.raises(UserError) as caught:
        unpacked(tmp_path, path, **limits)
    said = str(caught.value)
    assert said.startswith(str(path)) and said.endswith(".") and "\n" not in said
    # Nothing is beside what was there.
    assert {p.name for p in tmp_path.iterdir()} == {"pairs.zip", "folder"}
    return said


def test_pictures_are_unpacked_and_nothing_else(tmp_path):
    files = {
        "set/ir/a.PNG": b"1",
        "set\\vis\\a.png": b"2",
        "set/readme.txt": b"3",
        "__MACOSX/set/ir/._a.png": b"4",
        "run.sh": b"5",
        "empty/": b"",
    }
    found = unpacked(tmp_path, archive(tmp_path, files))
    assert found == {"set/ir/a.PNG": b"1", "set/vis/a.png": b"2"}


@pytest.mark.parametrize(
    "name",
    ["../a.png", "ir/../../a.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "C:a.png"],
)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    said = refused(tmp_path, archive(tmp_path, {"ir/a.png": b"1", name: b"2"}))
    assert "leads out of the archive" in said


def test_a_link_is_refused(tmp_path):
    def link(info):
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    path = archive(tmp_path, {"ir/a.png": b"/etc/passwd"}, link)
    assert "is a link" in refused(tmp_path, path)


def test_a_bomb_is_refused_whatever_size_it_states(tmp_path):
    path = archive(tmp_path, {"ir/a.png": b"1" * 600, "vis/a.png": b"1" * 500})
    assert "MB of pictures that this page takes: split it" in refused(tmp_path, path)
    lying = bytearray(path.read_bytes())
    # The sizes in the central directory, 24 bytes after each signature.
    start = lying.find(b"PK\x01\x02")
    while start >= 0:
        lying[start + 24 : start + 28] = struct.pack("<I", 1)
        start = lying.find(b"PK\x01\x02", start + 4)
    path.write_bytes(lying)
    (tmp_path / "folder" / "ir" / "a.png").unlink()
    folder = tmp_path / "folder2"
    folder.mkdir()
    with pytest.raises(UserError):
        unpack(path, folder, 1000, 2)
    assert sum(p.stat().st_size for p in folder.rglob("*.png")) <= 1000


def test_too_many_files_are_refused(tmp_path):
    path = archive(tmp_path, {f"ir/{n}.png": b"" for n in range(41)})
    assert "holds 41 files" in refused(tmp_path, path)


def test_an_encrypted_archive_is_refused(tmp_path):
    path = archive(tmp_path, {"ir/a.png": b"1"})
    data = bytearray(path.read_bytes())
    # Bit 0 of the flags: 6 bytes into the file's header, 8 into that of the directory.
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted" in refused(tmp_path, path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + b"\0" * 40])
def test_what_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "pairs.zip"
    path.write_bytes(content)
    assert "cannot be read as a ZIP archive" in refused(tmp_path, path)


def test_a_damaged_file_in_an_archive_is_refused(tmp_path):
    path = archive(tmp_path, {"ir/a.png": bytes(range(200))})
    data = bytearray(path.read_bytes())
    data[60:64] = b"oops"
    path.write_bytes(data)
    with pytest.raises(UserError, match="ZIP archive"):
        unpacked(tmp_path, path)


def test_an_unknown_compression_is_refused(tmp_path):
    path = archive(tmp_path, {"ir/a.png": b"1"})
    data = bytearray(path.read_bytes())
    data[8:10] = data[data.find(b"PK\x01\x02") + 10 :][:2] = b"\x63\0"
    start = data.find(b"PK\x01\x02")
    data[start + 10 : start + 12] = b"\x63\0"
    path.write_bytes(data)
    assert "compressed in a way" in refused(tmp_path, path)


def test_the_folders_of_the_two_sides(tmp_path):
    for name in ("set/deep/ir", "set/deep/vis", "set/other"):
        (tmp_path / name).mkdir(parents=True)
    deep = tmp_path / "set" / "deep"
    assert sides(tmp_path) == (deep / "ir", deep / "vis")


def test_one_folder_for_both_sides(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a_T.jpg").touch()
    assert sides(tmp_path) == (folder, folder)
    (folder / "a_T.jpg").unlink()
    assert sides(tmp_path) == (tmp_path, tmp_path)


def test_what_is_packed_can_be_unpacked():
    files = {"a.png": b"1", "folder/b.png": b"2"}
    with zipfile.ZipFile(io.BytesIO(pack(files))) as opened:
        assert {n: opened.read(n) for n in opened.namelist()} == files
