"""What stands between the network and the page: an ASGI middleware.

Gradio serves more than this page needs, such as a proxy for other addresses. Only the
routes below are let through, and browsers are told to load nothing from elsewhere.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hkdnet_jax.web.limits import MEGABYTE
from hkdnet_jax.web.shelf import ROUTE

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_API = "/gradio_api"
_ROUTES = (
    *("/assets/", "/static/", "/theme.css", "/favicon.ico", "/config"),
    f"/{ROUTE}/",
    *(f"{_API}/{name}" for name in ("info", "upload", "queue/", "heartbeat/")),
    *(f"{_API}/{name}" for name in ("file=", "cancel", "reset", "app_id")),
)
# Gradio's page has scripts and styles in it, and builds functions from text.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_NO_SCRIPT = (
    b"<noscript>This page needs JavaScript: switch it on, or run "
    b"<code>hkdnet fuse --ir ir.png --vis vis.png --out fused.png --scale 2</code> "
    b"instead.</noscript>"
)
_BODY = b"<gradio-app"
_FORM_BYTES = 10_000  # of an upload beside the file itself


class Guard:
    """Refuses what the page does not need, and adds headers to what it answers."""

    def __init__(self, app: App, upload: int):
        """Wraps an application.

        Args:
          app: the page.
          upload: bytes that one request may send.
        """
        self._app = app
        self._most = upload + _FORM_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        remote = path.startswith(f"{_API}/file=") and "://" in path
        if remote or not (path == "/" or path.startswith(_ROUTES)):
            await _refuse(send, 404, "There is nothing at this address.")
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            megabytes = (self._most - _FORM_BYTES) / MEGABYTE
            said = f"The upload has more than the {megabytes:g} MB that are allowed."
            await _refuse(send, 413, said)
            return
        await self._app(scope, receive, _Sender(send, page=path == "/"))


class _Sender:
    """Adds headers to an answer, and to the page a sentence for old browsers."""

    def __init__(self, send: Send, page: bool):
        self._send = send
        self._page = page
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_HEADERS]
            self._start = message
            if not self._page:
                await self._send(message)
            return
        if not self._page:
            await self._send(message)
            return
        # The page is small: its length is known when all of it is here.
        self._body += message.get("body", b"")
        if not message.get("more_body"):
            body = self._body.replace(_BODY, _NO_SCRIPT + _BODY, 1)
            kept = [h for h in self._start["headers"] if h[0] != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            await self._send({**self._start, "headers": [*kept, length]})
            await self._send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    start = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": sentence.encode()})
