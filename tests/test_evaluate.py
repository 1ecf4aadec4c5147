import csv
import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import command_fixtures
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import TINIEST, make_pair, random_params, write
from PIL import Image

from hkdnet_jax import evaluate, metrics
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation import scoring
from hkdnet_jax.inference import pair
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.metrics import METRICS, Metric
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student

H, W = 24, 30
CHEAP = ("--metrics", "AG,CC")  # compile in no time


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A student of scale 2 with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny_x2"
    config = {"kind": "student", "scale": 2, "model": dataclasses.asdict(TINIEST)}
    file_format.save_model(folder, config, random_params(Student(TINIEST, 2), seed=2))
    return folder


def picture(seed, height=H, width=W):
    return make_pair(seed, height, width)[0]


@pytest.fixture
def sources(tmp_path):
    """Arguments --ir --vis of two folders with the pairs a, b and c."""
    for seed, stem in enumerate("abc"):
        ir, vis = make_pair(seed, H, W)
        write(tmp_path / "ir" / f"{stem}.png", ir)
        write(tmp_path / "vis" / f"{stem}.png", vis)
    return ["--ir", str(tmp_path / "ir"), "--vis", str(tmp_path / "vis")]


def fused_folder(folder, stems="abc", seed=10):
    for number, stem in enumerate(stems):
        write(folder / f"{stem}.png", picture(seed + number))
    return folder


@pytest.fixture
def fused(tmp_path):
    return fused_folder(tmp_path / "ours")


@pytest.fixture
def probes(monkeypatch):
    """Metrics that tell what reached them: the extremes of each image."""
    for index, image in enumerate(("IR", "VIS", "F")):
        for name, reduce in (("MIN", jnp.min), ("MAX", jnp.max)):

            def compute(*images, index=index, reduce=reduce):
                return reduce(images[index])

            monkeypatch.setitem(METRICS, f"{image}_{name}", Metric(compute))
    return ("--metrics", "IR_MIN,IR_MAX,VIS_MIN,VIS_MAX,F_MIN,F_MAX")


run = functools.partial(command_fixtures.run, evaluate)
fails = functools.partial(command_fixtures.fails, evaluate)


def scored(capfd, tmp_path, *args):
    """Content of the JSON file of a run that finds nothing to complain about."""
    code, _, lines = run(capfd, *args, "--out", tmp_path / "scores.json")
    assert (code, lines) == (0, [])
    return json.loads((tmp_path / "scores.json").read_text())


def expected_values(ir, vis, fused):
    """AG and CC in plain NumPy."""
    gy, gx = np.gradient(fused / 255)
    ag = np.sqrt((gx**2 + gy**2) / 2).sum() / ((fused.shape[0] - 1) * fused[0, 1:].size)
    cc = [np.corrcoef(x.ravel(), fused.ravel())[0, 1] for x in (ir, vis)]
    return {"AG": ag, "CC": np.mean(cc)}


# --- folders of fused images --------------------------------------------------------


def test_scores_of_a_folder(sources, fused, tmp_path, capfd):
    args = (*sources, "--fused", fused, *CHEAP, "--out", tmp_path / "new" / "s.json")
    code, out, lines = run(capfd, *args)
    assert (code, lines) == (0, [])
    content = json.loads((tmp_path / "new" / "s.json").read_text())
    assert [row["name"] for row in content["images"]] == ["a", "b", "c"]
    for seed, row in enumerate(content["images"]):
        expected = expected_values(*make_pair(seed, H, W), picture(10 + seed))
        del row["name"]
        assert row == pytest.approx(expected, rel=1e-12)
    for name in ("AG", "CC"):
        mean = np.mean([row[name] for row in content["images"]])
        assert content["mean"][name] == pytest.approx(mean, rel=1e-12)
    assert content["count"] == {"AG": 3, "CC": 3}
    assert (content["protocol"], content["errors"]) == ("plain", [])
    # The terminal gets the means alone.
    cells = (f"{content['mean'][name]:.4f}" for name in ("AG", "CC"))
    assert f"| ours | {' | '.join(cells)} |\n" in out
    assert len(out.splitlines()) == 5 and "protocol plain" in out


