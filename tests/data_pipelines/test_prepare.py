"""The command, from made files to the folders that training reads."""

import functools
import http.server
import os
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from made_archives import (
    image,
    make_llvip,
    make_msrs,
    make_pairs,
    make_roadscene,
    make_tno,
    pair,
)
from PIL import Image

from data_pipelines.pairs import find_pairs
from data_pipelines.prepare import main
from data_pipelines.splits import split_pairs
from hkdnet_jax.common.pair_files import Pair, read_pair


@pytest.fixture
def prepare(tmp_path, capsys):
    """Runs the command on folders of `tmp_path`; gives exit code, stdout, stderr."""

    def run(dataset, **flags):
        argv = ["--dataset", dataset, "--data_dir", str(tmp_path / "tfds")]
        for flag, value in flags.items():
            argv += [f"--{flag}", str(value)]
        code = main(argv)
        return code, *capsys.readouterr()

    return run


def check_export(folder, made):
    """The folder holds exactly these files, byte for byte, as training finds them."""
    found = {p.name.split("/")[-1]: p for p in find_pairs([folder])}
    assert set(found) == set(made)
    for name, (ir, vis) in made.items():
        assert found[name].ir.read_bytes() == ir.read_bytes()
        assert found[name].vis.read_bytes() == vis.read_bytes()
        read_pair(found[name])


def fields(out):
    """The summary's lines as a dict."""
    rows = [line.split(": ", 1) for line in out.splitlines() if ": " in line]
    return {key.strip(): value.strip() for key, value in rows}


def test_own_pairs_of_every_format_end_to_end(prepare, tmp_path):
    root = tmp_path / "camera"
    made = make_pairs(root)["train"]
    ramp = np.linspace(0, 65535, 12 * 10).reshape(10, 12).astype(np.uint16)
    (root / "ir" / "deep.png").parent.mkdir(exist_ok=True)
    Image.fromarray(ramp).save(root / "ir" / "deep.png")
    image(root / "vis" / "deep.jpeg", (12, 10), "RGB")
    made["deep"] = (root / "ir" / "deep.png", root / "vis" / "deep.jpeg")
    made["large"] = (
        image(root / "ir" / "large.JPG", (31, 17)),
        image(root / "vis" / "large.tiff", (31, 17)),
    )

    code, out, _ = prepare(
        "pairs", ir=root / "ir", vis=root / "vis", export=tmp_path / "new" / "train"
    )
    assert code == 0
    check_export(tmp_path / "new" / "train", made)
    assert sorted(os.listdir(tmp_path / "new" / "train")) == ["ir", "vis"]
    assert os.listdir(tmp_path / "new") == ["train"]
    row = fields(out)
    assert row["Pairs"] == "train 4"
    assert row["Size"].startswith("8x6 / 12x10 / 31x17 ")
    assert row["Bit depth"] == (
        "infrared 8 bit (3), infrared 16 bit (1), visible 8 bit (4)"
    )
    assert row["Colour"] == "infrared gray (4), visible RGB (3), visible gray (1)"
    assert "your own folders" in row["Licence"]
    assert str(tmp_path / "new" / "train") in row["Exported"]
    records = row["Records"]
    assert records.startswith(str(tmp_path / "tfds"))
    assert "pairs-train.array_record-00000-of-00001" in os.listdir(records)


def test_splits_are_exported_as_lists_that_training_reads(prepare, tmp_path):
    made = make_msrs(tmp_path / "hand")
    export = tmp_path / "msrs"
    code, out, _ = prepare("msrs", manual_dir=tmp_path / "hand", export=export)
    assert code == 0
    assert fields(out)["Pairs"] == "train 3, test 1"
    check_export(export, made["train"] | made["test"])
    train, val = split_pairs(
        find_pairs([export]), str(export / "train.txt"), str(export / "test.txt"), 0.0
    )
    assert [p.name for p in train] == [f"msrs/{name}" for name in made["train"]]
    assert [p.name for p in val] == [f"msrs/{name}" for name in made["test"]]


