"""Files that belong together: matched by stem, read, compared in size."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import (
    Pair,
    Search,
    check_sizes,
    find_pairs,
    match_folders,
    match_fused,
    read_pair,
)
from hkdnet_jax.common.pair_names import read_pattern


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


@pytest.mark.parametrize(
    ("ir", "vis", "names"),
    [
        ("DJI_0001_T.JPG", "DJI_0001_W.JPG", ("*_T", "*_W")),
        ("FLIR_00018_PreviewData.jpeg", "FLIR_00018_RGB.jpg", ("*_PreviewData", "*_R")),
        ("a_ir.png", "a_vis.tif", ("*_ir", "*_vis")),
        ("A_IR.PNG", "A_VIS.PNG", ("*_ir", "*_vis")),
        ("IR7.bmp", "VIS7.bmp", ("ir*", "vis*")),
    ],
)
@pytest.mark.parametrize("folders", [("one", "one"), ("ir", "vis")])
def test_names_of_cameras_are_recognised_and_said(tmp_path, folders, ir, vis, names):
    ir, vis = tmp_path / folders[0] / ir, tmp_path / folders[1] / vis
    touch(ir)
    touch(vis)
    touch(tmp_path / folders[1] / "panorama.png")
    found = find_pairs(ir.parent, vis.parent)
    assert [(pair.ir, pair.vis) for pair in found.pairs] == [(ir, vis)]
    assert found.problems == []
    (note,) = found.notes
    assert all(name in note for name in names) and "1 other pictures" in note


def test_equal_stems_come_before_names_of_cameras(tmp_path):
    make_root(tmp_path, ["a_T", "a_W"])
    found = find_pairs(tmp_path / "ir", tmp_path / "vis")
    assert [pair.name for pair in found.pairs] == ["a_T", "a_W"]
    assert found.notes == []


def test_patterns(tmp_path):
    for name in ("x1_T.JPG", "x1_W.JPG", "x2_T.JPG", "x2_W.jpg", "x1_Z.JPG"):
        touch(tmp_path / name)
    patterns = (read_pattern("--x", text) for text in ("x*_T.JPG", "x*_W.JPG"))
    found = find_pairs(tmp_path, tmp_path, Search(*patterns))
    assert found.pairs == [Pair("1", tmp_path / "x1_T.JPG", tmp_path / "x1_W.JPG")]
    (problem,) = found.problems
    assert "x2_T.JPG has no partner 'x2_W.JPG'" in problem


def test_patterns_that_fit_one_file_pair_nothing(tmp_path):
    make_root(tmp_path, ["a"])
    same = read_pattern("--x", "*.png")
    with pytest.raises(UserError, match="nothing tells its infrared"):
        find_pairs(tmp_path / "ir", tmp_path / "ir", Search(same, same))


@pytest.mark.parametrize("text", ["a.png", "*_*.png", "/x/*.png", ""])
def test_a_pattern_has_one_star(text):
    with pytest.raises(UserError, match=r"--ir-pattern .* must have one \*"):
        read_pattern("--ir-pattern", text)


def test_folders_may_name_the_scenes(tmp_path):
    for scene in ("s1", "s2"):
        for name in ("ir.png", "vis.png"):
            touch(tmp_path / scene / name)
            touch(tmp_path / "deep" / scene / name)
    patterns = [read_pattern("--x", text) for text in ("*/ir.png", "*/vis.png")]
    found = find_pairs(tmp_path, tmp_path, Search(*patterns))
    assert [pair.name for pair in found.pairs] == ["s1", "s2"]
    found = find_pairs(tmp_path, tmp_path, Search(*patterns, recursive=True))
    assert [pair.name for pair in found.pairs] == ["deep/s1", "deep/s2", "s1", "s2"]


def test_nested_folders(tmp_path):
    make_root(tmp_path, ["a", "day/a", "day/b", "night/.hidden/c"])
    touch(tmp_path / "vis" / "day" / "c.png")
    found = find_pairs(tmp_path / "ir", tmp_path / "vis", Search(recursive=True))
    assert [pair.name for pair in found.pairs] == ["a", "day/a", "day/b"]
    assert found.pairs[1].ir == tmp_path / "ir" / "day" / "a.png"
    (problem,) = found.problems
    assert "day/c.png has no partner 'day/c.*'" in problem
    assert [
        pair.name for pair in find_pairs(tmp_path / "ir", tmp_path / "vis").pairs
    ] == ["a"]


def test_links(tmp_path):
    make_root(tmp_path, ["a"])
    outside = tmp_path / "outside" / "b.png"
    touch(outside)
    for kind in ("ir", "vis"):
        (tmp_path / kind / "b.png").symlink_to(outside)  # data sets are often so made
        (tmp_path / kind / "circle").symlink_to(tmp_path / kind)
    found = find_pairs(tmp_path / "ir", tmp_path / "vis", Search(recursive=True))
    assert [pair.name for pair in found.pairs] == ["a", "b"]
    assert len(found.problems) == 2
    assert all("circle is a link to a folder" in text for text in found.problems)


def test_the_same_folder_twice_is_refused(tmp_path):
    make_root(tmp_path, ["a", "b"])
    (tmp_path / "link").symlink_to(tmp_path / "ir")
    for other in ("ir", "link", "vis/../ir"):
        with pytest.raises(UserError, match=r"is both --ir and --vis.*--ir-pattern"):
            find_pairs(tmp_path / "ir", tmp_path / other)


def test_a_partner_of_another_format_is_named(tmp_path):
    touch(tmp_path / "ir" / "1.png")
    touch(tmp_path / "vis" / "1.heic")
    (problem,) = find_pairs(tmp_path / "ir", tmp_path / "vis").problems
    assert "1.png has no partner '1.*'" in problem and "1.heic is there" in problem


def test_letters_are_compared_composed(tmp_path):
    touch(tmp_path / "ir" / "u\u0308ber.png")
    touch(tmp_path / "vis" / "\u00fcber.png")
    (pair,) = find_pairs(tmp_path / "ir", tmp_path / "vis").pairs
    assert pair.name == "\u00fcber" and pair.ir.name == "u\u0308ber.png"
    touch(tmp_path / "fused" / "u\u0308ber.jpg")
    assert match_fused(tmp_path / "fused", [pair])[0].keys() == {pair.name}
    touch(tmp_path / "ir" / "\u00fcber.png")
    assert "several images" in find_pairs(tmp_path / "ir", tmp_path / "vis").problems[0]


def test_undecodable_names(tmp_path):
    name = os.fsdecode(b"\xff\xfe1.png")
    for kind in ("ir", "vis"):
        touch(tmp_path / kind / name)
    (pair,) = find_pairs(tmp_path / "ir", tmp_path / "vis").pairs
    assert os.fsencode(pair.name) == b"\xff\xfe1"


def test_an_unreadable_folder_is_said(tmp_path, monkeypatch):
    make_root(tmp_path, ["a", "day/b"])
    real = os.scandir

    def scandir(path):
        if Path(path).name == "day":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_pairs(tmp_path / "ir", tmp_path / "vis", Search(recursive=True))
    assert [pair.name for pair in found.pairs] == ["a"]
    assert [
        "day cannot be listed (Permission denied)" in x for x in found.problems
    ] == [
        True,
        True,
    ]
    monkeypatch.setattr(os, "scandir", lambda path: scandir("day"))
    with pytest.raises(UserError, match="ir cannot be listed"):
        find_pairs(tmp_path / "ir", tmp_path / "vis")


@pytest.mark.parametrize("name", ["a_fused", "fused_a", "a_FUSION", "a-fused", "a_F"])
def test_names_of_fused_images_are_recognised(tmp_path, name):
    pairs = [Pair("a", tmp_path / "ir.png", tmp_path / "vis.png")]
    touch(tmp_path / "out" / f"{name}.png")
    files, problems = match_fused(tmp_path / "out", pairs)
    assert (files, problems) == ({"a": tmp_path / "out" / f"{name}.png"}, [])


def test_fused_images_in_nested_folders_and_by_pattern(tmp_path):
    pairs = [Pair("day/a", tmp_path / "ir.png", tmp_path / "vis.png")]
    touch(tmp_path / "out" / "day" / "a_x2.png")
    pattern = read_pattern("--fused-pattern", "*_x2.png")
    files, problems = match_fused(tmp_path / "out", pairs, pattern)
    assert (files, problems) == ({"day/a": tmp_path / "out/day/a_x2.png"}, [])