def test_methods_are_compared_in_the_order_given(sources, fused, tmp_path, capfd):
    other = fused_folder(tmp_path / "x=y" / "other", seed=20)
    outs = [tmp_path / f"t.{suffix}" for suffix in ("json", "CSV", "md")]
    args = [*sources, *CHEAP, "--fused", f"z={other}", "--fused", f"{fused}/"]
    args += ["--fused", other]
    for out in outs:
        args += ["--out", out]
    code, table, lines = run(capfd, *args)
    assert (code, lines) == (0, [])
    content = json.loads(outs[0].read_text())
    assert list(content["methods"]) == ["z", "ours", "other"]
    assert content["methods"]["z"] == content["methods"]["other"]
    alone = scored(capfd, tmp_path, *sources, *CHEAP, "--fused", fused)
    for key in ("images", "mean", "count"):
        assert content["methods"]["ours"][key] == alone[key]
    rows = list(csv.reader(outs[1].read_text().splitlines()))
    assert rows[0] == ["protocol", "method", "image", "AG", "CC"]
    assert [row[1:3] for row in rows[1:6]] == [
        *(["z", stem] for stem in "abc"),
        ["z", "mean"],
        ["ours", "a"],
    ]
    assert float(rows[5][4]) == alone["images"][0]["CC"]
    assert outs[2].read_text() == table


def test_a_terminal_gets_escape_sequences(sources, fused, capfd, monkeypatch):
    monkeypatch.chdir(fused)  # whose name the folder "." has, too
    args = (*sources, *CHEAP, "--fused", ".", "--fused", f"again={fused}")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    code, out, _ = run(capfd, *args)
    assert code == 0 and "\x1b[1m" in out and "|" not in out
    assert "\nours " in out and "\nagain " in out


def test_default_is_the_six_of_the_paper(sources, fused, capfd, monkeypatch):
    asked = []

    def score(ir, vis, fused, names):
        asked.append(names)
        return {name: np.float64(1) for name in names}

    monkeypatch.setattr(metrics, "score", score)
    run(capfd, *sources, "--fused", fused)
    assert asked == [metrics.PAPER] * 3
    run(capfd, *sources, "--fused", fused, "--metrics", "all")
    assert asked[3] == tuple(METRICS)


def test_images_are_scored_as_8_bit_gray(tmp_path, capfd):
    ir, vis = make_pair(0, H, W)
    image = picture(5)
    write(tmp_path / "ir" / "a.tif", ir.astype(np.uint16) * 257 + 100)
    write(tmp_path / "vis" / "a.png", np.dstack([vis] * 3))
    write(tmp_path / "colour" / "a.bmp", np.dstack([image] * 3))
    write(tmp_path / "deep" / "a.png", image.astype(np.uint16) * 257 - image // 2)
    args = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis", *CHEAP]
    args += ["--fused", tmp_path / "colour", "--fused", tmp_path / "deep"]
    for method in scored(capfd, tmp_path, *args)["methods"].values():
        expected = expected_values(ir, vis, image)
        assert method["mean"] == pytest.approx(expected, rel=1e-12)


def test_the_papers_protocol_stretches_fused_images_alone(
    sources, tmp_path, capfd, probes
):
    levels = 100 + np.arange(H * W).reshape(H, W) % 51
    for stem in "abc":
        write(tmp_path / "f" / f"{stem}.png", levels.astype(np.uint8))
    args = (*sources, *probes, "--fused", tmp_path / "f")
    plain = scored(capfd, tmp_path, *args)
    paper = scored(capfd, tmp_path, *args, "--protocol", "paper")
    assert (plain["protocol"], paper["protocol"]) == ("plain", "paper")
    for seed, (before, after) in enumerate(
        zip(plain["images"], paper["images"], strict=True)
    ):
        ir, vis = make_pair(seed, H, W)
        extremes = {"IR_MIN": ir.min(), "IR_MAX": ir.max()}
        extremes |= {"VIS_MIN": vis.min(), "VIS_MAX": vis.max()}
        name = {"name": "abc"[seed]}
        assert before == name | extremes | {"F_MIN": 100, "F_MAX": 150}
        assert after == name | extremes | {"F_MIN": 0, "F_MAX": 255}
    table = run(capfd, *args, "--protocol", "paper")[1]
    assert "protocol paper" in table


def test_stretch():
    image = np.array([[10, 11], [12, 13]], np.uint8)
    np.testing.assert_array_equal(scoring.stretch(image), [[0, 85], [170, 255]])
    rounded = np.array([[0, 1, 33, 100]], np.uint8)  # 2.55 and 84.15
    np.testing.assert_array_equal(scoring.stretch(rounded), [[0, 3, 84, 255]])
    full = picture(1)
    full.flat[:2] = 0, 255
    np.testing.assert_array_equal(scoring.stretch(full), full)
    assert scoring.stretch(full).dtype == np.uint8
    assert not scoring.stretch(np.full((3, 3), 77, np.uint8)).any()


# --- a model ------------------------------------------------------------------------


def model_output(model_dir, ir, vis, **options):
    """What the model makes of a pair that PIL made small."""
    low = []
    for image in (ir, vis):
        size = image.shape[1] // 2, image.shape[0] // 2
        small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        low.append(np.asarray(small))
    return fuse_pair(Model.load(model_dir), *low, **options)


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("plain", {}), ("paper", {"normalize": "minmax", "stretch": True})],
)
def test_a_model_fuses_degraded_pairs(
    sources, model_dir, tmp_path, capfd, protocol, options
):
    args = (*sources, *CHEAP, "--model", f"{model_dir}/", "--scale", 2)
    content = scored(capfd, tmp_path, *args, "--protocol", protocol)
    assert content["protocol"] == protocol
    for seed, row in enumerate(content["images"]):
        ir, vis = make_pair(seed, H, W)
        image = model_output(model_dir, ir, vis, **options)
        assert image.shape == ir.shape
        assert row.pop("name") == "abc"[seed]
        assert row == pytest.approx(expected_values(ir, vis, image), rel=1e-12)