def test_packed_pairs_are_what_training_reads(prepare, tmp_path):
    made = make_msrs(tmp_path / "hand")
    packed = tmp_path / "new" / "msrs"
    code, out, _ = prepare("msrs", manual_dir=tmp_path / "hand", pack=packed)
    assert code == 0
    assert fields(out)["Packed"].startswith(f"{packed} ")
    assert fields(out)["Train with"] == (
        "--config.data.tfds=msrs:train+msrs:test "
        f"--config.data.tfds_dir={tmp_path / 'tfds'}"
    )
    assert sorted(os.listdir(packed)) == [
        *("pairs.json", "pixels.npy", "test.txt", "train.txt")
    ]
    found = find_pairs([packed])
    files = made["train"] | made["test"]
    assert [p.name for p in found] == [f"msrs/{n}" for n in sorted(files)]
    for one in found:
        ir, vis = files[one.name.removeprefix("msrs/")]
        for got, expected in zip(one.read(), read_pair(Pair("", ir, vis)), strict=True):
            np.testing.assert_array_equal(got, expected)
    train, val = split_pairs(
        found, str(packed / "train.txt"), str(packed / "test.txt"), 0.0
    )
    assert (len(train), len(val)) == (3, 1)


def test_own_pairs_are_taken_anew_each_time(prepare, tmp_path):
    root = tmp_path / "camera"
    made = make_pairs(root)["train"]
    assert prepare("pairs", manual_dir=root)[0] == 0
    made["c"] = pair(root / "ir" / "c.png", root / "vis" / "c.png")
    # The same two folders by the other flags are the same data set.
    flags = {"ir": root / "ir", "vis": root / "vis"}
    assert prepare("pairs", **flags, export=tmp_path / "out")[0] == 0
    check_export(tmp_path / "out", made)
    assert len(os.listdir(tmp_path / "tfds" / "pairs")) == 1
    # Folders of the same names elsewhere are another one.
    make_pairs(tmp_path / "other" / "camera")
    assert prepare("pairs", manual_dir=tmp_path / "other" / "camera")[0] == 0
    assert len(os.listdir(tmp_path / "tfds" / "pairs")) == 2


def test_a_public_data_set_is_prepared_once(prepare, tmp_path):
    made = make_llvip(tmp_path / "hand")
    first = prepare("llvip", manual_dir=tmp_path / "hand")
    assert first[0] == 0 and "Already prepared" not in first[1]
    code, out, _ = prepare("llvip", export=tmp_path / "out")
    assert code == 0 and "Already prepared" in out
    check_export(tmp_path / "out", made["train"] | made["test"])
    assert fields(out)["Licence"].startswith("Non-commercial")


def test_left_out_pairs_are_listed_and_the_others_done(prepare, tmp_path):
    root = tmp_path / "camera"
    made = make_pairs(root)["train"]
    pair(root / "ir" / "c.png", root / "vis" / "c.png")
    image(root / "vis" / "c.png", (5, 5))
    image(root / "ir" / "d.png")
    code, out, _ = prepare("pairs", manual_dir=root, export=tmp_path / "out")
    assert code == 1
    check_export(tmp_path / "out", made)
    listed = fields(out)["Left out!"]
    assert listed.startswith("2, ")
    assert str(root / "ir" / "c.png") in listed and "5x5" in listed
    assert str(root / "ir" / "d.png") in listed


def test_known_flaws_do_not_fail_the_command(prepare, tmp_path):
    made = make_tno(tmp_path / "hand")
    ir, _ = made["test"].pop("Triclobs_Movie_24")
    image(ir, (7, 7))
    code, out, _ = prepare("tno", manual_dir=tmp_path / "hand", export=tmp_path / "o")
    assert code == 0
    check_export(tmp_path / "o", made["test"] | made["sequences"])
    assert fields(out)["Pairs"] == "test 54, sequences 180"
    assert fields(out)["Left out"].startswith("1, known flaws: ")


@pytest.mark.parametrize(
    ("dataset", "flags", "sentence"),
    [
        ("pairs", {}, "needs two folders"),
        ("pairs", {"ir": "camera/ir"}, "needs two folders"),
        ("pairs", {"ir": "camera/ir", "vis": "nowhere"}, "nowhere is not a folder"),
        ("pairs", {"manual_dir": "camera/ir"}, "is not a folder"),
        ("msrs", {"ir": "camera/ir", "vis": "camera/vis"}, "are for --dataset pairs"),
        ("kaist", {"manual_dir": "nowhere"}, "nowhere is not a folder"),
        ("kaist", {"manual_dir": "camera"}, "expected folders setXX/VXXX"),
        ("kaist", {}, "fetched by hand"),
        ("pairs", {"manual_dir": "camera", "export": "camera"}, "name a new folder"),
        ("pairs", {"manual_dir": "camera", "export": "file/out"}, "cannot be created"),
        ("pairs", {"manual_dir": "camera", "pack": "camera"}, "--pack"),
        ("pairs", {"manual_dir": "camera", "pack": "file/out"}, "cannot be created"),
        ("pairs", {"manual_dir": "camera", "pack": "a", "export": "a"}, "two folders"),
        ("pairs", {"manual_dir": "camera", "data_dir": "file"}, "cannot be created"),
    ],
)
def test_mistakes_are_one_sentence(prepare, tmp_path, dataset, flags, sentence):
    make_pairs(tmp_path / "camera")
    (tmp_path / "file").write_text("", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = prepare(dataset, **{k: tmp_path / v for k, v in flags.items()})
    assert code == 1
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and sentence in errors[0]
    assert "Pairs" not in out
    # Nothing beside the records: no half export.
    records = tmp_path / "tfds"
    after = [p for p in tmp_path.rglob("*") if records not in (p, *p.parents)]
    assert sorted(after) == before


def test_an_export_that_fails_leaves_nothing(prepare, tmp_path, monkeypatch):
    make_pairs(tmp_path / "camera")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("data_pipelines.preparation._write", full)
    with pytest.raises(OSError, match="disk full"):
        prepare("pairs", manual_dir=tmp_path / "camera", export=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["camera", "tfds"]


def test_a_pack_that_fails_leaves_nothing(prepare, tmp_path, monkeypatch):
    make_pairs(tmp_path / "camera")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("data_pipelines.preparation._decoded", full)
    with pytest.raises(OSError, match="disk full"):
        prepare("pairs", manual_dir=tmp_path / "camera", pack=tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["camera", "tfds"]


def test_help_has_an_example():
    command = [sys.executable, "-m", "data_pipelines.prepare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--dataset roadscene --data_dir data/tfds" in done.stdout
    assert "flir_adas" in done.stdout


def test_from_download_to_export_without_tensorflow(tmp_path):
    made = make_roadscene(tmp_path / "real")["train"]
    (tmp_path / "web").mkdir()
    with zipfile.ZipFile(tmp_path / "web" / "archive.zip", "w") as content:
        for file in sorted((tmp_path / "real").rglob("*.jpg")):
            content.write(file, file.relative_to(tmp_path / "real"))
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web")
    )
    code = """
import dataclasses, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *a: None if name == "tensorflow" else find(name, *a)
from data_pipelines import preparation, prepare
builder = preparation.BUILDERS["roadscene"]
builder.FACTS = dataclasses.replace(builder.FACTS, archive=sys.argv.pop(1))
sys.exit(prepare.main())
"""
    flags = ["--dataset", "roadscene", "--data_dir", str(tmp_path / "tfds")]
    flags += ["--export", str(tmp_path / "out")]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/archive.zip"
            done = subprocess.run(
                [sys.executable, "-c", code, url, *flags],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"NO_PROXY": "127.0.0.1"},
            )
        finally:
            server.shutdown()
    assert done.returncode == 0, done.stderr
    check_export(tmp_path / "out", made)
