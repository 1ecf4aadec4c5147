"""The command report: each kind on made runs, scores and pictures, and wrong input."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from command_fixtures import fails, make_pair, run, write
from PIL import Image

from hkdnet_jax import metrics, report
from hkdnet_jax.common.image_files import image_size
from hkdnet_jax.evaluation import score_files
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.model_files import file_format

ROWS = [
    {"step": step, "train/loss": 10 / step, "train/lr": 1e-3, "val/psnr": 20 + step}
    for step in (1, 2, 3)
]
VALUES = {
    "ours": {"a": {"AG": 0.25, "CC": 0.5}, "b": {"AG": 0.5, "CC": 0.25}},
    "<other>": {"a": {"AG": 0.125, "CC": 0.75}, "b": {"AG": 0.5, "CC": 0.5}},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, models):
    """The folder of a student's run, as training leaves it, with scores beside it."""
    folder = tmp_path_factory.mktemp("runs") / "x2"
    config, params = file_format.load_model(models[2])
    file_format.save_model(folder, config, params)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "config.json").write_text('{"kind": "student", "scale": 2, "x": "<b>"}')
    environment = {"devices": ["cpu"], "packages": {"jax": "1.2.3"}, "git": None}
    (folder / "environment.json").write_text(json.dumps(environment))
    for step in (1, 3):
        strip = np.full((32, 5 * 32), 10 * step, np.uint8)
        strip[:, :32] = make_pair(0, 32, 32)[0]
        write(folder / f"samples/step_{step:08d}/pair.png", strip)
    scores = Scores(("AG", "CC"), VALUES, 2, "plain")
    score_files.write(scores, [folder / "scores.json"])
    return folder


class Page(HTMLParser):
    """The pictures, headings and addresses of a page; its tags must be closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.addresses = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[k] for k in ("src", "href") if k in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_run_is_one_page_that_needs_no_other_file(tmp_path, capfd, workdir):
    out = tmp_path / "report.html"
    code, printed, errors = run(report, capfd, "run", workdir, "--out", out)
    assert (code, printed, errors) == (0, f"Wrote {out}.\n", [])
    text = out.read_text()
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "http" not in re.sub(r'src="[^"]*"', "", text)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        *("Summary", "Training", "Validation", "Pictures", "Heat maps", "Scores"),
        *("Configuration", "Environment"),
    ]
    alts = [image["alt"] for image in page.images]
    assert alts[1] == "pair: infrared, visible, bicubic, fused, label of the teacher"
    # The pictures of the last validation, unchanged.
    content = base64.b64decode(page.images[1]["src"].partition(",")[2])
    assert np.asarray(Image.open(io.BytesIO(content)))[0, 40] == 30
    assert "<td>23.0000 at 3</td>" in text and "&lt;other&gt;" in text
    assert "<b>" not in re.sub("<b>[0-9.]+</b>", "", text)


def test_a_run_that_has_just_begun(tmp_path, capfd):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "train/loss": 1.0}\n')
    out = tmp_path / "report.html"
    assert run(report, capfd, "run", tmp_path, "--out", out)[0] == 0
    assert "no model yet" in out.read_text() and "Heat maps" not in out.read_text()


def test_figures_of_files(tmp_path, capfd, workdir):
    pdf = tmp_path / "curves.pdf"
    assert run(report, capfd, "curves", workdir, "--out", pdf)[0] == 0
    assert pdf.read_bytes().startswith(b"%PDF")
    scores, svg = workdir / "scores.json", tmp_path / "new" / "images.svg"
    assert run(report, capfd, "images", scores, "--out", svg)[0] == 0
    assert b"<svg" in svg.read_bytes()


def test_tables_of_files(tmp_path, capfd, workdir):
    scores = workdir / "scores.json"
    written = {}
    for suffix in ("md", "csv", "tex"):
        out = tmp_path / f"table.{suffix}"
        assert run(report, capfd, "table", scores, "--out", out)[0] == 0
        written[suffix] = out.read_text()
    assert "| ours | **0.3750** | <u>0.3750</u> |" in written["md"]
    assert "scores,ours,AG,0.375,2,best" in written["csv"]
    assert r"ours & \textbf{0.3750} & \underline{0.3750} \\" in written["tex"]


def test_tables_and_curves_of_a_comparison(tmp_path, capfd):
    row = {f"{p}_{m}": 0.5 for p in ("plain", "paper") for m in metrics.PAPER}
    row |= dict.fromkeys(("psnr", "ssim", *metrics.DETAIL), 0.25)
    method = {"images": [{"name": name} | row for name in "ab"], "mean": {}}
    content = {"scales": {"3": {"ours": method, "other_1": method}}, "errors": []}
    (tmp_path / "compare.json").write_text(json.dumps(content))
    out = tmp_path / "table1.tex"
    flags = ["table", tmp_path, "--out", out, "--only", "x3 paper"]
    assert run(report, capfd, *flags)[0] == 0
    assert r"other\_1 & \textbf{0.5000} &" in out.read_text()
    out = tmp_path / "figure10.png"
    flags = ["images", tmp_path, "--out", out, "--only"]
    assert run(report, capfd, *flags, "x3 own")[0] == 0
    assert image_size(out)[1] > 1000
    fails(report, capfd, *flags, "x*", says=("There are 3 tables", "x3 plain"))


def test_a_sweep_and_the_choice_of_a_table(tmp_path, capfd):
    rows = [
        {"variant": f"alpha = {alpha}", "scale": 1, "seed": 0}
        | {"val": {"CC": alpha}, "test": {"CC": 1 - alpha}}
        for alpha in (0.25, 0.5)
    ]
    (tmp_path / "table.json").write_text(json.dumps(rows))
    flags = ["sweep", tmp_path, "--out", tmp_path / "alpha.png"]
    fails(report, capfd, *flags, says=("There are 2 tables", "x1 val"))
    assert run(report, capfd, *flags, "--only", "* val")[0] == 0
    assert image_size(tmp_path / "alpha.png")[1] == 700
    fails(report, capfd, *flags, "--only", "x9", says=("--only x9 fits none of",))


def test_maps_and_sheets_of_pictures(tmp_path, capfd, models):
    for stem in ("a", "b"):
        ir, vis = make_pair(ord(stem), 16, 16)
        write(tmp_path / "ir" / f"{stem}.png", ir)
        write(tmp_path / "vis" / f"{stem}.png", vis)
        for method in ("one", "two"):
            fused = make_pair(len(method) + ord(method[0]), 32, 32)[0]
            write(tmp_path / method / f"{stem}.png", fused)
    pair = ["--ir", tmp_path / "ir/a.png", "--vis", tmp_path / "vis/a.png"]
    out = tmp_path / "maps.png"
    flags = ["maps", *pair, "--out", out]
    assert run(report, capfd, *flags, "--model", models[2])[0] == 0
    assert image_size(out)[1] == 1432
    fails(report, capfd, *flags, "--scale", 1, says=("Heat maps need a student",))
    folders = ["--ir", tmp_path / "ir", "--vis", tmp_path / "vis"]
    fused = ["--fused", tmp_path / "one", "--fused", f"zwei={tmp_path / 'two'}"]
    out = tmp_path / "sheet.png"
    flags = ["sheet", *folders, *fused, "--out", out]
    assert run(report, capfd, *flags, "--box", "1,2,8,8", "--pairs", "b")[0] == 0
    one = image_size(out)[0]
    assert run(report, capfd, *flags)[0] == 0
    assert image_size(out)[0] > 1.8 * one
    fails(report, capfd, *flags, "--box", "1,2", says=("LEFT,TOP,WIDTH,HEIGHT",))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["run", "DIR", "--out", "a.html"], "holds no run"),
        (["curves", "DIR", "--out", "a.png"], "holds no run"),
        (["table", "DIR", "--out", "a.md"], "holds no table.json"),
        (["images", "DIR/foreign.json", "--out", "a.png"], "holds no scores"),
        (["speed", "DIR/foreign.json", "--out", "a.png"], "holds no times"),
        (["run", "DIR", "--out", "a.txt"], "must be the name of a file"),
        (["curves", "DIR", "--out", "a.html"], "ends in .png or .pdf or .svg"),
        (["table", "DIR", "--out", "a.png"], "ends in .md or .csv or .tex"),
    ],
)
def test_empty_and_foreign_folders_are_one_sentence(tmp_path, capfd, flags, says):
    (tmp_path / "foreign.json").write_text('{"name": "other"}')
    flags = [flag.replace("DIR", str(tmp_path)) for flag in flags]
    flags[-1] = str(tmp_path / "out" / flags[-1])
    fails(report, capfd, *flags, says=(says,))
    assert not list(tmp_path.glob("out/*"))


def test_a_damaged_config_is_named(tmp_path, capfd):
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "train/loss": 1.0}\n')
    (tmp_path / "config.json").write_text("{")
    out = tmp_path / "a.html"
    fails(
        report, capfd, "run", tmp_path, "--out", out, says=("config.json is damaged",)
    )