def test_sources_are_cropped_to_a_multiple_of_the_scale(
    model_dir, tmp_path, capfd, probes
):
    args = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis"]
    for folder, level in (("ir", 200), ("vis", 220), ("f", 240)):
        for stem in "ab":
            image = picture(len(folder), H + 1, W + 1) // 2
            if stem == "b":
                image = image[:-1, :-1]
            else:
                image[-1] = level  # in the row that is cut off
            write(tmp_path / folder / f"{stem}.png", image)
    args += [*probes, "--fused", tmp_path / "f", "--model", model_dir]
    code, _, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    assert code == 0
    assert lines == [
        "note: 1 of 2 pairs were cropped at the right and bottom to multiples of the "
        "scale 2."
    ]
    methods = json.loads((tmp_path / "s.json").read_text())["methods"]
    assert list(methods) == ["f", "tiny_x2"]
    for method in methods.values():
        for row in method["images"]:
            assert row["IR_MAX"] < 128 and row["VIS_MAX"] < 128
    assert methods["f"]["images"][0]["F_MAX"] < 128


def test_saved_images_beside_a_model_may_have_the_cropped_size(
    model_dir, tmp_path, capfd
):
    ir, vis = make_pair(0, H + 1, W + 1)
    image = picture(5, H + 1, W + 1)
    write(tmp_path / "ir" / "a.png", ir)
    write(tmp_path / "vis" / "a.png", vis)
    write(tmp_path / "whole" / "a.png", image)
    write(tmp_path / "cropped" / "a.png", image[:H, :W])
    write(tmp_path / "between" / "a.png", image[:H])
    args = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis", *CHEAP]
    args += ["--model", model_dir, "--out", tmp_path / "s.json"]
    for name in ("whole", "cropped", "between"):
        args += ["--fused", tmp_path / name]
    code, _, lines = run(capfd, *args)
    assert code == 1 and len(lines) == 2
    between = f"error: {tmp_path / 'between' / 'a.png'} is {W + 1}x{H} but its source "
    assert lines[1].startswith(between)
    assert f"{W + 1}x{H + 1} (or {W}x{H})" in lines[1]
    methods = json.loads((tmp_path / "s.json").read_text())["methods"]
    expected = expected_values(ir[:H, :W], vis[:H, :W], image[:H, :W])
    for name in ("whole", "cropped"):
        assert methods[name]["mean"] == pytest.approx(expected, rel=1e-12)
    assert methods["between"] == {
        "images": [],
        "mean": {"AG": None, "CC": None},
        "count": {"AG": 0, "CC": 0},
    }


