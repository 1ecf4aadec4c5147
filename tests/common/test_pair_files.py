"""Files that belong together: matched by stem, read, compared in size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import (
    Pair,
    check_sizes,
    match_folders,
    match_fused,
    read_pair,
)


def touch(path: Path) -> None:
    """Matching looks at names alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def make_root(root: Path, stems) -> Path:
    for kind in ("ir", "vis"):
        for stem in stems:
            touch(root / kind / f"{stem}.png")
    return root


def test_match_folders(tmp_path):
    for name in ("b.png", "a.jpg", "c.d.TIF", ".hidden.png", "only_ir.bmp"):
        touch(tmp_path / "ir" / name)
    for name in ("b.jpeg", "a.png", "c.d.png", "only_vis.png"):
        touch(tmp_path / "vis" / name)
    (tmp_path / "ir" / "README.md").write_text("no image")
    pairs, problems = match_folders(tmp_path / "ir", tmp_path / "vis")
    assert [pair.name for pair in pairs] == ["a", "b", "c.d"]
    assert pairs[1] == Pair("b", tmp_path / "ir/b.png", tmp_path / "vis/b.jpeg")
    assert len(problems) == 2
    assert "only_ir.bmp has no partner" in problems[0]
    assert "only_vis.png has no partner" in problems[1]


def test_match_folders_stem_used_twice(tmp_path):
    make_root(tmp_path, ["a", "b"])
    touch(tmp_path / "vis" / "a.jpg")
    pairs, problems = match_folders(tmp_path / "ir", tmp_path / "vis")
    assert [pair.name for pair in pairs] == ["b"]
    assert len(problems) == 1
    assert "a.jpg, a.png" in problems[0] and "vis" in problems[0]


def test_match_folders_missing(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        match_folders(tmp_path / "nowhere", tmp_path)


def test_match_fused(tmp_path):
    make_root(tmp_path, ["a", "b", "c", "d.e"])
    pairs, _ = match_folders(tmp_path / "ir", tmp_path / "vis")
    fused = tmp_path / "fused"
    for name in ("a.jpg", "b.png", "b.bmp", "d.e.tif", "stale.png", ".c.png"):
        touch(fused / name)
    (fused / "c.txt").write_text("no image")
    files, problems = match_fused(fused, pairs)
    assert files == {"a": fused / "a.jpg", "d.e": fused / "d.e.tif"}
    assert len(problems) == 3
    assert "b.bmp, b.png" in problems[0]
    assert f"{fused / 'stale.png'} belongs to no pair" in problems[1]
    assert f"{fused} holds no 'c.*'" in problems[2]
    assert str(tmp_path / "ir" / "c.png") in problems[2]
    with pytest.raises(UserError, match="nowhere is not a folder"):
        match_fused(tmp_path / "nowhere", pairs)


def test_read_pair(tmp_path):
    gray = np.random.default_rng(7).integers(0, 256, (21, 34), np.uint8)
    ir, vis, other = (tmp_path / f"{name}.png" for name in ("ir", "vis", "other"))
    Image.fromarray(gray).save(ir)
    Image.fromarray(np.repeat(gray[::-1, :, None], 3, axis=2)).save(vis)
    Image.fromarray(gray[:-1]).save(other)
    images = read_pair(Pair("a", ir, vis))
    np.testing.assert_array_equal(images[0], gray)
    np.testing.assert_array_equal(images[1], gray[::-1])
    with pytest.raises(UserError, match=r"ir\.png is 34x21.*other\.png is 34x20"):
        read_pair(Pair("a", ir, other))


def test_check_sizes():
    pair = Pair("a", Path("a_ir.png"), Path("a_vis.png"))
    check_sizes(pair, (3, 4), (3, 4))
    with pytest.raises(UserError, match=r"a_ir\.png is 4x3 but a_vis\.png is 3x4"):
        check_sizes(pair, (3, 4), (4, 3))
