"""The command export: what it writes, that load takes it back, and mistakes."""

import json
import sys

import jax
import numpy as np
import pytest
import safetensors
from command_fixtures import fails, make_pair, run

import hkdnet_jax
from hkdnet_jax import benchmark, export, pretrained
from hkdnet_jax.common import trees
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported import formats, onnx_file
from hkdnet_jax.model_files import file_format

WEIGHTS = ("safetensors", "npz")


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_loaded_back(kind, models, tmp_path, capfd):
    out = tmp_path / f"x2.{kind}"
    args = ("--model", models[2], "--format", kind, "--out", out)
    code, stdout, errors = run(export, capfd, *args)
    assert (code, errors) == (0, []) and f"Wrote {out} (" in stdout
    model, original = hkdnet_jax.load(out), hkdnet_jax.load(models[2])
    assert model.scale == 2 and model.network == original.network
    jax.tree.map(np.testing.assert_array_equal, model.params, original.params)
    assert hkdnet_jax.load(str(out), scale=2).scale == 2
    # The commands take it as well.
    again = tmp_path / "again.npz"
    run(export, capfd, "--model", out, "--format", "npz", "--out", again)
    _, params = file_format.load_model(again)
    assert trees.fingerprint(params) == trees.fingerprint(original.params)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_of_half_the_size_compute_in_float32(kind, models, tmp_path, capfd):
    whole, half = tmp_path / f"whole.{kind}", tmp_path / f"half.{kind}"
    args = ("--model", models[2], "--format", kind, "--out")
    assert run(export, capfd, *args, whole)[0] == 0
    assert run(export, capfd, *args, half, "--dtype", "float16")[0] == 0
    model, original = hkdnet_jax.load(half), hkdnet_jax.load(models[2])
    for ours, exact in zip(
        *map(jax.tree.leaves, (model.params, original.params)), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, np.float32(np.float16(exact)))
    _, stored = file_format.load_model(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(stored)} == {np.dtype("float16")}
    assert half.stat().st_size < 0.75 * whole.stat().st_size


def test_flat_names_and_metadata(tmp_path, capfd):
    files = {kind: tmp_path / f"lite.{kind}" for kind in WEIGHTS}
    for kind, out in files.items():
        args = ("--model", "lite", "--scale", 3, "--format", kind, "--out", out)
        assert run(export, capfd, *args)[0] == 0
    with safetensors.safe_open(files["safetensors"], framework="np") as opened:
        names, metadata = set(opened.keys()), opened.metadata()
    with np.load(files["npz"]) as opened:  # without pickle
        assert set(opened.files) == names | {"__metadata__"}
        assert json.loads(str(opened["__metadata__"])) == metadata
        assert opened["fusion/ir/conv/kernel"].shape == (3, 3, 1, 32)
    assert (metadata["preset"], metadata["scale"]) == ("lite", "3")
    assert json.loads(metadata["config"])["model"]["width"] == 32
    card = json.loads(metadata["metrics"])
    assert card == pretrained.card(pretrained.locate("lite", 3)) and card["tno"]
    assert len(metadata["sha256"]) == 64


def test_the_names_of_presets(models):
    config, _ = file_format.load_model(models[2])
    assert formats.metadata(models[2], config)["preset"] == "custom"
    config, _ = file_format.load_model(models[1])
    about = formats.metadata(models[1], config)
    assert (about["preset"], about["scale"], about["metrics"]) == ("teacher", "1", "{}")
    config, _ = file_format.load_model(pretrained.locate("lite", 2))
    config["model"]["skip_context"] = 6.0  # of a vivid teacher's student
    assert formats.metadata(models[2], config)["preset"] == "lite"


