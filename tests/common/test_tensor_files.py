"""Files of named arrays: bounded, and nothing in them is run."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from hkdnet_jax.common import tensor_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.tensor_files import read_npz, read_safetensors
from hkdnet_jax.model_files import file_format

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.int8(3)[None]}


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    content.seek(0)
    return content


def check(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(ARRAYS, file, {"about": "this"})
    metadata, arrays = read_safetensors(file)
    check(arrays)
    assert metadata == {"about": "this"}
    check(read_npz(npz(**ARRAYS)))


@pytest.mark.parametrize("stated", [4 * 2**20 + 1, 10**8, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_states_a_huge_size_is_refused(tmp_path, stated):
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", stated) + b"{}")
    with pytest.raises(ValueError, match=f"its header is of {stated} bytes"):
        read_safetensors(file)


def test_a_huge_header_is_not_parsed(tmp_path):
    """A valid file, all of it header: 5 MB of tensors without elements."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"{number:06}": entry for number in range(75_000)}).encode()
    assert 4 * 2**20 < len(header) < 10**7
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    with safetensors.safe_open(file, framework="np") as opened:
        assert len(opened.keys()) == 75_000
    with pytest.raises(UserError, match=r"model\.safetensors is damaged.*its header"):
        file_format.load_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0", struct.pack("<Q", 40) + b"{}"])
def test_a_cut_header_is_refused(tmp_path, content):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    with pytest.raises(safetensors.SafetensorError):
        read_safetensors(file)


def test_tensors_that_share_bytes_or_end_beyond_the_file_are_refused(tmp_path):
    def write(**spans):
        header = {
            name: {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
            for name, (start, end) in spans.items()
        }
        text = json.dumps(header).encode()
        file = tmp_path / "a.safetensors"
        file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
        return file

    assert read_safetensors(write(a=(0, 4), b=(4, 8)))[1]["b"].shape == (4,)
    for spans in ({"a": (0, 8), "b": (0, 8)}, {"a": (0, 9)}, {"a": (0, 2**40)}):
        with pytest.raises(safetensors.SafetensorError):
            read_safetensors(write(**spans))


def test_a_pickle_in_an_npz_is_refused():
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(npz(a=np.array([{}], object)))


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    content = io.BytesIO()
    np.savez_compressed(content, a=np.zeros(10**6, np.uint8))
    assert len(content.getvalue()) < 5000
    monkeypatch.setattr(tensor_files, "MOST_NPZ_BYTES", 10**5)
    monkeypatch.setattr(np.lib.npyio, "NpzFile", None)
    with pytest.raises(ValueError, match=r"arrays take 1000\d+ bytes, more than"):
        read_npz(content)


@pytest.mark.parametrize("count", [10**9, 10**15, 10**18])
def test_an_array_that_states_more_elements_than_it_has_is_refused(count):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        array = io.BytesIO()
        header = {"descr": "<f4", "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(array, header)
        archive.writestr("a.npy", array.getvalue() + bytes(8))
    with pytest.raises(ValueError, match=r"fit in memory|EOF|[Mm]aximum|too"):
        read_npz(content)
