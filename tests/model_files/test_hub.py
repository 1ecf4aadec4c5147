"""hf:// addresses, against a server on this machine that stands in for the Hub."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest

import hkdnet_jax
from hkdnet_jax import export
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.model_files import file_format, hub

constants = pytest.importorskip(
    "huggingface_hub.constants",
    reason="huggingface_hub is not installed (the extra hub)",
)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The calls of the Hub's API that one upload and one download make."""

    files: dict[str, bytes]
    requests: list[str]

    def answer(self, status, content=b"", headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self):
        self.requests.append(f"{self.command} {self.path}")
        content = self.files.get(self.path.lstrip("/").replace("/resolve/main", ""))
        if content is None:
            known = any(name.startswith("owner/name/") for name in self.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            self.answer(404, headers={"X-Error-Code": code})
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        self.answer(200, content, headers)

    do_HEAD = do_GET

    def do_POST(self):
        self.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            reply = {"url": "http://127.0.0.1/owner/name", "id": "owner/name"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            files = [{"path": name, "uploadMode": "regular"} for name in names]
            reply = {"files": [{**file, "shouldIgnore": False} for file in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.files[f"owner/name/{line['value']['path']}"] = content
            url = f"http://127.0.0.1/owner/name/commit/{COMMIT}"
            reply = {"commitUrl": url, "commitOid": COMMIT, "success": True}
        else:
            reply = {"errors": [], "warnings": []}
        kind = {"Content-Type": "application/json"}
        self.answer(200, json.dumps(reply).encode(), kind)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The stand-in, which huggingface_hub takes for the Hub; its cache is empty."""
    handler = type("OneHub", (Hub,), {"files": {}, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_made")
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    yield handler
    server.shutdown()
    server.server_close()


def assert_same(model, directory):
    _, params = file_format.load_model(directory)
    jax.tree.map(np.testing.assert_array_equal, model.params, params)


def test_what_is_pushed_is_loaded(server, models):
    hkdnet_jax.push(models[2], "hf://owner/name")
    assert set(server.files) == {"owner/name/model.safetensors", "owner/name/README.md"}
    assert b'load("hf://owner/name")' in server.files["owner/name/README.md"]
    model = hkdnet_jax.load("hf://owner/name")
    assert model.scale == 2
    assert_same(model, models[2])
    # Only the head is asked for again: the file is cached.
    before = sum("GET" in request for request in server.requests)
    hkdnet_jax.load("hf://owner/name")
    assert sum("GET" in request for request in server.requests) == before


def test_a_readme_is_kept(server, models):
    server.files["owner/name/README.md"] = b"mine"
    args = ["--model", str(models[1]), "--format", "safetensors"]
    assert export.main([*args, "--out", "hf://owner/name"]) == 0
    assert server.files["owner/name/README.md"] == b"mine"
    assert hkdnet_jax.load("hf://owner/name", scale=1).scale == 1


def test_a_damaged_download_is_refused(server, models):
    hkdnet_jax.push(models[1], "hf://owner/name")
    content = server.files["owner/name/model.safetensors"]
    server.files["owner/name/model.safetensors"] = content[:-1] + b"?"
    with pytest.raises(UserError, match="is damaged"):
        hkdnet_jax.load("hf://owner/name")


def test_mistakes(server, models):
    with pytest.raises(UserError, match="hf://owner/name does not exist"):
        hkdnet_jax.load("hf://owner/name")
    server.files["owner/name/README.md"] = b"no weights"
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        hkdnet_jax.load("hf://owner/name")
    for address in ("hf://name", "hf://owner/name/more", "hf://", "hf://o/n@"):
        with pytest.raises(UserError, match="is not an address of a model"):
            hub.fetch(address)
    with pytest.raises(UserError, match="is not an address of a model"):
        hub.fetch("hf://owner/na--me")


def test_no_server(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    cache = str(tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    # The library tries five times, and waits longer each time.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match="hf://owner/name cannot be reached") as error:
        hkdnet_jax.load("hf://owner/name")
    assert "\n" not in str(error.value)


def test_a_path_asks_no_server(server, models):
    hkdnet_jax.load(models[1])
    hkdnet_jax.load(1)
    assert server.requests == []
