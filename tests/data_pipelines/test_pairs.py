"""Finding the pairs of data sets on disk."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.pairs import find_pairs
from data_pipelines.splits import split_pairs
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.common.pair_files import read_pair

BLANK = np.zeros((21, 34), np.uint8)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(BLANK).save(path)
    return path


def make_root(root: Path, stems) -> Path:
    for kind in ("ir", "vis"):
        for stem in stems:
            put(root / kind / f"{stem}.png")
    return root


def test_find_pairs_several_roots(tmp_path):
    roots = [make_root(tmp_path / "tno", ["2", "1"]), make_root(tmp_path / "m3fd", "1")]
    pairs = find_pairs([str(root) for root in roots])
    assert [pair.name for pair in pairs] == ["m3fd/1", "tno/1", "tno/2"]
    assert pairs[1].ir == tmp_path / "tno/ir/1.png"
    assert pairs[1].vis == tmp_path / "tno/vis/1.png"


def test_find_pairs_roots_of_equal_name(tmp_path):
    roots = [
        make_root(tmp_path / "msrs/train", ["1"]),
        make_root(tmp_path / "llvip/train", ["1"]),
        make_root(tmp_path / "tno", ["1"]),
    ]
    names = [pair.name for pair in find_pairs(roots)]
    assert names == ["llvip/train/1", "msrs/train/1", "tno/1"]
    deeper = [make_root(tmp_path / side / "x/train", ["1"]) for side in ("a", "b")]
    assert [pair.name for pair in find_pairs(deeper)] == ["a/x/train/1", "b/x/train/1"]
    (tmp_path / "link").symlink_to(tmp_path / "tno")
    for again in (f"{tmp_path}/msrs/../tno", tmp_path / "link"):
        with pytest.raises(UserError, match="given twice"):
            find_pairs([*roots, again])


def test_find_pairs_relative_root(tmp_path, monkeypatch):
    monkeypatch.chdir(make_root(tmp_path / "tno", ["1"]))
    assert [pair.name for pair in find_pairs(["."])] == ["tno/1"]
    assert [pair.name for pair in find_pairs(["ir/.."])] == ["tno/1"]


def test_find_pairs_stem_used_twice(tmp_path):
    make_root(tmp_path, ["a", "b"])
    put(tmp_path / "vis" / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg, a\.png"):
        find_pairs([tmp_path])


def test_find_pairs_without_pairs(tmp_path):
    with pytest.raises(UserError, match="No data folder"):
        find_pairs([])
    with pytest.raises(UserError, match=f"{tmp_path}.*ir/ and vis/"):
        find_pairs([tmp_path])
    (tmp_path / "ir").mkdir()
    (tmp_path / "vis").mkdir()
    with pytest.raises(UserError, match=f"{tmp_path} holds no pairs.*ir/ and vis/"):
        find_pairs([tmp_path])


def test_find_pairs_lists_ten_problems_and_counts_the_rest(tmp_path):
    make_root(tmp_path, ["good"])
    for i in range(13):
        put(tmp_path / "ir" / f"lone{i:02d}.png")
    with pytest.raises(UserError) as caught:
        find_pairs([tmp_path])
    message = str(caught.value)
    assert "lone09.png" in message and "lone10" not in message
    assert "and 3 more" in message and "\n" not in message


def test_real_pairs(real_data):
    pairs = find_pairs([real_data / "roadscene"])
    assert len(pairs) == 221
    assert pairs[0].name == "roadscene/FLIR_00006"
    train, val = split_pairs(pairs, "", "", 0.1)
    assert len(train) + len(val) == 221 and 10 < len(val) < 35
    for pair in pairs[::40]:
        ir, vis = read_pair(pair)
        assert ir.shape == vis.shape == image_size(pair.ir) == image_size(pair.vis)
        assert ir.dtype == vis.dtype == np.uint8
        reference = cv2.imread(os.fspath(pair.vis), cv2.IMREAD_GRAYSCALE)
        assert np.abs(vis.astype(int) - reference).mean() < 1
