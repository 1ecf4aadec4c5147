"""The page, made of Gradio's components, and its API."""

from pathlib import Path
from typing import Any

import gradio as gr

from hkdnet_jax.common import levels, palettes
from hkdnet_jax.common.colour import COLOR
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.inference.alignment import MOTIONS
from hkdnet_jax.models.presets import SCALES
from hkdnet_jax.web import examples, views
from hkdnet_jax.web.fusing import NONE
from hkdnet_jax.web.handlers import Handlers
from hkdnet_jax.web.models import AUTO
from hkdnet_jax.web.wording import LABELS

TITLE = "Infrared and visible: one picture"
API_NAME = "fuse"
SCRIPT = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")
STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_VIEWER = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
_INTRO = """# Infrared and visible: one picture
Drop a registered infrared and visible picture of one scene: the two are fused into one,
up to four times as large. Nothing that you drop leaves the machine on which this page
runs, and results are deleted after an hour."""
_BATCH = """The archive holds the folders `ir` and `vis`, in which files with the same
stem belong together, or one folder with the names of a known camera."""
_KINDS = " ".join(sorted({suffix.lstrip(".") for suffix in IMAGE_SUFFIXES}))
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# Requests for the device wait in one queue; the service does one pair at a time.
_DEVICE: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 4}
# How long Gradio keeps uploads, and how often it looks, in seconds.
_KEPT = (600, 3600)


def drop_zone(label: str) -> gr.File:
    """A field for a file that a visitor uploads.

    An address in its place, which Gradio would fetch, is refused.
    """
    field = gr.File(label=label, elem_classes="hk-drop", height=160)
    move = field.async_move_resource_to_block_cache

    async def move_uploaded(file: Any) -> Any:
        if "://" in str(file or ""):
            said = "An address is not fetched: upload the file."
            raise gr.Error(said, print_exception=False)
        return await move(file)

    # On the object, because Gradio writes a file beside each subclass of a component.
    field.async_move_resource_to_block_cache = move_uploaded
    return field


def build(handlers: Handlers, models: tuple[str, ...], queue: int) -> gr.Blocks:
    """Makes the page.

    Args:
      handlers: what its parts do.
      models: names of the models that can be chosen.
      queue: requests that may wait.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=_KEPT) as page:
        gr.Markdown(_INTRO)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                with gr.Tabs():
                    with gr.Tab("One pair") as one:
                        files, previews = _pictures(handlers)
                    with gr.Tab("Many pairs") as many:
                        gr.Markdown(_BATCH)
                        archive = drop_zone("ZIP archive of pairs")
                        depth = gr.Radio(
                            ["8", "16"], value="8", label="Bits of the PNG files"
                        )
                settings = _settings(models)
                scored = gr.Checkbox(label="Compute the metrics of the pair")
                start = gr.Button("Fuse the pair", variant="primary")
                start_many = gr.Button(
                    "Fuse the archive", variant="primary", visible=False
                )
            with gr.Column(scale=3, min_width=300):
                sentence = gr.HTML(views.done("The result will be shown here."))
                result = gr.HTML(js_on_load=_VIEWER, min_height=200)
        ranges, palette = settings[3:5], settings[5]
        for side, file, preview in zip(("ir", "vis"), files, previews, strict=True):
            # A preview follows the levels that are chosen.
            levels_of = {"ir": (ranges[0], palette), "vis": (ranges[1],)}[side]
            gr.on(
                [file.change, *(field.change for field in levels_of)],
                handlers.preview(side),
                [file, *settings],
                [preview, sentence],
                show_progress="hidden",
                trigger_mode="always_last",
                **_PRIVATE,
            )
        # First, so that the name is free.
        _add_api(handlers, files, settings, depth, scored)
        shown = [sentence, result]
        common = {"show_progress_on": result, "scroll_to_output": True}
        common |= {**_PRIVATE, **_DEVICE}
        start.click(handlers.fuse, [*files, scored, *settings], shown, **common)
        start_many.click(handlers.batch, [archive, depth, *settings], shown, **common)
        _follow_tabs(one, many, [start, scored], [start_many])
    page.queue(max_size=queue)
    return page


def _pictures(handlers: Handlers) -> tuple[list[gr.File], list[gr.Image]]:
    """The two drop zones, their previews, and the examples."""
    files, previews = [], []
    with gr.Row():
        for name in ("Infrared", "Visible"):
            with gr.Column(min_width=140):
                files.append(drop_zone(f"{name} picture"))
                previews.append(
                    gr.Image(
                        label=f"{name} preview",
                        alt_text=f"Preview of the {name.lower()} picture",
                        format="png",
                        interactive=False,
                        buttons=[],
                        height=180,
                        elem_classes="hk-preview",
                    )
                )
    gr.Markdown(f"Formats: {_KINDS}; 8 to 32 bits and floating point.")
    gr.Markdown("**Examples** (drawn by this program)")
    with gr.Row():
        for title in examples.TITLES:
            button = gr.Button(title, size="sm", min_width=150)
            button.click(handlers.example(title), outputs=files, **_PRIVATE)
    return files, previews


def _settings(models: tuple[str, ...]) -> list[gr.components.Component]:
    """The fields of `Settings`, in its order."""
    with gr.Group():
        scale = gr.Radio(
            list(SCALES),
            value=2,
            label=LABELS["scale"],
            info="Pixels of the result per pixel of the input, along each side; 1 is "
            "for pictures that are large already.",
        )
        with gr.Row():
            model = gr.Dropdown(
                list(models), value=AUTO, label=LABELS["model"], min_width=140
            )
            color = gr.Dropdown(
                list(COLOR), value=COLOR[0], label=LABELS["color"], min_width=140
            )
    with gr.Accordion("Levels and registration", open=False):
        with gr.Row():
            ranges = [
                gr.Textbox(
                    levels.AUTO,
                    label=LABELS[flag],
                    info="auto, full, or LOW:HIGH",
                    min_width=140,
                )
                for flag in ("ir-range", "vis-range")
            ]
        palette = gr.Dropdown(
            [NONE, *palettes.NAMES],
            value=NONE,
            label=LABELS["ir-palette"],
            info="Turns an infrared picture in false colours back into levels.",
        )
        match = gr.Checkbox(
            label=LABELS["match"],
            info="Accepts two sizes; at scale 1 the result has the larger one.",
        )
        align = gr.Dropdown(
            [NONE, *MOTIONS],
            value=NONE,
            label=LABELS["align"],
            info="Finds this motion between the pictures and takes it out.",
        )
    return [scale, model, color, *ranges, palette, match, align]


def _follow_tabs(one: gr.Tab, many: gr.Tab, own: list, others: list) -> None:
    """Shows the parts that belong to the tab that is open."""
    every = [*own, *others]
    for tab, shown in ((one, own), (many, others)):
        updates = [gr.update(visible=part in shown) for part in every]
        tab.select(
            lambda updates=updates: updates,
            outputs=every,
            show_progress="hidden",
            **_PRIVATE,
        )


def _add_api(handlers: Handlers, files, settings, depth, scored) -> None:
    """The endpoint for programs; its parts are on the page, but not seen."""
    with gr.Row(visible=False):
        picture, facts, call = gr.File(), gr.JSON(), gr.Button()
    call.click(
        handlers.api,
        [*files, *settings, depth, scored],
        [picture, facts],
        api_name=API_NAME,
        **_DEVICE,
    )
