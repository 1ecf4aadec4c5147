"""Programs as ONNX: equal to fuse_pair in onnxruntime, their types, foreign files."""

import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from command_fixtures import make_pair

import hkdnet_jax
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.exported import onnx_file, onnx_types
from hkdnet_jax.exported.running import open_file

jax2onnx = pytest.importorskip(
    "jax2onnx", reason="jax2onnx is not installed: see requirements-onnx.txt"
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    """(scale, arithmetic) -> file with the program of that model."""
    folder, made = tmp_path_factory.mktemp("onnx"), {}
    for scale, dtypes in {1: ("float32",), 2: onnx_file.DTYPES}.items():
        graph = onnx_file.to_graph(hkdnet_jax.load(models[scale]))
        content = graph.SerializeToString()
        for dtype in dtypes:
            graph.ParseFromString(content)
            about = {"scale": str(scale), "preset": "made"}
            made[scale, dtype] = folder / f"x{scale}_{dtype}.onnx"
            written = onnx_file.finish(graph, dtype, about)
            made[scale, dtype].write_bytes(written)
    return made


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (17, 23), (40, 31), (9, 64, 1), (17, 23, 3)])
def test_equals_fuse_pair(scale, shape, files, expected):
    inputs, picture = expected(scale, *shape)
    opened = open_file(files[scale, "float32"])
    assert (opened.kind, opened.scale) == ("onnx float32", scale)
    fused = opened.run(*inputs)
    assert fused.dtype == np.float32 and fused.shape == picture.shape
    np.testing.assert_allclose(fused, picture, atol=1e-4)


