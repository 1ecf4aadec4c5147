"""Packed data sets: what is written is read back, and damage is one sentence."""

import json
import pickle

import numpy as np
import pytest
from etils import epath

from data_pipelines import packed
from data_pipelines.loader import PairSource
from data_pipelines.pairs import find_pairs
from hkdnet_jax.common.errors import UserError

SIZES = {"a": (9, 12), "b": (16, 8), "c": (1, 1)}


@pytest.fixture
def images():
    rng = np.random.default_rng(5)
    return {
        name: tuple(rng.integers(0, 256, size, np.uint8) for _ in range(2))
        for name, size in SIZES.items()
    }


@pytest.fixture
def folder(tmp_path, images):
    (tmp_path / "camera").mkdir()
    packed.write(tmp_path / "camera", list(SIZES.items()), images.values())
    return tmp_path / "camera"


def test_what_is_written_is_read_back(folder, images):
    pairs = find_pairs([folder])
    assert [pair.name for pair in pairs] == ["camera/a", "camera/b", "camera/c"]
    for pair, (name, size) in zip(pairs, SIZES.items(), strict=True):
        assert pair.size() == size
        for read, written in zip(pair.read(), images[name], strict=True):
            np.testing.assert_array_equal(read, written)


def test_the_file_is_an_ordinary_array(folder, images):
    pixels = np.load(folder / "pixels.npy")
    expected = [x.ravel() for pair in images.values() for x in pair]
    np.testing.assert_array_equal(pixels, np.concatenate(expected))


def test_a_part_of_a_pair_is_a_part_of_the_file(folder):
    """Nothing is copied, so only the pages of a crop are read from the disk."""
    ir, vis = find_pairs([folder])[0].read()
    assert isinstance(ir, np.memmap) and isinstance(vis[2:5, 3:7], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        ir[0, 0] = 1


def test_mapped_pairs_take_no_room_in_the_cache(folder):
    source = PairSource(find_pairs([folder]), cache_bytes=0)
    ir = source[0]["ir"]
    assert ir.shape == (9, 12, 1) and np.shares_memory(ir, source[0]["ir"])
    assert source._room == 0


def test_another_process_gets_the_name_of_the_file_and_not_its_pixels(folder, images):
    pairs = find_pairs([folder])
    pairs[0].read()  # the file is mapped now
    sent = pickle.dumps(pairs)
    assert images["a"][0].tobytes() not in sent
    ir, _ = pickle.loads(sent)[0].read()
    np.testing.assert_array_equal(ir, images["a"][0])


def test_packed_sets_and_folders_mix(folder, images, tmp_path):
    from PIL import Image

    for side, image in zip(("ir", "vis"), images["b"], strict=True):
        (tmp_path / "files" / side).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "files" / side / "b.png")
    source = PairSource(find_pairs([folder, tmp_path / "files"]))
    assert source.names == ["camera/a", "camera/b", "camera/c", "files/b"]
    for side in ("ir", "vis"):
        np.testing.assert_array_equal(source[1][side], source[3][side])


def test_pairs_that_are_too_small_are_named(folder):
    with pytest.raises(UserError, match=r"2 of 3 pairs.*camera/b in .* are 8x16; cam"):
        PairSource(find_pairs([folder]), min_size=9)


def change(folder, **values):
    file = folder / "pairs.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "pixels.npy").unlink(), r"pixels\.npy cannot be read"),
        (lambda f: (f / "pixels.npy").write_bytes(b""), r"pixels\.npy cannot be read"),
        (
            lambda f: (f / "pixels.npy").write_bytes(
                (f / "pixels.npy").read_bytes()[:-1]
            ),
            r"pixels\.npy cannot be read",
        ),
        (
            lambda f: np.save(f / "pixels.npy", np.zeros(3, np.uint8)),
            r"holds 3 values of uint8 instead of the 474 bytes",
        ),
        (
            lambda f: np.save(f / "pixels.npy", np.zeros(474, np.int8)),
            r"holds 474 values of int8",
        ),
        (
            lambda f: np.save(f / "pixels.npy", np.array([{}]), allow_pickle=True),
            r"pixels\.npy cannot be read",
        ),
        (lambda f: (f / "pairs.json").write_text("{"), r"pairs\.json cannot be read"),
        (lambda f: (f / "pairs.json").write_text("[]"), r"pairs\.json cannot be read"),
        (lambda f: (f / "pairs.json").write_text("{}"), "it lacks 'format'"),
        (lambda f: change(f, format="other"), "its format is 'other'"),
        (lambda f: change(f, pairs=[]), "it lists no pair"),
        (lambda f: change(f, pairs=[["a", 0, 4]]), "without pixels"),
        (lambda f: change(f, pairs=[["a", -2, -4]]), "without pixels"),
        (lambda f: change(f, pairs=[["a", 4]]), r"pairs\.json cannot be read"),
    ],
)
def test_damage_is_one_sentence(folder, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        find_pairs([folder])
    message = str(caught.value)
    assert message.endswith("--pack).") and "\n" not in message


def test_an_object_store_cannot_be_mapped(folder):
    remote = epath.Path("gs://bucket/camera")
    with pytest.raises(UserError, match="copy the folder to a local disk"):
        packed.find_pairs(remote, "camera")


@pytest.mark.parametrize(
    "image", [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.uint16)]
)
def test_only_what_the_index_says_is_written(tmp_path, image):
    with pytest.raises(ValueError, match="not \\(2, 2\\) uint8"):
        packed.write(tmp_path, [("a", (2, 2))], [(image, image)])
    assert not packed.is_packed(tmp_path)


def test_a_pair_too_few_is_noticed(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        packed.write(tmp_path, [("a", (2, 2))], [])
    assert not packed.is_packed(tmp_path)