def test_pairs_too_small_for_the_model(sources, fused, model_dir, tmp_path, capfd):
    for folder, side in (("ir", 15), ("vis", 15), ("ours", 15)):
        write(tmp_path / folder / "d.png", picture(3, side, side))
    for folder in ("ir", "vis", "ours"):
        write(tmp_path / folder / "e.png", picture(3, 1, 40))
    args = [*sources, *CHEAP, "--model", model_dir, "--fused", fused]
    code, _, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    errors = [line for line in lines if line.startswith("error: ")]
    assert code == 1 and len(errors) == 2
    assert f"{tmp_path / 'ir' / 'd.png'} is 14x14 pixels, too small for" in errors[0]
    assert "16" in errors[0]
    assert f"{tmp_path / 'ir' / 'e.png'} is smaller than the scale 2" in errors[1]
    methods = json.loads((tmp_path / "s.json").read_text())["methods"]
    assert methods["tiny_x2"]["count"] == {"AG": 3, "CC": 3}
    assert methods["ours"]["count"] == {"AG": 4, "CC": 4}


def test_memory_that_runs_out_for_one_pair(
    sources, model_dir, tmp_path, capfd, monkeypatch
):
    real = pair._forward

    def forward(network, params, ir, vis):
        if ir.shape[2] > W // 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
        return real(network, params, ir, vis)

    monkeypatch.setattr(pair, "_forward", forward)
    for folder in ("ir", "vis"):
        write(tmp_path / folder / "b.png", picture(1, H, W + 2))
    args = (*sources, *CHEAP, "--model", model_dir, "--out", tmp_path / "s.json")
    code, _, lines = run(capfd, *args)
    assert code == 1 and len(lines) == 1
    assert f"{tmp_path / 'ir' / 'b.png'} is {W + 2}x{H} pixels" in lines[0]
    content = json.loads((tmp_path / "s.json").read_text())
    assert [row["name"] for row in content["images"]] == ["a", "c"]
    # A defect is not the user's mistake, and the device is free for others after it.
    method = scoring.ModelImages(Model.load(model_dir), "m", "plain")
    broken = jax.errors.JaxRuntimeError("INTERNAL: something else")
    monkeypatch.setattr(pair, "_forward", lambda *_: (_ for _ in ()).throw(broken))
    ir, vis = make_pair(0, H, W)
    for _ in range(2 * len(jax.local_devices())):
        with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
            method.fuse(Pair("a", "ir.png", "vis.png"), ir, vis)


def test_every_device_fuses_one_pair_at_a_time(model_dir, tmp_path, monkeypatch):
    devices = jax.local_devices()
    assert len(devices) == 4
    together = threading.Barrier(len(devices), timeout=60)
    at_work, used = [], []

    def fuse_pair(model, ir, vis, normalize, stretch):
        (device,) = {leaf.device for leaf in jax.tree.leaves(model.params)}
        assert jnp.zeros(1).device == device  # where the inputs go
        assert device not in at_work
        at_work.append(device)
        together.wait()  # only passes if all devices are at work side by side
        used.append(device)
        at_work.remove(device)
        return np.repeat(np.repeat(ir, 2, 0), 2, 1)

    monkeypatch.setattr(scoring, "fuse_pair", fuse_pair)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    pairs = []
    for number in range(8):
        files = [tmp_path / side / f"{number}.png" for side in ("ir", "vis")]
        for file, image in zip(files, make_pair(number, H, W), strict=True):
            write(file, image)
        pairs.append(Pair(str(number), *files))
    method = scoring.ModelImages(Model.load(model_dir), "m", "plain")
    outcomes = scoring.score_pairs(pairs, {"m": method}, ("CC",), 2)
    assert [outcome.errors for outcome in outcomes] == [[]] * 8
    assert set(used) == set(devices) and len(used) == 8


# --- folders of any length ----------------------------------------------------------


