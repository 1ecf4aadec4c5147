"""The command that scores: tables, files of scores, mistakes and interrupts."""

import csv
import functools
import json
import os
import re
import signal
import subprocess
import sys

import command_fixtures
import numpy as np
import pytest
from command_fixtures import make_pair, write
from evaluate_fixtures import (
    H,
    W,
    expected_values,
    fused_folder,
    model_output,
    picture,
    save_model,
    write_sources,
)

from hkdnet_jax import evaluate, metrics
from hkdnet_jax.common import atomic_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import score_files, scoring
from hkdnet_jax.metrics import detail

CHEAP = ("--metrics", "AG,CC")  # compile in no time
FOLDERS = {"ir": "ir", "vis": "vis", "fused": "f"}  # flag -> folder


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """A student of scale 2 with random weights."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny_x2")


@pytest.fixture
def sources(tmp_path):
    """Arguments --ir --vis of two folders with the pairs a, b and c."""
    write_sources(tmp_path)
    return ["--ir", str(tmp_path / "ir"), "--vis", str(tmp_path / "vis")]


@pytest.fixture
def fused(tmp_path):
    return fused_folder(tmp_path / "ours")


run = functools.partial(command_fixtures.run, evaluate)
fails = functools.partial(command_fixtures.fails, evaluate)


def scored(capfd, tmp_path, *args):
    """Content of the JSON file of a run that finds nothing to complain about."""
    code, _, lines = run(capfd, *args, "--out", tmp_path / "scores.json")
    assert (code, lines) == (0, [])
    return json.loads((tmp_path / "scores.json").read_text())


# --- folders of fused images --------------------------------------------------------


def test_the_levels_of_deep_sources_are_taken_and_said(tmp_path, fused, capfd):
    for seed, stem in enumerate("abc"):
        ir, vis = make_pair(seed, H, W)
        write(tmp_path / "ir" / f"{stem}.png", 7000 + 5 * ir.astype(np.uint16))
        write(tmp_path / "vis" / f"{stem}.png", vis)
    folders = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis", "--fused", fused]
    args = [*map(str, folders), *CHEAP]
    code, out, (line,) = run(capfd, *args)
    assert code == 0 and "Levels of the infrared files: 7" in line
    code, other, lines = run(capfd, *args, "--ir-range", "full")
    assert (code, lines) == (0, []) and other != out
    fails(capfd, *args, "--ir-range", "9:7", says=["--ir-range", "'9:7'"])


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

    def score(ir, vis, fused, names, scale):
        asked.append(names)
        return {name: np.float64(1) for name in names}

    monkeypatch.setattr(metrics, "score", score)
    run(capfd, *sources, "--fused", fused)
    assert asked == [metrics.PAPER] * 3
    run(capfd, *sources, "--fused", fused, "--metrics", "all")
    assert asked[3] == metrics.PAPER + metrics.EXTRA


# --- a model ------------------------------------------------------------------------


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


def test_cropped_pairs_are_counted(sources, fused, model_dir, tmp_path, capfd):
    for folder in ("ir", "vis", "ours"):
        write(tmp_path / folder / "b.png", picture(1, H + 1, W + 1))
    args = (*sources, *CHEAP, "--fused", fused, "--model", model_dir)
    code, out, lines = run(capfd, *args)
    assert code == 0 and "| tiny_x2 |" in out
    assert lines == [
        "note: 1 of 3 pairs were cropped at the right and bottom to multiples of the "
        "scale 2."
    ]


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


def test_flat_images_are_warned_about(sources, fused, tmp_path, capfd):
    write(tmp_path / "ir" / "a.png", np.full((H, W), 77, np.uint8))
    write(fused / "b.png", np.full((H, W), 77, np.uint8))
    again = fused_folder(tmp_path / "again")
    args = (*sources, *CHEAP, "--fused", fused, "--fused", again)
    code, out, lines = run(capfd, *args, "--out", tmp_path / "s.json")
    assert code == 0
    assert lines == [
        f"warning: {tmp_path / 'ir' / 'a.png'} is flat: no value for CC.",
        f"warning: {fused / 'b.png'} is flat: no value for CC.",
    ]
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["errors"] == []
    images = content["methods"]["ours"]["images"]
    assert [row["CC"] is None for row in images] == [True, True, False]
    assert images[1]["AG"] < 1e-15
    assert content["methods"]["ours"]["count"] == {"AG": 3, "CC": 1}
    assert content["methods"]["again"]["count"] == {"AG": 3, "CC": 2}
    assert "(n=1)" in out and "(n=2)" in out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("--fused none", ("none is not a folder",)),  # others: test_comparison.py
        ("--model model --scale 3", ("--scale 3", "scale 2")),
        ("--fused ours --metrics AG,XY", ("XY", "MS_SSIM")),
        ("--fused ours --out s.txt", ("s.txt", ".json, .csv, .md")),
        ("--fused ours --out s", ("--out s", ".json, .csv, .md")),
        ("--fused ours --out d.json", ("d.json is a folder",)),
        (
            "--fused ours --out ok.json --out ir/a.png/s.md",
            ("ir/a.png", "written", "--out"),
        ),
    ],
)
def test_mistakes_are_found_before_any_work(
    sources, fused, model_dir, tmp_path, capfd, monkeypatch, args, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").mkdir()
    (tmp_path / "model").symlink_to(model_dir)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(scoring, "score_pair", lambda *_: pytest.fail("scored"))
    fails(capfd, *sources, *args.split(), says=says)
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

    monkeypatch.setattr(score_files, "write_atomically", write_atomically)
    args = [*sources, *CHEAP, "--fused", fused]
    for suffix in ("json", "csv", "md"):
        args += ["--out", tmp_path / "out" / f"s.{suffix}"]
    code, out, lines = run(capfd, *args)
    assert code == 1 and "| ours |" in out
    path = tmp_path / "out" / "s.csv"
    assert lines == [f"error: {path} cannot be written (No space left on device)."]
    assert sorted(os.listdir(tmp_path / "out")) == ["s.json", "s.md"]


# --- the process --------------------------------------------------------------------


# SIGINT as in a terminal, also where the tests run in a shell's background.
PROGRAM = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("hkdnet_jax.evaluate", run_name="__main__", alter_sys=True)
"""


