"""From folders and names to methods, and from outcomes to scores."""

import shutil

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
from hkdnet_jax.evaluation.comparison import collect, compare
from hkdnet_jax.evaluation.scoring import ModelImages, SavedImages


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
    found = collect("ir", "vis", fused, "tiny_x2/", protocol="paper")
    assert list(found.methods) == ["z", "ours", "other", "tiny_x2"]
    *folders, model = found.methods.values()
    assert all(isinstance(method, SavedImages) for method in folders)
    assert folders[0].files == folders[2].files
    assert folders[1].label(found.pairs[1]) == "ours/b.png"
    assert isinstance(model, ModelImages) and model.options["stretch"]
    assert (found.scale, found.protocol, found.problems) == (2, "paper", [])
    assert [pair.name for pair in found.pairs] == ["a", "b", "c"]


def test_the_working_folder_has_a_name(root, monkeypatch):
    monkeypatch.chdir(root / "ours")
    found = collect("../ir", "../vis", ["."])
    assert list(found.methods) == ["ours"] and found.scale == 1


def test_values_are_collected_by_method_and_image(root):
    shutil.copytree("ours", "fewer")
    (root / "fewer" / "b.png").unlink()
    found = compare(collect("ir", "vis", ["ours", "fewer"]), CHEAP)
    assert (found.cropped, found.warnings) == (0, [])
    assert found.scores.errors == ["fewer holds no 'b.*', the fused image of ir/b.png."]
    assert (found.scores.pairs, found.scores.metrics) == (3, CHEAP)
    values = found.scores.methods
    for seed, (name, row) in enumerate(values["ours"].items()):
        expected = expected_values(*make_pair(seed, H, W), picture(10 + seed))
        assert name == "abc"[seed] and row == pytest.approx(expected, rel=1e-12)
    assert values["fewer"] == {k: v for k, v in values["ours"].items() if k != "b"}


def test_a_flat_source_is_warned_about_once(root):
    write(root / "ir" / "a.png", np.full((H, W), 77, np.uint8))
    found = compare(collect("ir", "vis", ["ours", "again=ours"]), CHEAP)
    assert found.warnings == ["ir/a.png is flat: no value for CC."]


@pytest.mark.parametrize(
    ("sources", "arguments", "says"),
    [
        ("ir vis", {}, ("nothing to score", "--fused", "--model")),
        ("none vis", {"fused": ["ours"]}, ("none is not a folder",)),
        ("ir/a.png vis", {"fused": ["ours"]}, ("ir/a.png is not a folder",)),
        ("empty empty", {"fused": ["ours"]}, ("hold no pairs", ".png")),
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
def test_mistakes(root, sources, arguments, says):
    (root / "empty").mkdir()
    fused_folder(root / "odd", ["a_fused"])
    fused_folder(root / "deep" / "ours")
    save_model(root / "model")
    with pytest.raises(UserError) as error:
        collect(*sources.split(), **arguments)
    for words in says:
        assert words in str(error.value)
