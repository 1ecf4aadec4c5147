"""Sources of pairs: what is read, kept and refused."""

import threading
from collections import Counter

import numpy as np
import pytest
from loader_fixtures import equal, stream
from PIL import Image

from data_pipelines import scenes
from data_pipelines.loader import PairSource, SceneSource, val_batches
from data_pipelines.pairs import FilePair, find_pairs
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import read_pair


def test_pair_source(root):
    pairs = find_pairs([root])
    source = PairSource(pairs, min_size=16)
    assert len(source) == 7
    for i, pair in enumerate(pairs):
        item = source[i]
        ir, vis = read_pair(pair)
        assert item["name"] == pair.name == f"set/{i}"
        assert item["ir"].dtype == item["vis"].dtype == np.uint8
        assert item["ir"].shape == item["vis"].shape == (16, 20, 1)
        np.testing.assert_array_equal(item["vis"][..., 0], vis)
        scaled = ir / 257 if ir.dtype == np.uint16 else ir
        assert np.abs(item["ir"][..., 0] - scaled).max() <= 0.5
        with pytest.raises(ValueError, match="read-only"):
            item["ir"][0, 0] = 1


def test_cache_decodes_once_and_stops_when_full(root, monkeypatch):
    loads = Counter()
    decode = PairSource._load

    def counted(self, index):
        loads[index] += 1
        return decode(self, index)

    monkeypatch.setattr(PairSource, "_load", counted)
    pair_bytes = 2 * 16 * 20
    for kept in (0, 3, 7):
        loads.clear()
        # One byte less than one more pair needs.
        source = PairSource(find_pairs([root]), cache_bytes=(kept + 1) * pair_bytes - 1)
        first = [source[i] for i in range(7)]
        again = [source[i] for i in range(7)]
        assert all(equal(a, b) for a, b in zip(first, again, strict=True))
        assert [loads[i] for i in range(7)] == [1] * kept + [2] * (7 - kept)


def test_cache_shared_by_threads(root):
    source = PairSource(find_pairs([root]), cache_bytes=10 * 640)
    expected = [PairSource(find_pairs([root]))[i] for i in range(7)]
    wrong = []

    def read(start):
        for i in range(200):
            index = (start + i) % 7
            if not equal(source[index], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(t,)) for t in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_pair_decoded_by_two_threads_at_once_is_counted_once(root, monkeypatch):
    both, decode = threading.Barrier(2, timeout=20), PairSource._load

    def together(self, index):
        both.wait()
        return decode(self, index)

    monkeypatch.setattr(PairSource, "_load", together)
    source = PairSource(find_pairs([root]), cache_bytes=2 * 640)
    threads = [threading.Thread(target=source.__getitem__, args=(0,)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source._room == 640


def test_no_pairs():
    with pytest.raises(UserError, match=r"no pairs.*ir/ and vis/"):
        PairSource([])


def test_bad_files_are_listed_in_one_error(root):
    Image.fromarray(np.zeros((16, 19), np.uint8)).save(root / "vis/1.bmp")
    (root / "ir/2.bmp").write_bytes(b"BM nothing")
    for kind in ("ir", "vis"):
        Image.fromarray(np.zeros((15, 20), np.uint8)).save(root / kind / "4.bmp")
    with pytest.raises(UserError) as caught:
        PairSource(find_pairs([root]), min_size=16)
    message = str(caught.value)
    assert message.startswith("3 of 7 pairs") and "\n" not in message
    for part in ("1.png is 20x16", "1.bmp is 19x16", "2.bmp cannot be read"):
        assert part in message
    assert "4.bmp and its partner are 20x15" in message
    for advice in ("16x16", "data.crop", "split file", "remove"):
        assert advice in message
    for good in (0, 3, 5, 6):
        assert f"/{good}." not in message


def test_long_lists_are_cut(root):
    pairs = find_pairs([root]) * 3
    with pytest.raises(UserError, match=r"21 of 21 .*and 11 more"):
        PairSource(pairs, min_size=17)


def test_size_is_checked_as_the_image_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    Image.fromarray(np.zeros((20, 16), np.uint8)).save(tmp_path / "b.png")
    pair = FilePair("a", tmp_path / "a.jpg", tmp_path / "b.png")
    assert PairSource([pair], 16)[0]["ir"].shape == (20, 16, 1)


def test_headers_are_read_without_decoding(root, monkeypatch):
    def fail(*args):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert len(PairSource(find_pairs([root]), min_size=16)) == 7


def test_broken_pixels_surface_as_user_error_from_the_iterator(root):
    whole = (root / "ir/2.bmp").read_bytes()
    (root / "ir/2.bmp").write_bytes(whole[:-40])
    source = PairSource(find_pairs([root]), min_size=8)
    with pytest.raises(UserError, match=r"ir/2\.bmp cannot be read"):
        stream(source, 2)
    with pytest.raises(UserError, match=r"ir/2\.bmp cannot be read"):
        list(val_batches(source, crop=8, batch_size=4))


def test_scene_source():
    source = SceneSource(seed=5, start=3, count=2, height=32, width=48)
    assert len(source) == 2
    for i in range(2):
        ir, vis = scenes.render(5, 3 + i, 32, 48)
        np.testing.assert_array_equal(source[i]["ir"][..., 0], ir)
        np.testing.assert_array_equal(source[i]["vis"][..., 0], vis)
        assert source[i]["ir"].dtype == np.uint8
    assert [source[i]["name"] for i in range(2)] == ["scene_0003", "scene_0004"]
    assert np.shares_memory(source[0]["ir"], source[0]["ir"])  # rendered once
    batch = stream(source, 1, crop=24)[0]
    assert batch["ir"].shape == (4, 24, 24, 1)
    with pytest.raises(UserError, match="at least 1"):
        SceneSource(0, 0, 0, 32, 32)
