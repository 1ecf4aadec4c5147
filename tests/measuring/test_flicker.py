"""Flicker: its figures against NumPy, its sequences, and the subcommand."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import fails, make_pair, run, write

from hkdnet_jax import benchmark
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation.pictures import degrade_picture, enlarge
from hkdnet_jax.measuring import flicker
from hkdnet_jax.model_files.model import Model


def picture(level=100, h=40, w=37):
    return np.full((h, w), level, np.uint8)


def test_a_picture_that_changes_like_its_label_does_not_flicker():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 40, 37), np.uint8)
    found = flicker.change_beyond(a, b, a, b)
    change = np.abs(a.astype(float) - b).mean()
    assert found["change"] == found["label_change"] == pytest.approx(change)
    assert found["excess"] == found["pumping"] == 0


def test_a_level_that_jumps_is_excess_and_pumping():
    found = flicker.change_beyond(picture(100), picture(97), picture(50), picture(51))
    assert found == {"change": 3, "label_change": 1, "excess": 2, "pumping": 4}


def test_noise_is_excess_but_hardly_pumping():
    rng = np.random.default_rng(1)
    a, b = (128 + rng.normal(0, 4, (2, 64, 64))).round().astype(np.uint8)
    still = picture(128, 64, 64)
    found = flicker.change_beyond(a, b, still, still)
    assert found["excess"] == pytest.approx(4 * np.sqrt(4 / np.pi), rel=0.1)
    assert found["pumping"] < 0.1 * found["excess"]


def test_blocks_of_16_pixels_are_compared():
    after = picture(100, 40, 37)
    after[:16, 16:32] = 124  # one of the 2 x 2 whole blocks
    after[32:] = after[:, 32:] = 0  # beyond them
    label = picture(30, 40, 37)
    found = flicker.change_beyond(picture(100), after, label, label)
    assert found["pumping"] == 6


def pairs(*names):
    return [
        Pair(name, Path(f"ir/{name}.png"), Path(f"vis/{name}.png")) for name in names
    ]


def test_names_make_sequences():
    named = pairs("a_10", "a_9", "b-2", "b-1", "lone_1", "portrait", "7", "8")
    found = flicker.sequences_of(named)
    names = {name: [pair.name for pair in seq] for name, seq in found.items()}
    assert names == {"a": ["a_9", "a_10"], "b": ["b-1", "b-2"], "": ["7", "8"]}


def test_a_camera_turns_over_made_scenes():
    found = flicker.made_sequences()
    assert len(found) == 3
    first, second = found["made_0"][:2]
    for a, b in zip(first, second, strict=True):
        assert a.shape == (240, 320) and a.dtype == np.uint8
        np.testing.assert_array_equal(a[1:, 1:], b[:-1, :-1])
        assert np.any(a != b)


def test_rows_are_means_over_the_steps(models):
    student, teacher = Model.load(models[2]), Model.load(models[1])
    frames = [make_pair(seed, 33, 34) for seed in range(3)]
    rows = list(flicker.measure_flicker(student, teacher, {"s": iter(frames)}))
    assert [row["method"] for row in rows] == list(flicker.METHODS)
    assert all(row["sequence"] == "s" and row["steps"] == 2 for row in rows)
    cropped = [tuple(x[:32] for x in frame) for frame in frames]
    labels = [teacher(*frame) for frame in cropped]
    low = [[degrade_picture(x, 2) for x in frame] for frame in cropped]
    shown = [student(*pair) for pair in low], [enlarge(teacher(*p), 2) for p in low]
    for row, images in zip(rows, shown, strict=True):
        both = [
            flicker.change_beyond(*images[i : i + 2], *labels[i : i + 2])
            for i in (0, 1)
        ]
        for name, value in both[0].items():
            assert row[name] == pytest.approx((value + both[1][name]) / 2)
    assert rows[0]["change"] != rows[1]["change"]


def test_every_step_counts_alike_in_the_means():
    figures = ("change", "label_change", "excess", "pumping")
    rows = [
        {"sequence": name, "method": method, "steps": steps} | dict.fromkeys(figures, x)
        for name, steps, x in (("a", 1, 2.0), ("b", 3, 6.0))
        for method in flicker.METHODS
    ]
    for row, method in zip(flicker.mean_rows(rows), flicker.METHODS, strict=True):
        fixed = {"sequence": "mean", "method": method, "steps": 4}
        assert row == fixed | dict.fromkeys(figures, 5.0)


@pytest.fixture
def folders(tmp_path):
    for number in range(2):
        for side, image in zip(("ir", "vis"), make_pair(number, 32, 40), strict=True):
            write(tmp_path / side / f"s_{number}.png", image)
    return tmp_path


def test_the_subcommand(models, folders, capfd):
    out = folders / "flicker.json"
    flags = ["--ir", folders / "ir", "--vis", folders / "vis", "--out", out]
    models_given = ["--model", models[2], "--teacher", models[1]]
    code, text, errors = run(benchmark, capfd, "flicker", *models_given, *flags)
    assert (code, errors) == (0, [])
    lines = text.splitlines()
    assert len(lines) == 6 and lines[1].split()[:2] == ["s", "student"]
    report = json.loads(out.read_text())
    assert [row["sequence"] for row in report["rows"]] == ["s", "s"]
    assert report["means"][0]["excess"] == report["rows"][0]["excess"]


def test_what_is_no_sequence_is_one_sentence(folders, capfd):
    ir, vis = folders / "ir", folders / "vis"
    with pytest.raises(UserError, match="Give both --ir and --vis, or neither"):
        flicker.open_sequences(ir, None, 2)
    with pytest.raises(UserError, match=r"s_0\.png is too small: frames need 64"):
        flicker.open_sequences(ir, vis, 8)
    write(ir / "s_2.png", picture(1, 20, 40))
    with pytest.raises(UserError, match=r"s_2\.png.*: add its partner, or remove it"):
        flicker.open_sequences(ir, vis, 2)
    write(vis / "s_2.png", picture(1, 20, 40))
    with pytest.raises(UserError, match=r"s_2\.png has another size than .*s_0\.png"):
        flicker.open_sequences(ir, vis, 2)
    for folder in (ir, vis):
        for number in (1, 2):
            (folder / f"s_{number}.png").unlink()
    fails(
        *(benchmark, capfd, "flicker", "--scale=2", "--ir", ir, "--vis", vis),
        says=["hold no sequence: name frames NAME_0001.png"],
    )
