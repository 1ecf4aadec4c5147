"""Other programs beside ours: how they are opened, fed, timed, and what is refused."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from hkdnet_jax import benchmark
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring import measure, peers, runs
from hkdnet_jax.measuring.measure import Settings

SETTINGS = Settings("tiny", scale=2, batch=2, repeats=3, dtype="float32")
TWICE = """
import numpy as np
calls = []
def fuse(ir, vis):
    assert ir.dtype == vis.dtype == np.float32 and 0 <= ir.min() < ir.max() <= 1
    calls.append((ir, vis))
    return ((ir + vis) / 2).repeat(2, 1).repeat(2, 2)
def small(ir, vis):
    return ir
def failing(ir, vis):
    raise ValueError("no weights\\n  for this")
def one(ir):
    return ir
def ragged(ir, vis):
    return [ir, ir[:, :3]]
number = 3
"""


@pytest.fixture
def ours(monkeypatch):
    """Stands in for the student of ours, which others' tests run."""

    def fuse(ir, vis):
        return np.zeros((ir.shape[0], 2 * ir.shape[1], 2 * ir.shape[2], 1))

    peer = peers.Peer("tiny x2", "ours", fuse)
    monkeypatch.setattr(peers, "_ours", lambda settings: peer)


@pytest.fixture
def twice(tmp_path):
    """A peer in Python."""
    file = tmp_path / "peer.py"
    file.write_text(TWICE)
    return file


def test_a_function_beside_the_student(twice):
    rows = peers.measure_peers([f"{twice}:fuse"], SETTINGS, (16, 20))
    assert [row["kind"] for row in rows] == ["ours", "python"]
    assert [row["file"] for row in rows] == ["tiny x2", f"{twice}:fuse"]
    for row in rows:
        assert (row["size"], row["batch"]) == ("16x20", 2)
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
    assert rows[0]["relative"] == 1 and rows[0]["compile_seconds"] > 0.01


def test_programs_take_turns_and_ratios_are_of_a_turn(ours, twice, monkeypatch):
    order = []

    def timed(run):
        run()
        order.append(run)
        # Ours takes 1, 2, 3, ... s and the other twice as long in the same turn.
        turn, which = divmod(len(order) - 1, 2)
        return float((1 + turn) * (1 + which))

    monkeypatch.setattr(peers, "timed", timed)
    monkeypatch.setattr(measure, "timed", timed)
    mine, other = peers.measure_peers([f"{twice}:fuse"], SETTINGS, (16, 20))
    assert len(order) == 2 * (1 + 3)
    assert (mine["relative"], other["relative"]) == (1, 2)
    assert (mine["seconds"], other["seconds"]) == (3, 6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_an_onnx_file(ours, tmp_path, layout):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = [None, 1, None, None] if layout == "NCHW" else [None, None, None, 1]
    values = [helper.make_tensor_value_info(name, kind, shape) for name in "abz"]
    scales = [1, 1, 2, 2] if layout == "NCHW" else [1, 2, 2, 1]
    scale = helper.make_tensor("s", kind, [4], scales)
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Resize", ["sum", "", "s"], ["z"], mode="nearest"),
    ]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], [scale])
    opsets = [helper.make_opsetid("", 18)]
    file = tmp_path / "peer.onnx"
    file.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    )
    peer = peers.open_peer(str(file))
    pair = np.random.default_rng(0).random((2, 3, 8, 9, 1), np.float32)
    got = peer.run(*pair)
    want = pair.sum(0).repeat(2, 1).repeat(2, 2)
    if layout == "NCHW":
        want = want.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert peers.measure_peers([str(file)], SETTINGS, (16, 20))[1]["kind"] == "onnx"


