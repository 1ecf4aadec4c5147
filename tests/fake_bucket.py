"""A bucket of Google Cloud Storage in this process: nothing in it can be renamed.

`etils.epath` sees it as an fsspec file system in the place of gcsfs, and TensorStore
over HTTP on the loopback, as it would the real service: both in the same objects.
"""

import contextlib
import http.server
import json
import sys
import threading
import types
import urllib.parse
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from etils.epath import gpath
from fsspec.implementations.memory import MemoryFileSystem
from orbax.checkpoint._src.path import gcs_utils


class Store(dict):
    """The objects by name, which remembers the order in which they were written."""

    def __init__(self):
        super().__init__()
        self.written: list[tuple[str, Any]] = []

    def __setitem__(self, name: str, content: Any) -> None:
        super().__setitem__(name, content)
        self.written.append((name, content))


class Objects(MemoryFileSystem):
    """The objects as files, with folders only where objects are."""

    protocol = ("gcs", "gs")
    store = Store()
    pseudo_dirs: ClassVar[list[str]] = [""]  # the base class adds a list to it

    @classmethod
    def _strip_protocol(cls, path):
        text = str(path).removeprefix("gs://").removeprefix("gcs://").strip("/")
        return f"/{text}" if text else ""

    def mkdir(self, path, create_parents=True, **kwargs):
        """Does nothing: a bucket has no folders."""

    def makedirs(self, path, exist_ok=False):
        """Does nothing: a bucket has no folders."""

    def exists(self, path, **kwargs):
        """True for a bucket too, which may be empty."""
        is_bucket = self._strip_protocol(path).count("/") == 1
        return is_bucket or super().exists(path, **kwargs)

    def rm(self, path, recursive=False, maxdepth=None):
        """Removes objects; folders are not there to be removed."""
        for name in self.expand_path(path, recursive=recursive):
            self.store.pop(name, None)

    def _open(self, path, mode="rb", **kwargs):
        assert "a" not in mode, "objects cannot be appended to"
        return super()._open(path, mode, **kwargs)


class _Service(http.server.BaseHTTPRequestHandler):
    """As much of the JSON API as TensorStore uses."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer's second part waits 40 ms
    objects = Objects()

    def _parsed(self) -> tuple[str, dict[str, str]]:
        """The object as "/bucket/name", or "/bucket/" without one, and the query."""
        url = urllib.parse.urlsplit(self.path)
        bucket, _, name = url.path.partition("/b/")[2].partition("/o")
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        name = urllib.parse.unquote(name.removeprefix("/")) or query.get("name", "")
        return f"/{bucket}/{name}", query

    def _answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _describe(self, path: str) -> dict:
        name = path.split("/", 2)[2]
        size = self.objects.size(path)
        return {"name": name, "size": str(size), "generation": "1"}

    def do_GET(self) -> None:
        path, query = self._parsed()
        if path.count("/") == 2 and path.endswith("/"):
            prefix = path + query.get("prefix", "")
            found = sorted(n for n in self.objects.store if n.startswith(prefix))
            items = [self._describe(name) for name in found]
            self._answer(200, json.dumps({"items": items}).encode())
        elif path not in self.objects.store:
            self._answer(404)
        elif query.get("alt") == "media":
            content = self.objects.cat_file(path)
            first, last = 0, len(content) - 1
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            if asked and content:
                start, _, end = asked.partition("-")
                first = int(start) if start else len(content) - int(end)
                last = min(last, int(end)) if start and end else last
            part = content[first : last + 1]
            more = {
                "x_goog_generation": "1",
                "x_goog_stored_content_length": str(len(content)),
            }
            if asked:
                more["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            self._answer(206 if asked else 200, part, **more)
        else:
            self._answer(200, json.dumps(self._describe(path)).encode())

    def do_POST(self) -> None:
        path, _ = self._parsed()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects.pipe_file(path, content)
        self._answer(200, json.dumps(self._describe(path)).encode())

    def do_DELETE(self) -> None:
        path, _ = self._parsed()
        found = self.objects.store.pop(path, None)
        self._answer(204 if found else 404)

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def served() -> Iterator[Objects]:
    """Yields the objects of all buckets, empty at first, that `gs://` leads to."""
    Objects.store.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}"
        )
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        # As `paths` has it, unless another test had epath decide before.
        patch.setattr(gpath, "_is_tf_installed", lambda: False)
        fsspec.register_implementation("gcs", Objects, clobber=True)
        # A question that only Google's own client can ask.
        patch.setattr(gcs_utils, "is_hierarchical_namespace_enabled", lambda _: False)
        for name in ("gcsfs", "google.cloud", "google.cloud.storage"):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        try:
            yield Objects()
        finally:
            server.shutdown()
            server.server_close()