@pytest.mark.parametrize("kind", WEIGHTS)
def test_damaged_weights_are_refused(kind, models, tmp_path):
    content = formats.convert(models[1], kind)
    file = tmp_path / f"x1.{kind}"
    at = len(content) // 2
    flipped = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    for broken in (b"", content[:60], content[:-9], flipped, b"some text"):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="damaged") as error:
            hkdnet_jax.load(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_foreign_npz_files_are_refused(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, w=np.zeros(3))
    with pytest.raises(UserError, match="is not an HKDnet model"):
        hkdnet_jax.load(file)
    np.savez(file, __metadata__=np.array(["x"], object))
    with pytest.raises(UserError, match="is damaged"):  # nothing is unpickled
        hkdnet_jax.load(file)


def test_mistakes(models, tmp_path, capfd):
    out = tmp_path / "x1.npz"
    args = ("--model", models[1], "--format", "npz", "--out")
    there = tmp_path / "there.npz"
    there.write_bytes(b"kept")
    fails(export, capfd, *args, there, says=[there, "exists", "another name"])
    assert there.read_bytes() == b"kept"
    fails(export, capfd, *args, tmp_path / "x1.onnx", says=["must end in .npz"])
    fails(export, capfd, *args, "hf://owner/name", says=["--format safetensors"])
    fails(export, capfd, *args, out, "--dtype", "int8", says=["--format onnx"])
    fails(export, capfd, "--format", "npz", "--out", out, says=["Give --scale"])
    args = ("--model", tmp_path / "none", "--format", "npz", "--out", out)
    fails(export, capfd, *args, says=["none does not exist"])
    program = tmp_path / "x.onnx"
    program.write_bytes(b"")
    args = ("--model", program, "--format", "npz", "--out", out)
    fails(export, capfd, *args, says=["x.onnx is a program", "docs/export.md"])
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "jax2onnx"), ("stablehlo", "flatbuffers")]
)
def test_a_missing_extra_is_named(kind, package, models, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    out = tmp_path / f"x.{kind}"
    args = ("--model", models[1], "--format", kind, "--out", out)
    fails(export, capfd, *args, says=[f"pip install 'hkdnet-jax[{kind}]'"])


def test_what_cannot_be_exported_names_the_model(models, tmp_path, capfd, monkeypatch):
    def lacks(model):
        raise UserError("This network cannot be converted to ONNX.")

    monkeypatch.setattr(onnx_file, "to_graph", lacks)
    out = tmp_path / "x.onnx"
    args = ("--model", models[1], "--format", "onnx", "--out", out)
    fails(export, capfd, *args, says=[models[1], "cannot be converted"])
    assert not out.exists()


def test_benchmark_exported(models, tmp_path, capfd):
    weights, program = tmp_path / "x1.npz", tmp_path / "x1.stablehlo"
    weights.write_bytes(formats.convert(models[1], "npz"))
    program.write_bytes(formats.convert(models[1], "stablehlo"))
    report = tmp_path / "report.json"
    args = ("exported", weights, program, "--size", "17x23", "--repeats", 2)
    code, out, errors = run(benchmark, capfd, *args, "--out", report)
    assert (code, errors) == (0, [])
    rows = json.loads(report.read_text())["rows"]
    assert [row["kind"] for row in rows] == ["jax", "stablehlo"]
    assert rows[0]["relative"] == 1 and rows[0]["psnr"] is None
    assert rows[1]["relative"] > 0 and rows[1]["difference"] < 1e-5
    assert "x1.stablehlo" in out and "stablehlo" in out.splitlines()[2]
    other = tmp_path / "x3.npz"
    other.write_bytes(formats.convert(models[3], "npz"))
    fails_with = ("exported", weights, other, "--size", "17x23")
    code, _, errors = run(benchmark, capfd, *fails_with)
    assert code == 1 and "x3.npz has scale 3" in errors[-1]


def test_the_picture_of_exported_weights(models, tmp_path):
    file = tmp_path / "x3.npz"
    file.write_bytes(formats.convert(models[3], "npz"))
    pair = make_pair()
    expected = hkdnet_jax.fuse_pair(hkdnet_jax.load(models[3]), *pair)
    got = hkdnet_jax.fuse_pair(hkdnet_jax.load(file), *pair)
    np.testing.assert_array_equal(got, expected)
