"""From folders and names to methods, and from outcomes to scores."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import make_pair, write
from evaluate_fixtures import (
    CHEAP,
    H,
    W,
    expected_values,
    fused_folder,
    picture,
    save_model,
    write_sources,
)

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Search
from hkdnet_jax.evaluation.comparison import collect, compare, find_sources
from hkdnet_jax.evaluation.scoring import ModelImages, SavedImages


def sources(ir="ir", vis="vis"):
    return find_sources(Path(ir), Path(vis), Search())


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The working folder, with the pairs a, b and c in ir and vis, fused in ours."""
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path)
    fused_folder(tmp_path / "ours")
    return tmp_path


def test_methods_have_names_and_keep_their_order(root):
    fused_folder(root / "x=y" / "other", seed=20)
    save_model(root / "tiny_x2")
    fused = ["z=x=y/other", "ours/", "x=y/other"]
    found = collect(sources(), fused, "tiny_x2/", protocol="paper")
    assert list(found.methods) == ["z", "ours", "other", "tiny_x2"]
    *folders, model = found.methods.values()
    assert all(isinstance(method, SavedImages) for method in folders)
    assert folders[0].files == folders[2].files
    assert folders[1].label(found.pairs[1]) == "ours/b.png"
    assert isinstance(model, ModelImages) and model.options["stretch"]
    assert (found.scale, found.protocol, found.problems) == (2, "paper", [])
    assert [pair.name for pair in found.pairs] == ["a", "b", "c"]


def test_sources_and_fused_images_of_other_names(root):
    for stem in "abc":
        (root / "vis" / f"{stem}.png").rename(root / "ir" / f"{stem}_rgb.png")
        (root / "ir" / f"{stem}.png").rename(root / "ir" / f"{stem}_ir.png")
        (root / "ours" / f"{stem}.png").rename(root / "ours" / f"{stem}_fused.png")
    found = collect(sources("ir", "ir"), ["ours"])
    assert [pair.name for pair in found.pairs] == ["a", "b", "c"]
    assert found.methods["ours"].files["b"].name == "b_fused.png"
    assert "'*_ir.*' is infrared" in found.notes[0] and found.problems == []


def test_sources_of_a_list(root):
    (root / "list.csv").write_text("ir/a.png,vis/b.png,c\nir/a.png,vis/a.png,c\n")
    listed = find_sources(None, None, Search(), root / "list.csv")
    found = collect(listed, ["ours"])
    assert [(pair.name, pair.vis.name) for pair in found.pairs] == [("c", "b.png")]
    assert found.methods["ours"].files["c"].name == "c.png"
    assert "an earlier line" in found.problems[0]


def test_the_working_folder_has_a_name(root, monkeypatch):
    monkeypatch.chdir(root / "ours")
    found = collect(sources("../ir", "../vis"), ["."])
    assert list(found.methods) == ["ours"] and found.scale == 1


def test_values_are_collected_by_method_and_image(root):
    shutil.copytree("ours", "fewer")
    (root / "fewer" / "b.png").unlink()
    found = compare(collect(sources(), ["ours", "fewer"]), CHEAP)
    assert (found.notes, found.warnings) == ([], [])
    assert found.scores.errors == ["fewer holds no 'b.*', the fused image of ir/b.png."]
    assert (found.scores.pairs, found.scores.metrics) == (3, CHEAP)
    values = found.scores.methods
    for seed, (name, row) in enumerate(values["ours"].items()):
        expected = expected_values(*make_pair(seed, H, W), picture(10 + seed))
        assert name == "abc"[seed] and row == pytest.approx(expected, rel=1e-12)
    assert values["fewer"] == {k: v for k, v in values["ours"].items() if k != "b"}


def test_a_flat_source_is_warned_about_once(root):
    write(root / "ir" / "a.png", np.full((H, W), 77, np.uint8))
    found = compare(collect(sources(), ["ours", "again=ours"]), CHEAP)
    assert found.warnings == ["ir/a.png is flat: no value for CC."]


@pytest.mark.parametrize(
    ("folders", "arguments", "says"),
    [
        ("ir vis", {}, ("nothing to score", "--fused", "--model")),
        ("none vis", {"fused": ["ours"]}, ("none is not a folder",)),
        ("ir/a.png vis", {"fused": ["ours"]}, ("ir/a.png is not a folder",)),
        ("empty ours", {"fused": ["ours"]}, ("hold no pairs", ".png")),
        ("empty empty", {"fused": ["ours"]}, ("is both --ir and --vis",)),
        ("ir empty", {"fused": ["ours"]}, ("hold no pairs", "ir", "empty")),
        ("ir vis", {"fused": ["empty"]}, ("empty holds no fused", "a.png")),
        ("ir vis", {"fused": ["odd"]}, ("odd holds no fused", "a.png")),
        ("ir vis", {"fused": ["none"]}, ("none is not a folder",)),
        ("ir vis", {"fused": ["ours/a.png"]}, ("a.png is not a folder",)),
        ("ir vis", {"fused": ["X=none"]}, ("none is not a folder",)),
        ("ir vis", {"fused": ["=ours"]}, ("--fused =", "NAME=DIR")),
        ("ir vis", {"fused": ["ours="]}, ("ours=", "NAME=DIR")),
        (
            "ir vis",
            {"fused": ["ours", "deep/ours"]},
            ("both called 'ours'", "--fused deep/ours", "NAME=DIR"),
        ),
        (
            "ir vis",
            {"model": "model", "fused": ["model=ours"]},
            ("both called 'model'", "--model model", "NAME=DIR"),
        ),
        ("ir vis", {"fused": ["ours"], "scale": 2}, ("--scale 2", "--model")),
        ("ir vis", {"model": "none"}, ("none does not exist",)),
        ("ir vis", {"model": "model", "scale": 3}, ("--scale 3", "scale 2")),
    ],
)
def test_mistakes(root, folders, arguments, says):
    (root / "empty").mkdir()
    fused_folder(root / "odd", ["x"])
    fused_folder(root / "deep" / "ours")
    save_model(root / "model")
    with pytest.raises(UserError) as error:
        collect(sources(*folders.split()), **arguments)
    for words in says:
        assert words in str(error.value)
