"""What the page and its API do when a visitor does something."""

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from hkdnet_jax.common import levels
from hkdnet_jax.common.colour import COLOR
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import encode
from hkdnet_jax.web import archives, views
from hkdnet_jax.web.examples import Examples
from hkdnet_jax.web.fusing import NONE, Settings
from hkdnet_jax.web.models import AUTO
from hkdnet_jax.web.service import Result, Service, Show
from hkdnet_jax.web.shelf import Shelf

_MISSING = "Choose an infrared and a visible picture first, or take an example."
_MISSING_ARCHIVE = "Choose a ZIP archive first."


class Handlers:
    """What happens when a visitor does something."""

    def __init__(self, service: Service, shelf: Shelf, scenes: Examples):
        """Keeps what the handlers need."""
        self._service = service
        self._shelf = shelf
        self._scenes = scenes

    def preview(self, side: str) -> Callable:
        """The handler of a new file of the infrared (`ir`) or visible (`vis`) side."""

        def show(file: str | None, *fields: Any) -> tuple[np.ndarray | None, str]:
            if file is None:
                return None, ""
            try:
                settings = Settings(*fields)
                return self._service.preview(Path(file), side, settings), ""
            except UserError as error:
                return None, views.problem(str(error))

        return show

    def example(self, title: str) -> Callable:
        """The handler of an example's button."""

        def load() -> list[str]:
            return [str(path) for path in self._scenes.files(title)]

        return load

    def fuse(
        self,
        ir: str | None,
        vis: str | None,
        scored: bool,
        *fields: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  Gradio's way
    ) -> tuple[str, str]:
        """Fuses the pair of the page; returns the sentence and the result's HTML."""
        if ir is None or vis is None:
            return views.problem(_MISSING), ""
        try:
            result = self._run(ir, vis, scored, Settings(*fields), progress)
        except UserError as error:
            return views.problem(str(error)), ""
        files = {
            "before.png": encode(result.before, Path("before.png")),
            "fused_8bit.png": result.fused.png("8"),
            "fused_16bit.png": result.fused.png("16"),
        }
        height, width = result.before.shape[:2]
        said = f"Fused to {width}x{height} pixels in {result.fused.seconds:.1f} s."
        return views.done(said), views.result(result, self._shelf.put(files))

    def batch(
        self,
        archive: str | None,
        depth: str,
        *fields: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str]:
        """Fuses the pairs of an archive; returns the sentence and the result's HTML."""
        if archive is None:
            return views.problem(_MISSING_ARCHIVE), ""
        try:
            done = self._service.batch(
                Path(archive), Settings(*fields), depth, _shown_in(progress)
            )
        except UserError as error:
            return views.problem(str(error)), ""
        said = f"{len(done.files)} pairs were fused, {len(done.problems)} were not."
        if not done.files:
            return views.problem(said), views.batch(done, None)
        files = dict(done.files)
        if done.problems:
            files["problems.txt"] = "\n".join([*done.problems, ""]).encode()
        put = self._shelf.put({"fused.zip": archives.pack(files)})
        return views.done(said), views.batch(done, put["fused.zip"])

    def api(
        self,
        ir: str,
        vis: str,
        scale: int = 2,
        model: str = AUTO,
        color: str = COLOR[0],
        ir_range: str = levels.AUTO,
        vis_range: str = levels.AUTO,
        ir_palette: str = NONE,
        match: bool = False,
        align: str = NONE,
        depth: str = "8",
        metrics: bool = False,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> tuple[str, dict]:
        """Fuses an infrared and a visible picture of one scene.

        Returns a PNG file, and what is known about it: `size` (width, height),
        `seconds`, `ir_range` and `vis_range` (the levels that became black and white),
        `notes`, and `metrics` by picture and name.
        """
        levels_given = (ir_range, vis_range, ir_palette)
        settings = Settings(scale, model, color, *levels_given, match, align)
        if ir is None or vis is None:
            raise gr.Error("Give both ir and vis.", print_exception=False)
        try:
            result = self._run(ir, vis, metrics, settings, progress)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        put = self._shelf.put({"fused.png": result.fused.png(depth)})
        return str(self._shelf.path(put["fused.png"])), _described(result)

    def _run(
        self, ir: str, vis: str, scored: bool, settings: Settings, progress: gr.Progress
    ) -> Result:
        show = _shown_in(progress)
        return self._service.fuse(Path(ir), Path(vis), settings, scored, show)


def _shown_in(progress: gr.Progress) -> Show:
    """Shows what is done in Gradio's progress bar, which takes markup."""
    return lambda text, share: progress(share, desc=html.escape(text.capitalize()))


def _described(result: Result) -> dict[str, Any]:
    inputs = result.fused.inputs
    height, width = result.before.shape[:2]
    scores = {
        name: {k: None if np.isnan(v) else v for k, v in values.items()}
        for name, values in result.scores.items()
    }
    return {
        "size": [width, height],
        "seconds": round(result.fused.seconds, 3),
        "ir_range": list(inputs.ranges[0]),
        "vis_range": list(inputs.ranges[1]),
        "notes": result.notes,
        "metrics": scores,
    }
