"""The command that compares systems: what it measures, continues and refuses."""

import csv
import functools
import json
from pathlib import Path

import command_fixtures
import numpy as np
import pytest
from command_fixtures import make_pair, write
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hkdnet_jax import compare, metrics, pretrained
from hkdnet_jax.baselines import registry
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import score_files, side_by_side_figures
from hkdnet_jax.inference.pair import fuse_pair

pytestmark = pytest.mark.usefixtures("compiled_for_speed")

DRAW = side_by_side_figures.draw
H, W = 49, 63  # cropped to 48x60
run = functools.partial(command_fixtures.run, compare)
fails = functools.partial(command_fixtures.fails, compare)

MODULE = """
from pathlib import Path

import numpy as np

def larger(ir, vis, scale):
    with open(Path(__file__).with_name("calls.txt"), "a") as file:
        file.write(f"{ir.shape[0]} {scale}\\n")
    large = np.kron(np.maximum(ir, vis), np.ones((4, 4), np.float32))
    rows, columns = (round(scale * side) for side in ir.shape)
    at = [(4 * np.arange(n) / scale).astype(int) for n in (rows, columns)]
    return large[np.ix_(*at)]

def small(ir, vis, scale):
    return ir

def broken(ir, vis, scale):
    raise IndexError("no such thing")
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Arguments for two pairs, and a folder with a module of methods to start in."""
    # The figures take seconds.
    monkeypatch.setattr(side_by_side_figures, "draw", lambda *args: [])
    for seed, stem in enumerate("ab"):
        for kind, image in zip(("ir", "vis"), make_pair(seed, H, W), strict=True):
            write(tmp_path / kind / f"{stem}.png", image)
    # Modules of several tests must not be taken for one.
    (tmp_path / f"{tmp_path.name}_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return ["--ir", "ir", "--vis", "vis", "--out", "out"]


@pytest.fixture
def quick_scores(monkeypatch):
    """Scores that take no time, for tests that look at none."""

    def score(ir, vis, fused, names=metrics.PAPER, scale=1):
        return dict.fromkeys(names, fused.mean())

    monkeypatch.setattr(metrics, "score", score)


def method(tmp_path, name):
    return f"{tmp_path.name}_module:{name}"


def cropped(seed):
    return [image[:48, :60] for image in make_pair(seed, H, W)]


def pillow(image, scale, kind):
    factor = 1 / scale if kind == Image.BILINEAR else scale
    size = [round(side * factor) for side in image.shape[::-1]]
    return np.asarray(Image.fromarray(image).resize(size, kind))


def read(name="out/compare.json"):
    return json.loads(Path(name).read_text())


def picture(scale, name, stem):
    return np.asarray(Image.open(f"out/pictures/x{scale}/{name}/{stem}.png"))


def test_what_is_measured(sources, tmp_path, capfd):
    for seed, stem in enumerate("ab"):
        write(tmp_path / "theirs_3" / f"{stem}.png", make_pair(seed + 5, H, W)[0])
        write(tmp_path / "theirs_2" / f"{stem}.png", make_pair(seed, 48, 60)[1])
    methods = ["--methods", "average+bicubic", "--method", method(tmp_path, "larger")]
    methods += ["--fused", "theirs=theirs_{scale}"]
    code, out, errors = run(capfd, *sources, *methods, "--scale", 2, 3)
    assert (code, errors) == (0, [])
    assert out == Path("out/compare.md").read_text() and "## x3" in out
    assert "protocol paper" in out and "| larger | 2 |" in out

    content = read()
    assert list(content["scales"]) == ["2", "3"] and content["machine"]["cores"]
    for scale in (2, 3):
        found = content["scales"][str(scale)]
        assert list(found) == ["average+bicubic", "larger", "theirs"]
        for name, entry in found.items():
            assert [row["name"] for row in entry["images"]] == ["a", "b"]
            for column in ("plain_AG", "paper_SCD", "detail_energy"):
                values = [row[column] for row in entry["images"]]
                assert entry["mean"][column] == pytest.approx(np.mean(values))
            for seed, row in enumerate(entry["images"]):
                check_row(row, seed, scale, name)

    rows = list(csv.reader(Path("out/compare.csv").read_text().splitlines()))
    assert len(rows) == 1 + 2 * 3 * 2
    assert rows[0][:5] == ["scale", "method", "image", "psnr", "ssim"]
    assert rows[-1][:5] == ["3", "theirs", "b", "", ""]
    last = content["scales"]["3"]["theirs"]["images"][1]
    assert float(rows[-1][-1]) == last["paper_CC"]


def test_report_reads_what_was_written(sources, tmp_path, capfd):
    args = ["--methods", "average+bicubic", "--method", method(tmp_path, "larger")]
    assert run(capfd, *sources, *args)[0] == 0
    found = score_files.read(Path("out/compare.json"))
    assert list(found) == ["x2 own", "x2 plain", "x2 paper"]
    means = {k: m["mean"] for k, m in read()["scales"]["2"].items()}
    assert found["x2 own"].metrics == ["psnr", "ssim", *metrics.DETAIL]
    for name, mean in means.items():
        for metric in metrics.PAPER:
            assert found["x2 paper"].mean(name, metric) == mean[f"paper_{metric}"]
        assert found["x2 own"].mean(name, "psnr") == mean["psnr"]
    text = Path("out/compare.tex").read_text()
    assert text.count(r"\begin{tabular}") == 3 and "% x2 own" in text
    best = max(mean["psnr"] for mean in means.values())
    assert rf"\textbf{{{best:.4f}}}" in text and "average+bicubic &" in text


@pytest.mark.usefixtures("quick_scores")
def test_figures_are_those_of_report(sources, tmp_path, capfd, monkeypatch):
    args = ["--methods", "average+bicubic", "--method", method(tmp_path, "larger")]
    monkeypatch.setattr(side_by_side_figures, "draw", DRAW)
    drawn = []
    draw = side_by_side_figures.zoomed.draw_sheet
    monkeypatch.setattr(
        side_by_side_figures.zoomed, "draw_sheet", lambda r: drawn.append(r) or draw(r)
    )
    assert run(capfd, *sources, *args)[0] == 0
    names = {file.name for file in Path("out/figures").iterdir()}
    assert names == {"x2_own.pdf", "x2_plain.pdf", "x2_paper.pdf", "x2_sheet.png"}
    (rows,) = drawn
    assert [row.name for row in rows] == ["a", "b"]
    for seed, row in enumerate(rows):
        pictures = dict(row.pictures)
        for kind, image in zip(("infrared", "visible"), cropped(seed), strict=True):
            np.testing.assert_array_equal(pictures.pop(kind), image)
        assert list(pictures) == ["average+bicubic", "larger"]
        for name, image in pictures.items():
            np.testing.assert_array_equal(image, picture(2, name, row.name))

    def no_matplotlib(*args):
        raise UserError("Figures need the extra.")

    monkeypatch.setattr(side_by_side_figures, "draw", no_matplotlib)
    code, _, errors = run(capfd, *sources, *args)
    assert code == 0 and errors == [
        "note: there are no figures, because of: Figures need the extra."
    ]


@pytest.mark.usefixtures("quick_scores")
def test_halves_of_scales(sources, tmp_path, capfd):
    for seed, stem in enumerate("ab"):
        for kind, image in zip(("ir", "vis"), make_pair(seed, 65, 63), strict=True):
            write(tmp_path / kind / f"{stem}.png", image)
    args = ["--methods", "average+bicubic", "--method", method(tmp_path, "larger")]
    code, out, errors = run(capfd, *sources, *args, "--scale", "2.5", "2")
    assert (code, errors) == (0, []) and "## x2.5" in out
    assert list(read()["scales"]) == ["2", "2.5"]
    # 60 is the only multiple of 60; at x2 it is 60x60 as well, of 65x63.
    ir, vis = (image[:60, :60] for image in make_pair(0, 65, 63))
    low = [pillow(x, 2.5, Image.BILINEAR).astype(np.float32) for x in (ir, vis)]
    assert low[0].shape == (24, 24)
    want = Image.fromarray((2 * low[0] + low[1]) / 3).resize((60, 60), Image.BICUBIC)
    got = picture(2.5, "average+bicubic", "a")
    np.testing.assert_allclose(got, np.clip(want, 0, 255), atol=0.51)
    assert picture(2.5, "larger", "a").shape == (60, 60)
    assert read()["scales"]["2.5"]["larger"]["images"][0]["psnr"] > 5
    args = ["--methods", "average+bicubic,lite", "--scale", "2.5"]
    code, out, errors = run(capfd, *sources, *args)
    assert code == 1 and len(errors) == 1 and "## x2.5" in out
    assert "lite at x2.5: lite cannot enlarge 2.5 times: give a whole" in errors[0]


def check_row(row, seed, scale, name):
    """Measures a picture again, from the file that was written."""
    stem = "ab"[seed]
    ir, vis = cropped(seed)
    low = [pillow(x, scale, Image.BILINEAR).astype(np.float32) for x in (ir, vis)]
    fused = picture(scale, name, stem)
    if name == "average+bicubic":
        want = pillow((2 * low[0] + low[1]) / 3, scale, Image.BICUBIC)
        own = (2 * ir.astype(np.float64) + vis) / 3
    elif name == "larger":
        want = np.kron(np.maximum(*low), np.ones((scale, scale)))
        own = np.maximum(ir, vis)
    else:
        theirs = (
            make_pair(seed + 5, H, W)[0] if scale == 3 else make_pair(seed, 48, 60)[1]
        )
        want, own = theirs[:48, :60], None
    np.testing.assert_allclose(fused, want.clip(0, 255), atol=0.51)
    stretched = (want.clip(0, 255) if own is None else want).astype(np.float64)
    if name == "average+bicubic":  # each source is stretched as well
        low = [(x - x.min()) / np.ptp(x) for x in low]
        stretched = pillow(np.float32((2 * low[0] + low[1]) / 3), scale, Image.BICUBIC)
    elif name == "larger":
        low = [(x - x.min()) / np.ptp(x) for x in low]
        stretched = np.kron(np.maximum(*low), np.ones((scale, scale)))
    stretched = 255 * (stretched - stretched.min()) / np.ptp(stretched)
    for protocol, image, close in (
        ("plain", fused, 1e-12),
        ("paper", np.rint(stretched).astype(np.uint8), 2e-3),  # a level may differ
    ):
        scored = metrics.score(ir, vis, image, ("AG", "SCD", "CC"))
        for metric, value in scored.items():
            assert row[f"{protocol}_{metric}"] == pytest.approx(float(value), rel=close)
    for metric, value in metrics.score(ir, vis, fused, metrics.DETAIL, scale).items():
        assert row[metric] == float(value)
    if own is None:
        assert row["psnr"] is row["ssim"] is row["seconds"] is row["megabytes"] is None
        return
    label = picture(1, name, stem)
    np.testing.assert_allclose(label, own, atol=0.51)
    psnr = peak_signal_noise_ratio(label, fused, data_range=255)
    assert row["psnr"] == pytest.approx(psnr, rel=1e-4)
    ssim = structural_similarity(
        label,
        fused,
        gaussian_weights=True,
        use_sample_covariance=False,
        data_range=255,
        full=True,
    )[1][5:-5, 5:-5].mean()
    assert row["ssim"] == pytest.approx(ssim, abs=1e-4)
    assert 0 < row["seconds"] < 60
    assert row["megabytes"] is None or 0 <= row["megabytes"] < 4000


@pytest.mark.usefixtures("quick_scores")
def test_it_continues_and_is_extended(sources, tmp_path, capfd):
    args = [*sources, "--method", method(tmp_path, "larger"), "--methods"]
    args.append("average+bicubic")

    def calls():
        file = tmp_path / "calls.txt"
        lines = file.read_text().split("\n")[:-1]
        file.write_text("")
        return sorted(lines)

    assert run(capfd, *args)[0] == 0
    assert calls() == sorted(["24 2", "24 2", "48 1"] * 2)
    first = read()
    assert run(capfd, *args)[0] == 0
    assert calls() == [] and read() == first
    # Another scale takes the fusion of the high-resolution pair from its file.
    assert run(capfd, *args, "--scale", 2, 4)[0] == 0
    assert calls() == ["12 4"] * 4
    assert read()["scales"]["2"] == first["scales"]["2"]
    # A broken row and a changed source are measured again.
    (tmp_path / "out/rows/x2/larger/a.json").write_text('{"key"')
    assert run(capfd, *args)[0] == 0
    assert calls() == ["24 2", "24 2"]
    write(tmp_path / "ir/b.png", 255 - make_pair(1, H, W)[0])
    assert run(capfd, *args)[0] == 0
    assert calls() == ["24 2", "24 2", "48 1"]
    assert read()["scales"]["2"]["larger"] != first["scales"]["2"]["larger"]


def test_what_cannot_be_done_is_said_once_and_the_others_run(sources, tmp_path, capfd):
    args = ["--methods", "cnn+edsr,average+imdn,average+bicubic", "--scale", 2]
    for name in ("small", "broken"):
        args += ["--method", method(tmp_path, name)]
    args += ["--weights", tmp_path]
    code, out, errors = run(capfd, *sources, *args)
    assert code == 1 and "| average+bicubic | 2 |" in out and "| small | 0 |" in out
    assert len(errors) == 4
    for sentence, words in zip(
        errors,
        (
            f"error: cnn+edsr: cnn has no weights here, because {tmp_path}/cnn does",
            "error: average+imdn at x2: imdn has no weights here, because",
            "error: small at x2: small returned float32 of shape (24, 30), where",
            "error: broken at x2: broken failed (IndexError: no such thing): correct",
        ),
        strict=True,
    ):
        assert words in sentence
    assert read()["errors"] == [e.removeprefix("error: ") for e in errors]
    assert read()["scales"]["2"]["small"]["mean"]["plain_AG"] is None


def test_ours_is_the_model_of_the_package(sources, capfd):
    assert run(capfd, *sources, "--methods", "lite")[0] == 0
    ir, vis = cropped(0)
    low = [pillow(x, 2, Image.BILINEAR) for x in (ir, vis)]
    for scale, images, options in ((2, low, {}), (1, (ir, vis), {})):
        want = fuse_pair(pretrained.load(scale), *images, **options)
        difference = picture(scale, "lite", "a").astype(int) - want
        assert np.abs(difference).max() <= 1 and (difference == 0).mean() > 0.999
    paper = fuse_pair(pretrained.load(2), *low, normalize="minmax", stretch=True)
    want = metrics.score(ir, vis, paper, ("AG", "CC"))
    row = read()["scales"]["2"]["lite"]["images"][0]
    for name, value in want.items():
        assert row[f"paper_{name}"] == pytest.approx(float(value), rel=1e-4)


def test_mistakes(sources, tmp_path, capfd):
    for args, words in (
        (["--methods", "x"], ["'x' is not a method", *registry.FUSIONS]),
        (["--method", "nothing"], ["names no function"]),
        (["--method", "no_such_module:f"], ["cannot be loaded (ModuleNotFoundError"]),
        (["--method", method(tmp_path, "none")], ["cannot be loaded (AttributeError"]),
        (["--fused", "theirs"], ["must be NAME=DIR"]),
        (["--fused", "theirs=x", "--scale", 2, 3], ["must be NAME=DIR, with {scale}"]),
        (["--fused", "theirs=x"], ["x"]),
        (["--methods", "densefuse+rcan"], ["densefuse has no weights", "--weights"]),
        (
            ["--method", f"lite={method(tmp_path, 'larger')}", "--methods", "lite"],
            ["Two methods are called 'lite'"],
        ),
    ):
        fails(capfd, *sources, *args, says=words)
    assert not (tmp_path / "out").exists()