def test_a_torchscript_file(ours, tmp_path, monkeypatch):
    """By a stand-in for PyTorch, which is not part of the development install."""
    threads, calls = [], []

    class Module:
        def eval(self):
            return self

        def __call__(self, ir, vis):
            calls.append(ir)
            assert ir.shape == vis.shape == (2, 1, 16, 20)
            return types.SimpleNamespace(numpy=lambda: ir.repeat(2, 2).repeat(2, 3))

    def load(file, map_location):
        if not Path(file).read_bytes():
            raise RuntimeError("PytorchStreamReader failed\nmore")
        return Module()

    torch = types.SimpleNamespace(
        set_num_threads=threads.append,
        from_numpy=lambda array: array,
        inference_mode=lambda: __import__("contextlib").nullcontext(),
        jit=types.SimpleNamespace(load=load),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    file = tmp_path / "peer.pt"
    file.write_bytes(b"made")
    rows = peers.measure_peers([str(file)], SETTINGS, (16, 20))
    assert [row["kind"] for row in rows] == ["ours", "torchscript"]
    assert threads == [peers.cores()]
    assert len(calls) == 2 + SETTINGS.repeats  # it is optimised in the second call
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"no TorchScript file \(PytorchStreamReader"):
        peers.open_peer(str(file))


def test_torchscript_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = tmp_path / "peer.pt"
    file.write_bytes(b"made")
    with pytest.raises(UserError, match=r"hkdnet-jax\[torch\]"):
        peers.open_peer(str(file))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("peer.h5", "no program that can be timed"),
        ("missing.onnx", "missing.onnx does not exist"),
        ("missing.py:fuse", "missing.py does not exist"),
        ("peer.py", "no program that can be timed"),
        ("peer.py:nothing", "peer.py has no function nothing"),
        ("peer.py:number", "peer.py has no function number"),
    ],
)
def test_what_is_no_program(twice, spec, says):
    with pytest.raises(UserError, match=says):
        peers.open_peer(str(twice.parent / spec))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("failing", r"failing failed \(ValueError: no weights for this\): .*--size"),
        ("one", r"one failed \(TypeError: .*takes 1 positional"),
        ("ragged", r"ragged failed \(ValueError: "),
    ],
)
def test_a_function_that_fails(ours, twice, name, says):
    with pytest.raises(UserError, match=says):
        peers.measure_peers([f"{twice}:{name}"], SETTINGS, (16, 20))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: .*nothing_of_this_name"),
        ("def fuse(:", "SyntaxError: "),
        ("raise ValueError", r"\(ValueError\)"),
        (f"raise ValueError('{'a' * 400}b')", f"ValueError: {'a' * 299}b"),
    ],
)
def test_a_file_that_cannot_be_loaded(tmp_path, text, says):
    file = tmp_path / "broken.py"
    file.write_text(text)
    with pytest.raises(UserError, match=f"broken.py cannot be loaded .*{says}"):
        peers.open_peer(f"{file}:fuse")


def test_pictures_of_another_scale(ours, twice):
    with pytest.raises(UserError, match=r"small returned an array .*2 times that side"):
        peers.measure_peers([f"{twice}:small"], SETTINGS, (16, 20))


def test_the_command(monkeypatch, capsys, twice):
    told = []

    def fresh(function, *args):
        if function is runs.machine:
            return {"cpu": "made"}
        told.append(args)
        return [dict.fromkeys(("seconds", "relative"), 1.5) | {"file": "peer.py:fuse"}]

    monkeypatch.setattr(runs, "call_fresh", fresh)
    args = "--preset lite --scale 3 --size 20x30,40x40 --repeats 4 --batch 2"
    assert benchmark.main(["peers", "a.onnx", "b.py:f", *args.split()]) == 0
    settings = Settings("lite", scale=3, batch=2, repeats=4, dtype="float32")
    specs = ["a.onnx", "b.py:f"]
    assert told == [(specs, settings, (20, 30)), (specs, settings, (40, 40))]
    assert capsys.readouterr().out.count("peer.py:fuse") == 2
    assert benchmark.main(["peers", "a.onnx", "--scale", "5"]) == 1
    assert "--scale 5" in capsys.readouterr().err