def test_an_interrupt_ends_the_run_and_writes_nothing(tmp_path):
    count = 400  # each of a size that is compiled for: about a minute on two cores
    for number in range(count):
        images = *make_pair(number, H, W + number), picture(9, H, W + number)
        for folder, image in zip(("ir", "vis", "f"), images, strict=True):
            write(tmp_path / folder / f"{number}.png", image)
    args = [f"--{name}={tmp_path / folder}" for name, folder in FOLDERS.items()]
    args += [*CHEAP, f"--out={tmp_path}/out/s.json"]
    command = [sys.executable, "-c", PROGRAM, *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe) as process:
        try:
            said = b""
            while not re.search(rb"\b[1-9]\d*/400 \[", said):  # a pair is done
                more = os.read(process.stderr.fileno(), 4096)
                assert more, said.decode()
                said += more
            process.send_signal(signal.SIGINT)
            out, more = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, b"")
    lines = re.split(r"[\r\n]+", (said + more).decode().strip())
    assert [line for line in lines if line and "%|" not in line] == [
        "error: interrupted; every file written so far is complete."
    ]
    assert os.listdir(tmp_path / "out") == []


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
    assert done.stdout.count("on the range of --ir-range") == 1


# --- detail -------------------------------------------------------------------------


def test_detail_needs_the_scale_of_saved_pictures(tmp_path, capfd):
    for kind, image in zip(("ir", "vis"), make_pair(0, 40, 44), strict=True):
        write(tmp_path / kind / "a.png", image)
    write(tmp_path / "f" / "a.png", picture(3, 40, 44))
    args = [
        "--ir",
        tmp_path / "ir",
        "--vis",
        tmp_path / "vis",
        "--fused",
        tmp_path / "f",
    ]
    args += ["--metrics", "detail_energy,detail_fidelity"]
    fails(capfd, *args, says=("detail_energy depends on", "add --scale 2, 3 or 4"))
    images = [np.float64(x) for x in (*make_pair(0, 40, 44), picture(3, 40, 44))]
    for scale in (2, 4):
        content = scored(capfd, tmp_path, *args, "--scale", scale)
        want = detail.detail_energy(*images, scale=scale)
        assert content["images"][0]["detail_energy"] == want
