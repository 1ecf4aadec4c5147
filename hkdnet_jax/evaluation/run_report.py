"""One HTML file with everything of a training run, which needs no other file."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hkdnet_jax.common import image_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.evaluation import score_files, tables
from hkdnet_jax.evaluation.figures import curves, maps, style
from hkdnet_jax.evaluation.pictures import degrade_picture
from hkdnet_jax.model_files.file_format import WEIGHTS_FILE
from hkdnet_jax.model_files.model import Model

# What a picture of a run's folder samples/ shows, by the number of its parts.
_STRIPS = {
    3: "infrared, visible, fused",
    5: "infrared, visible, bicubic, fused, label of the teacher",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
figure, .wide { margin: 1rem 0; overflow-x: auto; }
img { width: min(100%, 44rem); background: #fff; }
img.pixels { width: 100%; image-rendering: pixelated; }
table { border-collapse: collapse; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right; }
th:first-child { text-align: left; font-weight: normal; }
pre { overflow-x: auto; }
"""


def render(workdir: Path) -> str:
    """The text of the report.

    It holds the curves of the training, the values of the validation, the pictures of
    the last validation, the heat maps of a student's attention, each JSON file of
    scores or times in the folder, the configuration and the environment; of a run that
    goes on, what is there so far.

    Args:
      workdir: the --workdir of a run.

    Raises:
      UserError: the folder holds no run, its model is damaged, or matplotlib is not
        installed.
    """
    found = curves.run_curves(workdir)
    config = _read_json(workdir / "config.json")
    environment = _read_json(workdir / "environment.json")
    model = Model.load(workdir) if (workdir / WEIGHTS_FILE).exists() else None
    strips = _last_strips(workdir)
    name = workdir.resolve().name
    sections = [
        ("Summary", _summary(config, environment, model, found)),
        (
            "Training",
            _figure(curves.draw_runs({name: found}), "curves of the training"),
        ),
        ("Validation", _validation(found)),
        ("Pictures", "".join(_strip(file, image) for file, image in strips.items())),
        ("Heat maps", _heat_maps(model, strips)),
        ("Scores", _scores(workdir)),
        ("Configuration", _listing(config)),
        ("Environment", _listing(environment)),
    ]
    body = "".join(f"<h2>{title}</h2>\n{text}\n" for title, text in sections if text)
    title = html.escape(f"Training run {name}")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )


def _read_json(file: Path) -> dict[str, Any]:
    """The content of a file that may be missing."""
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except (ValueError, TypeError):
        raise UserError(f"{file} is damaged: restore it, or remove it.") from None


def _summary(
    config: Mapping[str, Any],
    environment: Mapping[str, Any],
    model: Model | None,
    found: curves.Curves,
) -> str:
    step = max(int(steps[-1]) for steps, _ in found.values() if len(steps))
    revision = environment.get("git")
    git = revision and revision["revision"] + (
        " (changed)" if revision["dirty"] else ""
    )
    rows = {
        "kind": config.get("kind"),
        "scale": config.get("scale") if config.get("kind") == "student" else None,
        "last step": f"{step:,}",
        "parameters": f"{_size(model):,}" if model else "no model yet",
        "devices": ", ".join(environment.get("devices", ())),
        "jax": environment.get("packages", {}).get("jax"),
        "revision": git,
    }
    return _table(["", ""], [[k, str(v)] for k, v in rows.items() if v])


def _size(model: Model) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(model.params))


def _validation(found: curves.Curves) -> str:
    rows = []
    for name, (steps, values) in found.items():
        kind, _, value = name.partition("/")
        if kind != "val" or not len(values):
            continue
        title, best = value, ""
        if value in tables.KNOWN:
            title = tables.heading(value)
            at = np.argmax(values if tables.higher_is_better(value) else -values)
            best = f"{values[at]:.4f} at {steps[at]}"
        rows.append([title, f"{values[-1]:.4f}", best])
    return _table(["", "last", "best, at step"], rows) if rows else ""


def _last_strips(workdir: Path) -> dict[str, np.ndarray]:
    """The pictures of the last validation by name, uint8 [H, k * W]."""
    folders = sorted((workdir / "samples").glob("step_*"))
    files = sorted(folders[-1].glob("*.png")) if folders else []
    return {file.stem: image_files.read_gray(file) for file in files}


def _strip(name: str, image: np.ndarray) -> str:
    shown = _STRIPS.get(image.shape[1] // image.shape[0])
    caption = f"{name}: {shown}" if shown else name
    return _image(image_files.encode(image, Path("a.png")), "png", caption)


def _heat_maps(model: Model | None, strips: Mapping[str, np.ndarray]) -> str:
    """The heat maps of a student for the first pair of the last validation."""
    if model is None or model.scale == 1 or not strips:
        return ""
    name, strip = next(iter(strips.items()))
    side = strip.shape[0]
    pair = strip[:, :side], strip[:, side : 2 * side]
    ir, vis = (np.asarray(degrade_picture(x, model.scale)) for x in pair)
    drawn = maps.draw_maps(ir, vis, maps.heat_maps(model, ir, vis))
    return _figure(drawn, f"what the attention adds to the features of {name}")


def _scores(workdir: Path) -> str:
    """A table and the curves of each file of scores, and the times of benchmarks."""
    parts = []
    for file in sorted(workdir.glob("*.json")):
        try:
            for title, scores in score_files.read(file).items():
                parts += [
                    f"<h3>{html.escape(title)}</h3>",
                    _wide(tables.to_html(scores)),
                ]
                parts.append(_figure(curves.draw_images(scores), f"{title}, by image"))
        except UserError:
            pass  # another JSON file
        try:
            speeds = score_files.read_speed(file)
            parts.append(_figure(curves.draw_speed(speeds), f"times in {file.name}"))
        except UserError:
            pass
    return "".join(parts)


def _listing(content: Mapping[str, Any]) -> str:
    if not content:
        return ""
    text = html.escape(json.dumps(content, indent=2))
    return f"<details><summary>show</summary><pre>{text}</pre></details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(x)}</th>' for x in header)}</tr>"]
    for name, *cells in rows:
        numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(name)}</th>{numbers}</tr>")
    return _wide(f"<table>{''.join(lines if any(header) else lines[1:])}</table>")


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>'


def _figure(figure: Any, caption: str) -> str:
    return _image(style.encode(figure, ".svg"), "svg+xml", caption)


def _image(content: bytes, kind: str, caption: str) -> str:
    text, data = html.escape(caption), base64.b64encode(content).decode()
    pixels = ' class="pixels"' if kind == "png" else ""
    return (
        f'<figure><img{pixels} alt="{text}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )
