"""The web server: Gradio's page inside an application of our own."""

import contextlib
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before Gradio is imported, which reads it then.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import fastapi
import gradio as gr
import uvicorn
from fastapi.responses import FileResponse

from hkdnet_jax.web import page
from hkdnet_jax.web.examples import Examples
from hkdnet_jax.web.guard import Guard
from hkdnet_jax.web.handlers import Handlers
from hkdnet_jax.web.limits import Limits
from hkdnet_jax.web.models import Models
from hkdnet_jax.web.service import Service
from hkdnet_jax.web.shelf import ROUTE, Shelf

# The browser's own fonts: Gradio's theme would have them from elsewhere.
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


@contextlib.contextmanager
def application(limits: Limits, models: Models) -> Iterator[Guard]:
    """The page as an ASGI application; its files are deleted at the end."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hkdnet")))
        # Where Gradio keeps uploads; components read it when they are made.
        stack.enter_context(_environment("GRADIO_TEMP_DIR", str(folder / "uploads")))
        for name in ("uploads", "work"):
            (folder / name).mkdir()
        service = Service(models, limits, folder / "work")
        stack.callback(service.close)
        shelf = Shelf(folder / "results")
        handlers = Handlers(service, shelf, Examples(folder / "examples"))
        blocks = page.build(handlers, models.names, limits.queue)
        yield Guard(_mounted(blocks, shelf, limits), limits.upload)


def _mounted(blocks: gr.Blocks, shelf: Shelf, limits: Limits) -> fastapi.FastAPI:
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get(f"/{ROUTE}/{{token}}/{{name}}")
    def result(token: str, name: str) -> FileResponse:
        path = shelf.find(token, name)
        if path is None:
            said = "There is no such result, or it is no longer kept."
            raise fastapi.HTTPException(404, said)
        return FileResponse(path)

    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        max_file_size=limits.upload,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=_theme(),
        css=page.STYLE,
        js=page.SCRIPT,
    )


def _theme() -> gr.themes.Base:
    """Gradio's own theme, with the browser's fonts and text that stands out enough."""
    theme = gr.themes.Default(primary_hue="blue", font=_FONT, font_mono=_MONO)
    return theme.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
    )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def serve(app: Guard, listening: socket.socket) -> None:
    """Serves an application at a socket until Ctrl-C or SIGTERM.

    Args:
      app: see `application`.
      listening: see `ports.bound`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=3
    )
    # Once it has ended, uvicorn sends itself the signal again; SIGTERM would then end
    # the process before the files of the page are deleted.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)
