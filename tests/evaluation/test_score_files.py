"""Scores that are read back from the files that the commands write."""

import json
import math

import pytest

from hkdnet_jax import metrics
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import score_files, side_by_side, side_by_side_tables
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.metrics import METRICS

VALUES = {
    "a": {"x": {"AG": 0.25, "CC": 1.5}, "y": {"AG": math.nan, "CC": 0.5}},
    "b": {"x": {"AG": 0.5, "CC": 1.0}, "y": {"AG": 1.5, "CC": 2.0}},
}


def written(folder, content, name="scores.json"):
    file = folder / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("methods", [("a", "b"), ("a",)])
def test_what_evaluate_wrote(tmp_path, methods):
    scores = Scores(("AG", "CC"), {m: VALUES[m] for m in methods}, 2, "paper", ["No."])
    file = tmp_path / "a.json"
    assert not score_files.write(scores, [file])
    (title, read), *_ = score_files.read(file).items()
    assert title == "a" and list(read.methods) == list(methods)
    assert read.protocol == "paper" and read.errors == ["No."] and read.pairs == 2
    for method in methods:
        for metric in scores.metrics:
            assert read.mean(method, metric) == scores.mean(method, metric)
            assert read.count(method, metric) == scores.count(method, metric)


def test_what_results_wrote(tmp_path):
    values = {
        "full_reference": {"ours": {"psnr": 30.0, "seconds": 2.0}},
        "plain": {"ours": {"CC": 0.5}, "other": {"CC": 0.25}},
    }
    content = {"machine": {}, "sets": {"tno": {"2": {"x": values}}}}
    found = score_files.read(written(tmp_path, content))
    assert list(found) == ["tno x2 full_reference", "tno x2 plain"]
    assert found["tno x2 full_reference"].metrics == ["psnr"]
    assert found["tno x2 full_reference"].protocol == ""
    assert found["tno x2 plain"].marks("CC") == {"ours": "best", "other": "second"}


def test_what_a_sweep_wrote(tmp_path):
    folder = tmp_path / "fig13"
    folder.mkdir()
    rows = [
        {"variant": f"alpha = {alpha}", "scale": 1, "seed": seed, "test": {}}
        | {"val": {"CC": alpha + seed, "alive_decoder1": 1.0, "SCD": None}}
        for alpha in (0.25, 0.5)
        for seed in (0, 1)
    ]
    written(folder, rows, "table.json")
    (title, scores), *others = score_files.read(folder).items()
    assert title == "fig13 x1 val" and not others and scores.unit == "runs"
    assert scores.mean("alpha = 0.5", "CC") == 1.0 and scores.pairs == 2
    assert math.isnan(scores.mean("alpha = 0.5", "SCD"))
    assert scores.metrics == ["SCD", "CC"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON file"),
        ("[]", "holds no scores"),
        ("3", "holds no scores"),
        ({"images": [{"name": "a", "unknown": 1}], "mean": {}}, "holds no scores"),
        ([{"variant": "a"}], "holds no scores"),
        ({"sets": 3}, "holds no scores"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=rf"scores.json {said}"):
        score_files.read(written(tmp_path, content))


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match=r"holds no table.json .*the folder of a sweep"):
        score_files.read(tmp_path)
    with pytest.raises(UserError, match=r"nowhere.json cannot be read"):
        score_files.read(tmp_path / "nowhere.json")


def test_times(tmp_path):
    row = {"size": "10x20", "batch": 2, "seconds": 3.0, "peak_rss_bytes": 5e8}
    settings = {"preset": "lite", "scale": 2, "dtype": "float32"}
    content = {"subject": "fuse", "settings": settings}
    content["rows"] = [row | {"size": "20x20", "peak_rss_bytes": None}, row]
    assert score_files.read_speed(written(tmp_path, content)) == {
        "fuse lite x2": [
            {"pixels": 200, "seconds": 1.5, "gigabytes": 0.5},
            {"pixels": 400, "seconds": 1.5, "gigabytes": None},
        ]
    }
    content |= {"subject": "train", "rows": [row | {"phase": 2}]}
    content["settings"] |= {"dtype": "bfloat16"}
    found = score_files.read_speed(written(tmp_path, content))
    assert list(found) == ["train lite x2 bfloat16, phase 2"]
    content["settings"] |= {"scale": 1, "dtype": "float32"}
    content |= {"subject": "fuse", "rows": [row]}
    assert list(score_files.read_speed(written(tmp_path, content))) == ["fuse teacher"]
    with pytest.raises(UserError, match="holds no times"):
        score_files.read_speed(written(tmp_path, {"rows": []}))


def test_what_compare_wrote(tmp_path):
    six = dict.fromkeys(metrics.PAPER, 0.5)
    detail = {"detail_fidelity": 0.75, "detail_energy": None}
    row = {"plain": six, "paper": six | {"CC": 0.25}, "detail": detail}
    ours = {"own": {"psnr": 30.0, "ssim": 0.5}, "seconds": 1.0, "megabytes": None}
    rows = {2: {"ours": {"a": row | ours}, "outside": {"a": row}}}
    measured = side_by_side.Measured(rows, ["b is bad."])
    file = written(tmp_path, side_by_side_tables.to_json(measured, {}), "compare.json")
    found = score_files.read(file)
    assert list(found) == ["x2 own", "x2 plain", "x2 paper"]
    assert score_files.read(tmp_path).keys() == found.keys()  # the folder
    assert found["x2 paper"].protocol == "paper" and found["x2 own"].protocol == ""
    assert found["x2 paper"].mean("ours", "CC") == 0.25
    assert found["x2 plain"].metrics == [m for m in METRICS if m in metrics.PAPER]
    own = found["x2 own"]
    assert own.metrics == ["psnr", "ssim", "detail_fidelity", "detail_energy"]
    assert own.mean("ours", "psnr") == 30.0 and math.isnan(own.mean("outside", "psnr"))
    assert own.errors == ["b is bad."]
    del measured.rows[2]["ours"], measured.rows[2]["outside"]
    written(tmp_path, side_by_side_tables.to_json(measured, {}), "compare.json")
    with pytest.raises(UserError, match=r"compare.json holds no scores"):
        score_files.read(tmp_path)
