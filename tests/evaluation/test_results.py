"""The measurement of the shipped models, on a few procedural scenes."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import hkdnet_jax
from data_pipelines import scenes
from hkdnet_jax import pretrained
from hkdnet_jax import results as command
from hkdnet_jax.common.image_files import read_gray
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation import results
from hkdnet_jax.evaluation.pictures import average, crop_to_multiple, enlarge, stretch
from hkdnet_jax.evaluation.scoring import ModelImages
from hkdnet_jax.measuring import plain_metrics

H, W = 72, 96


@pytest.fixture(scope="module", autouse=True)
def two_scales():
    """Leaves the models of x4 out, whose programs take as long as the others'.

    tests/pretrained shows what those are worth.
    """
    shipped = pretrained.students

    def students(family):
        return {scale: path for scale, path in shipped(family).items() if scale != 4}

    with pytest.MonkeyPatch.context() as patch:
        for module in (pretrained, command):
            patch.setattr(module, "students", students)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with two pairs and, of one, a released picture at x2."""
    root = tmp_path_factory.mktemp("data")
    scenes.write_pairs(root / "hkdnet_demo" / "hr", 0, 0, 2, H + 5, W)
    released = root / "hkdnet_demo" / "official_x2"
    released.mkdir()
    source = root / "hkdnet_demo" / "hr" / "ir" / "scene_0000.png"
    (released / source.name).write_bytes(source.read_bytes())
    return root


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The folder of the rows of `report`."""
    return tmp_path_factory.mktemp("rows")


@pytest.fixture(scope="module")
def report(data, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "results.md"
    argv = ["--data", str(data), "--sets", "hkdnet_demo", "--metrics", "AG,CC"]
    argv += ["--families", "balanced"]
    assert command.main([*argv, "--out", str(out), "--rows", str(rows)]) == 0
    found = json.loads(out.with_suffix(".json").read_text())
    return found["sets"]["hkdnet_demo"], out.read_text()


def test_ours_is_better_than_bicubic(report):
    scales, text = report
    assert list(scales) == ["2", "3"]
    for pairs in scales.values():
        assert list(pairs) == ["scene_0000", "scene_0001"]
        gains = results.gains(pairs)
        assert gains[0] > 0 and gains == sorted(gains)
        means = results.means(pairs, "full_reference")
        assert means[results.OURS]["ssim"] > means[results.TEACHER]["ssim"]
        assert means[results.OURS]["seconds"] > 0
        # More than input and output alone, less than the whole process has.
        assert 4e-4 < means[results.OURS]["gigabytes"] < 0.5
        row = next(x for x in text.splitlines() if f"{np.mean(gains):+.2f}" in x)
        assert "2 of 2" in row and results.OURS in row


def test_a_measurement_that_was_cut_goes_on(report, data, rows, tmp_path, monkeypatch):
    """Only what is missing, damaged or of other files is measured again."""
    scales, _ = report
    kept = tmp_path / "rows"
    shutil.copytree(Path(rows, "balanced"), kept)
    files = {file.relative_to(kept).as_posix(): file for file in kept.rglob("*.json")}
    of = "hkdnet_demo/x{}/scene_000{}.json".format
    assert set(files) == {of(s, n) for s in (2, 3) for n in (0, 1)}
    files[of(2, 1)].unlink()
    files[of(3, 0)].write_text("{")
    again = []

    def instead(models, pair, scale, names, vgg_params, released):
        again.append((scale, pair.name))
        return {"plain": {"fresh": {"AG": 1.0}}}

    monkeypatch.setattr(results, "measure_pair", instead)
    models, names = results.Models.shipped("balanced"), ("AG", "CC")
    measure = partial(results.measure, models, sets=["hkdnet_demo"], folder=kept)
    found = measure(data, names=names, vgg_params=None)["hkdnet_demo"]
    assert sorted(again) == [(2, "scene_0001"), (3, "scene_0000")]
    for scale, name in (("2", "scene_0000"), ("3", "scene_0001")):
        assert found[scale][name] == scales[scale][name]
    assert "fresh" in found["2"]["scene_0001"]["plain"]
    again.clear()
    measure(data, names=names, vgg_params=None)
    assert not again
    # Other pixels, or other metrics, are measured anew.
    other = tmp_path / "data"
    shutil.copytree(data, other)
    folder = other / "hkdnet_demo" / "hr" / "vis"
    shutil.copy(folder / "scene_0001.png", folder / "scene_0000.png")
    measure(other, names=names, vgg_params=None)
    assert sorted(again) == [(scale, "scene_0000") for scale in (2, 3)]
    again.clear()
    measure(data, names=("AG",), vgg_params=None)
    assert len(again) == 4


def test_fusion_metrics_under_both_protocols(report, data):
    scales, text = report
    pair = scales["2"]["scene_0000"]
    folder = data / "hkdnet_demo" / "hr"
    ir, vis = (
        crop_to_multiple(read_gray(folder / m / "scene_0000.png"), results.MULTIPLE)
        for m in ("ir", "vis")
    )
    oracle = average(ir, vis)
    assert oracle.shape == (H, W)
    want = plain_metrics.PAPER["CC"](ir, vis, oracle)
    assert pair["plain"][results.ORACLE]["CC"] == pytest.approx(want, rel=1e-9)
    want = plain_metrics.PAPER["AG"](ir, vis, stretch(oracle))
    assert pair["paper"][results.ORACLE]["AG"] == pytest.approx(want, rel=0.02)
    want = plain_metrics.PAPER["AG"](ir, vis, ir)
    assert pair["plain"][results.RELEASED]["AG"] == pytest.approx(want, rel=1e-9)
    assert results.RELEASED not in scales["3"]["scene_0000"]["plain"]
    # Ours as `evaluate` has it under the same protocol.
    for protocol in ("plain", "paper"):
        method = ModelImages(hkdnet_jax.load(2), "ours", protocol)
        files = Pair("scene_0000", folder / "ir", folder / "vis")  # for sentences
        want = plain_metrics.PAPER["CC"](ir, vis, method.fuse(files, ir, vis))
        assert pair[protocol][results.OURS]["CC"] == pytest.approx(want, rel=1e-9)
    # One of two pairs has it: no mean to compare with the others'.
    assert results.RELEASED not in results.means(scales["2"], "plain")
    assert text.count("\nProtocol `") == 2


def test_distance_of_features():
    rng = np.random.default_rng(0)
    params = {}
    for name, (i, o) in {"1_1": (3, 4), "1_2": (4, 4), "2_1": (4, 4)}.items():
        kernel = rng.normal(size=(3, 3, i, o)).astype(np.float32)
        params[f"conv{name}"] = {"kernel": kernel, "bias": np.zeros(o, np.float32)}
    for name in ("2_2", "3_1", "3_2", "3_3"):
        kernel = rng.normal(size=(3, 3, 4, 4)).astype(np.float32)
        params[f"conv{name}"] = {"kernel": kernel, "bias": np.zeros(4, np.float32)}
    a, b = rng.integers(0, 256, (2, 16, 16), np.uint8)
    same = results.full_reference(a, a, params)
    other = results.full_reference(a, b, params)
    assert same["vgg"] < 1e-12 and same["ssim"] == pytest.approx(1)
    # Of each layer at most 2: unit vectors without negative entries.
    assert 0 < other["vgg"] < 6
    mse = np.mean((a / 255 - b / 255) ** 2)
    assert other["psnr"] == pytest.approx(-10 * np.log10(mse), rel=1e-5)
    assert "vgg" not in results.full_reference(a, b, None)


def test_a_vivid_teacher_is_also_scored_with_its_context_reduced():
    pair = scenes.render(0, 0, 36, 48)
    balanced = hkdnet_jax.load(1)
    network = balanced.network.clone(context=4.0)
    vivid = dataclasses.replace(balanced, network=network)
    methods = results.methods_of(results.Models(vivid, {}), 2, "plain")
    reduced = dataclasses.replace(vivid, network=network.clone(context=2.0))
    expected = enlarge(reduced(*pair), 2)
    np.testing.assert_array_equal(methods[results.REDUCED](*pair), expected)
    assert np.any(methods[results.TEACHER](*pair) != expected)
    others = results.methods_of(results.Models(balanced, {}), 2, "plain")
    assert [*others, results.REDUCED] == list(methods)


def test_gains_are_over_the_fairer_baseline():
    scores = {results.OURS: 30.0, results.TEACHER: 25.0, results.REDUCED: 28.0}
    row = {method: {"psnr": psnr} for method, psnr in scores.items()}
    balanced = {k: v for k, v in row.items() if k != results.REDUCED}
    pairs = {"a": {"full_reference": balanced}, "b": {"full_reference": row}}
    assert results.gains(pairs) == [2.0, 5.0]


def test_families_have_sections_of_their_own(data, monkeypatch, capsys):
    found = {"2": {"scene": {"full_reference": {}}}}
    asked = []

    def measure(models, *rest):
        asked.append((type(models.teacher.network).__name__, list(models.students)))
        return {"tno": found}

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "to_markdown", lambda found: " / ".join(found))
    shipped = pretrained.students("balanced")
    copies = {"vivid": {2: shipped[2]}, "camera": {3: shipped[3]}, "balanced": shipped}
    for module in (pretrained, command):
        monkeypatch.setattr(module, "students", lambda name: copies.get(name, {}))
    load = pretrained.load
    monkeypatch.setattr(pretrained, "load", lambda scale, style: load(scale))
    assert command.main(["--data", str(data)]) == 0
    assert capsys.readouterr().out == "tno / tno, vivid / tno, camera"
    assert asked == [("Teacher", [2, 3]), ("Teacher", [2]), ("Teacher", [3])]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--families", "balanced,loud"], "--families loud: the package holds no such"),
        (["--sets", "tno"], "tno"),
        (["--sets", "moon"], "--sets moon is not one of tno, vifb, hkdnet_demo"),
        (["--out", "results.txt"], "does not end in .md"),
        (["--metrics", "FOO"], "FOO"),
    ],
)
def test_mistakes(data, capsys, argv, says):
    assert command.main(["--data", str(data), *argv]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and says in line