def test_the_documentation_runs(files, models, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    (block,) = [block for block in blocks if "import onnxruntime" in block]
    shutil.copy(files[2, "float32"], tmp_path / "lite_x2.onnx")
    monkeypatch.chdir(tmp_path)
    ir, vis = make_pair()
    names = {"ir": ir, "vis": vis}
    exec(block, names)
    expected = hkdnet_jax.fuse_pair(hkdnet_jax.load(models[2]), ir, vis)
    assert np.abs(names["picture"].astype(int) - expected).max() <= 1


def test_the_file_says_what_it_is(files):
    session, metadata = onnx_file.read(files[2, "float32"])
    assert [x.name for x in session.get_inputs()] == ["ir", "vis"]
    assert [x.name for x in session.get_outputs()] == ["fused"]
    assert session.get_inputs()[0].shape == ["B", "H", "W", 1]
    assert metadata["scale"] == "2" and metadata["preset"] == "made"
    assert metadata["dtype"] == "float32"


@pytest.mark.parametrize(("dtype", "least"), [("float16", 50), ("int8", 15)])
def test_smaller_types_are_close(dtype, least, files, expected):
    # The weights are random, so that the picture is far from any that was trained for.
    inputs, picture = expected(2, 40, 31)
    opened = open_file(files[2, dtype])
    assert opened.kind == f"onnx {dtype}"
    fused = opened.run(*inputs)
    assert fused.dtype == np.float32 and fused.shape == picture.shape
    assert -10 * np.log10(np.mean((fused - picture) ** 2)) > least
    assert not np.array_equal(fused, open_file(files[2, "float32"]).run(*inputs))


def test_what_is_quantised(files):
    import onnx

    graph = onnx.load(files[2, "int8"]).graph
    kernels = {x.name: x for x in graph.initializer}
    integer = [x for x in kernels.values() if x.data_type == onnx.TensorProto.INT8]
    assert len(integer) > 10
    assert all(1 not in tuple(x.dims)[:2] for x in integer if len(x.dims) == 4)
    size = {d: files[2, d].stat().st_size for d in onnx_file.DTYPES}
    assert size["float16"] < size["float32"]


@pytest.mark.usefixtures("files")
def test_jax_is_left_as_it_was():
    assert jnp.cumsum(jnp.ones((1, 3)), 1).tolist() == [[1, 2, 3]]


def test_calibration_scenes():
    batches = list(onnx_types._calibration_batches())
    assert len(batches) == onnx_types.CALIBRATION_SCENES
    assert all(x.keys() == {"ir", "vis"} for x in batches)
    arrays = [x for batch in batches for x in batch.values()]
    assert all(x.dtype == np.float32 and x.shape == (1, 96, 128, 1) for x in arrays)
    assert min(map(np.min, arrays)) >= 0
    assert 0.9 < max(map(np.max, arrays)) <= 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(share, files, tmp_path):
    content = files[2, "float32"].read_bytes()
    assert_refused(content[: int(share * len(content))], tmp_path, "is damaged")


def test_foreign_files_are_refused(files, tmp_path):
    import onnx

    assert_refused(b"not ONNX at all, but some text", tmp_path, "is damaged")
    graph = onnx.load(files[1, "float32"])
    del graph.metadata_props[:]
    assert_refused(graph.SerializeToString(), tmp_path, "of another program")


def assert_refused(content, folder, says):
    file = folder / "x.onnx"
    file.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        open_file(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_what_the_converter_lacks_is_one_sentence(models, monkeypatch):
    def lacks(*args, **kwargs):
        raise NotImplementedError("no plugin for bessel_i1e.\nTry again")

    monkeypatch.setattr(jax2onnx, "to_onnx", lacks)
    says = r"cannot be converted to ONNX \(Not.*bessel_i1e\): export .* stablehlo\.$"
    with pytest.raises(UserError, match=says) as error:
        onnx_file.to_graph(hkdnet_jax.load(models[1]))
    assert "\n" not in str(error.value)


# --- in a browser -------------------------------------------------------------------

PAGE = """<!doctype html><script type="module">
import { load, fuse } from "./fuse_web.mjs";
const bytes = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const send = (path, body) => fetch(path, { method: "POST", body });
try {
  const session = await load("model.onnx");
  const { levels, height, width } = await fuse(
    session, await bytes("ir"), await bytes("vis"), 17, 23);
  await send(`/done?${height}x${width}`, levels);
} catch (error) {
  await send("/failed", String(error));
}
</script>"""
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs")
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}


@pytest.fixture
def browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture
def runtime():
    """The folder `dist` of the npm package onnxruntime-web."""
    folder = os.environ.get("HKDNET_ORT_WEB")
    if not folder:
        pytest.skip("HKDNET_ORT_WEB does not name onnxruntime-web's folder dist")
    return Path(folder)


def serve(contents):
    """A server on this machine, and the queue of what is sent to it."""
    received = []
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = contents.get(self.path.lstrip("/"))
            self.send_response(404 if content is None else 200)
            suffix = Path(self.path).suffix
            kind = TYPES.get(suffix, "application/octet-stream")
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content or b"")

        def do_POST(self):
            length = int(self.headers["Content-Length"])
            received.append((self.path, self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, received, arrived


def test_in_a_browser(files, models, browser, runtime, tmp_path):
    ir, vis = make_pair()
    contents = {
        "page.html": PAGE.encode(),
        "fuse_web.mjs": (ROOT / "examples" / "fuse_web.mjs").read_bytes(),
        "model.onnx": files[2, "float32"].read_bytes(),
        "ir": ir.tobytes(),
        "vis": vis.tobytes(),
    }
    for file in (*RUNTIME, "ort-wasm-simd-threaded.wasm"):
        contents[file] = (runtime / file).read_bytes()
    server, received, arrived = serve(contents)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    page = f"http://127.0.0.1:{server.server_port}/page.html"
    with subprocess.Popen(
        [browser, *flags, profile, page],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            assert arrived.wait(120), "the page sent nothing"
        finally:
            process.terminate()
            process.wait(30)
            server.shutdown()
            server.server_close()
    ((path, body),) = received
    assert path == "/done?34x46", body
    expected = hkdnet_jax.fuse_pair(hkdnet_jax.load(models[2]), ir, vis)
    levels = np.frombuffer(body, np.uint8).reshape(34, 46)
    assert np.abs(levels.astype(int) - expected).max() <= 1