def test_work_in_flight_is_bounded_and_results_are_in_order(monkeypatch, capfd):
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    # Widths that differ: the pairs of one size are done together.
    widths = {f"{number:03}": number % 2 for number in range(50)}
    monkeypatch.setattr(scoring, "image_size", lambda path: (1, widths[path]))
    begun, running, most = [], [], []

    def score_pair(pair, methods, names, scale):
        begun.append(pair.name)
        running.append(pair.name)
        most.append(len(running))
        running.remove(pair.name)
        return scoring.Outcome(errors=[pair.name])

    monkeypatch.setattr(scoring, "score_pair", score_pair)
    pairs = [Pair(name, name, name) for name in widths]
    outcomes = scoring.score_pairs(pairs, {}, ())
    assert [outcome.errors for outcome in outcomes] == [[name] for name in widths]
    assert max(most) <= 3
    last_even, first_odd = begun.index("048"), begun.index("001")
    assert abs(last_even - first_odd) <= 3
    assert "50/50" in capfd.readouterr().err


def test_programs_of_many_sizes_do_not_pile_up(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(scoring, "_SIZES_KEPT", 2)
    cleared = []
    clear = jax.clear_caches
    monkeypatch.setattr(jax, "clear_caches", lambda: (cleared.append(1), clear()))
    images = {}
    for number in range(8):
        images[number] = [*make_pair(number, H, W + number), picture(9, H, W + number)]
        for folder, image in zip(("ir", "vis", "f"), images[number], strict=True):
            write(tmp_path / folder / f"{number}.png", image)
    args = ("--ir", tmp_path / "ir", "--vis", tmp_path / "vis", *CHEAP)
    content = scored(capfd, tmp_path, *args, "--fused", tmp_path / "f")
    assert len(cleared) == 2
    for number, row in enumerate(content["images"]):
        assert row.pop("name") == str(number)
        assert row == pytest.approx(expected_values(*images[number]), rel=1e-12)


# --- bad input ----------------------------------------------------------------------


def test_bad_files_are_listed_and_the_others_scored(sources, fused, tmp_path, capfd):
    ir, vis = tmp_path / "ir", tmp_path / "vis"
    other = fused_folder(tmp_path / "other")
    good = (ir / "a.png").read_bytes()
    for stem in "defgh":
        for folder in (ir, vis, fused, other):
            (folder / f"{stem}.png").write_bytes(good)
    (vis / "d.png").unlink()  # no partner; its fused images have no pair
    (ir / "e.png").write_bytes(good[: len(good) // 2])  # header whole, data cut off
    write(vis / "f.png", picture(1, H + 1))
    write(fused / "g.png", picture(1, H, W - 1))
    (fused / "h.png").write_text("no image")
    (other / "b.png").unlink()
    (fused / "stale.png").write_bytes(good)
    (other / "c.jpg").write_bytes(good)
    args = (*sources, *CHEAP, "--fused", other, "--fused", fused)
    code, out, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    assert code == 1
    content = json.loads((tmp_path / "s.json").read_text())
    assert lines == [f"error: {sentence}" for sentence in content["errors"]]
    expected = [
        (ir / "d.png", "has no partner 'd.*'", vis),
        (other, "holds several images named 'c'", "c.jpg, c.png"),
        (other / "d.png", "belongs to no pair", "'d.*'"),
        (other, "holds no 'b.*'", ir / "b.png"),
        (fused / "d.png", "belongs to no pair", "'d.*'"),
        (fused / "stale.png", "belongs to no pair", "'stale.*'"),
        (ir / "e.png", "cannot be read", "replace"),
        (ir / "f.png", f"is {W}x{H} but {vis / 'f.png'} is {W}x{H + 1}", "crop"),
        (fused / "g.png", f"is {W - 1}x{H} but its source {ir / 'g.png'}", f"{W}x{H}"),
        (fused / "h.png", "cannot be read", "replace"),
    ]
    assert len(lines) == len(expected)
    for line, (path, *words) in zip(lines, expected, strict=True):
        assert line.startswith(f"error: {path} ") and line.endswith(".")
        assert ".." not in line
        for word in words:
            assert str(word) in line
    names = {
        method: [row["name"] for row in rows["images"]]
        for method, rows in content["methods"].items()
    }
    assert names == {"ours": ["a", "b", "c"], "other": ["a", "g", "h"]}
    # Seven pairs, of which each method has three: seen in every cell, and not ranked.
    assert out.count("(n=3)") == 4 and "**" not in out


def test_images_too_small_for_a_metric(sources, fused, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(METRICS, "AG", Metric(METRICS["AG"].compute, min_side=W))
    monkeypatch.setitem(METRICS, "CC", Metric(METRICS["CC"].compute, min_side=H))
    for folder in ("ir", "vis", "ours"):
        write(tmp_path / folder / "b.png", picture(2, W, W))
    args = (*sources, *CHEAP, "--fused", fused, "--fused", f"again={fused}")
    code, out, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    assert code == 1 and len(lines) == 2  # once a pair, not once a method
    for line, stem in zip(lines, "ac", strict=True):
        path = tmp_path / "ir" / f"{stem}.png"
        assert line.startswith(f"error: {path} is {W}x{H} pixels, too small for AG ")
        assert str(W) in line and "CC" not in line
    method = json.loads((tmp_path / "s.json").read_text())["methods"]["ours"]
    assert [row["AG"] is None for row in method["images"]] == [True, False, True]
    assert method["count"] == {"AG": 1, "CC": 3}
    assert out.count("(n=1)") == 2


def test_flat_images_are_warned_about(sources, fused, tmp_path, capfd):
    write(tmp_path / "ir" / "a.png", np.full((H, W), 77, np.uint8))
    write(fused / "b.png", np.full((H, W), 77, np.uint8))
    again = fused_folder(tmp_path / "again")
    args = (*sources, *CHEAP, "--fused", fused, "--fused", again)
    code, out, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    assert code == 0
    assert lines == [
        f"warning: {tmp_path / 'ir' / 'a.png'} is flat: no CC there.",
        f"warning: {fused / 'b.png'} is flat: no CC there.",
    ]
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["errors"] == []
    images = content["methods"]["ours"]["images"]
    assert [row["CC"] is None for row in images] == [True, True, False]
    assert images[1]["AG"] < 1e-15
    assert content["methods"]["ours"]["count"] == {"AG": 3, "CC": 1}
    assert content["methods"]["again"]["count"] == {"AG": 3, "CC": 2}
    assert "(n=1)" in out and "(n=2)" in out


def test_values_without_a_flat_image_to_blame(sources, fused, tmp_path, capfd):
    image = (tmp_path / "ir" / "a.png").read_bytes()
    for path in (tmp_path / "vis" / "a.png", fused / "a.png"):
        path.write_bytes(image)
    args = (*sources, "--metrics", "SCD", "--fused", fused)
    code, _, lines = run(capfd, *args)
    assert code == 0 and len(lines) == 1
    assert lines[0].startswith(f"warning: {fused / 'a.png'} has no finite SCD")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("--ir ir --vis vis", ("nothing to score", "--fused", "--model")),
        ("--ir none --vis vis --fused ours", ("none is not a folder",)),
        ("--ir ir/a.png --vis vis --fused ours", ("ir/a.png is not a folder",)),
        ("--ir empty --vis empty --fused ours", ("hold no pairs", ".png")),
        ("--ir ir --vis empty --fused ours", ("hold no pairs", "ir", "empty")),
        ("--ir ir --vis vis --fused empty", ("empty holds no fused", "a.png")),
        ("--ir ir --vis vis --fused odd", ("odd holds no fused", "a.png")),
        ("--ir ir --vis vis --fused none", ("none is not a folder",)),
        ("--ir ir --vis vis --fused ours/a.png", ("a.png is not a folder",)),
        ("--ir ir --vis vis --fused X=none", ("none is not a folder",)),
        ("--ir ir --vis vis --fused =ours", ("--fused =", "NAME=DIR")),
        ("--ir ir --vis vis --fused ours=", ("ours=", "NAME=DIR")),
        (
            "--ir ir --vis vis --fused ours --fused deep/ours",
            ("both called 'ours'", "--fused deep/ours", "NAME=DIR"),
        ),
        (
            "--ir ir --vis vis --model model --fused model=ours",
            ("both called 'model'", "--model model", "NAME=DIR"),
        ),
        ("--ir ir --vis vis --fused ours --metrics AG,XY", ("XY", "MS_SSIM")),
        ("--ir ir --vis vis --fused ours --scale 2", ("--scale 2", "--model")),
        ("--ir ir --vis vis --model none", ("none does not exist",)),
        ("--ir ir --vis vis --model model --scale 3", ("--scale 3", "scale 2")),
        ("--ir ir --vis vis --fused ours --out s.txt", ("s.txt", ".json, .csv, .md")),
        ("--ir ir --vis vis --fused ours --out s", ("--out s", ".json, .csv, .md")),
        ("--ir ir --vis vis --fused ours --out d.json", ("d.json is a folder",)),
        (
            "--ir ir --vis vis --fused ours --out ok.json --out ir/a.png/s.md",
            ("ir/a.png", "written", "--out"),
        ),
    ],
)
def test_mistakes_are_found_before_any_work(
    sources, fused, model_dir, tmp_path, capfd, monkeypatch, args, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "d.json").mkdir()
    fused_folder(tmp_path / "odd", ["a_fused"])
    fused_folder(tmp_path / "deep" / "ours")
    (tmp_path / "model").symlink_to(model_dir)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(scoring, "score_pair", lambda *_: pytest.fail("scored"))
    fails(capfd, *args.split(), says=says)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "args", [["--protocol", "raw"], ["--scale", "5"], ["--out"], ["--unknown"]]
)
def test_usage_errors_return_2(sources, capfd, args):
    with pytest.raises(SystemExit) as error:
        evaluate.main([*sources, "--fused", "f", *args])
    assert error.value.code == 2
    assert "usage:" in capfd.readouterr().err


def test_an_out_file_that_fails_does_not_take_the_others_along(
    sources, fused, tmp_path, capfd, monkeypatch
):
    real = atomic_files.write_atomically

    def write_atomically(path, content):
        if path.suffix == ".csv":
            raise UserError(f"{path} cannot be written (No space left on device).")
        real(path, content)

    monkeypatch.setattr(evaluate, "write_atomically", write_atomically)
    args = [*sources, *CHEAP, "--fused", fused]
    for suffix in ("json", "csv", "md"):
        args += ["--out", tmp_path / "out" / f"s.{suffix}"]
    code, out, lines = run(capfd, *args)
    assert code == 1 and "| ours |" in out
    path = tmp_path / "out" / "s.csv"
    assert lines == [f"error: {path} cannot be written (No space left on device)."]
    assert sorted(os.listdir(tmp_path / "out")) == ["s.json", "s.md"]


def test_interrupt_ends_the_run_and_writes_nothing(
    sources, fused, tmp_path, capfd, monkeypatch
):
    noticed, begun = threading.Event(), []

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            noticed.set()
            super().shutdown(wait=wait)

    def score(ir, vis, fused, names):
        begun.append(1)
        assert len(begun) == 1 or noticed.wait(60)
        return {name: np.float64(1) for name in names}

    def bar(outcomes, **_):
        yield next(outcomes)
        raise KeyboardInterrupt  # where Python raises it: in the main thread

    monkeypatch.setattr(scoring, "tqdm", bar)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(scoring.jax, "local_device_count", lambda: 1)
    monkeypatch.setattr(scoring, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(metrics, "score", score)
    for number in range(9):
        for folder in ("ir", "vis", "ours"):
            write(tmp_path / folder / f"{number}.png", picture(number))
    args = (*sources, *CHEAP, "--fused", fused, "--out", tmp_path / "out" / "s.json")
    code, out, lines = run(capfd, *args)
    assert (code, out) == (130, "")
    assert lines == ["error: interrupted; what was written is whole."]
    assert len(begun) <= 2  # the second was at work when the signal came
    assert os.listdir(tmp_path / "out") == []


# --- the process --------------------------------------------------------------------


def test_help_shows_examples_and_heavy_packages_stay_out():
    code = (
        "import sys, hkdnet_jax.evaluate as evaluate\n"
        "heavy = {'tensorflow', 'orbax', 'tensorstore', 'clu', 'grain'}\n"
        "print(heavy & {name.split('.')[0] for name in sys.modules})\n"
        "sys.exit(evaluate.main(['--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("set()\n")
    assert "examples:" in done.stdout
    assert "python -m hkdnet_jax.evaluate --ir" in done.stdout
