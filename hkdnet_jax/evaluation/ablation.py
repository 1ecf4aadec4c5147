"""Scores the models of a sweep on test pairs, and draws its table."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hkdnet_jax import metrics
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import to_8_bit
from hkdnet_jax.common.pair_files import Pair, match_folders, read_pair
from hkdnet_jax.evaluation.markdown import markdown_table
from hkdnet_jax.evaluation.pictures import crop_to_multiple, degrade_picture
from hkdnet_jax.evaluation.results import full_reference
from hkdnet_jax.evaluation.scoring import ModelImages, score_pairs
from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files.model import Model

Result = Mapping[str, Any]
_QUALITY = {"psnr": "PSNR, dB", "ssim": "SSIM"}
_DIGITS = {"psnr": 2}  # of the others 4


def test_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder with `ir/` and `vis/`.

    Raises:
      UserError: there are none, or a picture has no partner.
    """
    pairs, problems = match_folders(folder / "ir", folder / "vis")
    if problems or not pairs:
        raise UserError(f"{folder}: {problems[0] if problems else 'no pairs'}.")
    return pairs


def score_model(
    directory: Any, teacher: Model | None, pairs: Sequence[Pair]
) -> dict[str, float]:
    """Scores the model in a folder on high-resolution pairs.

    Args:
      directory: a model directory.
      teacher: a student's teacher, which makes the reference pictures; None for a
        teacher.
      pairs: files of the pairs.

    Returns:
      Means over the pairs: the paper's six metrics under protocol `plain`, and for a
      student also `psnr` (dB) and `ssim` against its teacher's picture of the
      high-resolution pair.

    Raises:
      UserError: a file cannot be read or scored.
    """
    model = Model.load(directory)
    names = metrics.select("paper")
    method = ModelImages(model, str(directory), "plain", pairs)
    outcomes = score_pairs(pairs, {"model": method}, names, model.scale)
    for outcome in outcomes:
        if outcome.errors:
            raise UserError(outcome.errors[0])
    rows = [dict(outcome.values["model"]) for outcome in outcomes]
    if teacher is not None:
        for row, pair in zip(rows, pairs, strict=True):
            row |= _against_teacher(model, teacher, pair)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _against_teacher(model: Model, teacher: Model, pair: Pair) -> dict[str, float]:
    images = (to_8_bit(image) for image in read_pair(pair))
    ir, vis = (crop_to_multiple(image, model.scale) for image in images)
    low = (degrade_picture(image, model.scale) for image in (ir, vis))
    return full_reference(fuse_pair(model, *low), fuse_pair(teacher, ir, vis), None)


def table(title: str, results: Sequence[Result]) -> str:
    """The table of a sweep in Markdown: a row for each variant and scale.

    A cell is the mean over the seeds and, if there are several, the deviation of a
    single run, from the sum of squares divided by the number of seeds less 1.

    Args:
      title: what the table shows.
      results: what `training.sweeps.train_entry` returned for each run.
    """
    parts = [f"# {title}\n"]
    for kind, heading in (("val", "Validation pairs"), ("test", "Test pairs")):
        shown = [result for result in results if result[kind]]
        if shown:
            parts.append(f"## {heading}\n\n{_part(kind, shown)}")
    return "\n".join(parts)


def _part(kind: str, results: Sequence[Result]) -> str:
    columns = {**_QUALITY, **{name: name for name in metrics.select("paper")}}
    found = results[0][kind]
    columns = {key: text for key, text in columns.items() if key in found}
    alive = sorted(key for key in found if key.startswith("alive"))
    groups: dict[tuple[str, int], list[Result]] = {}
    for result in results:
        groups.setdefault((result["variant"], result["scale"]), []).append(result)
    cells: list[tuple[str, Callable[[Result], float], int]] = [
        (text, _getter(kind, key), _DIGITS.get(key, 4)) for key, text in columns.items()
    ]
    if alive:
        cells.append(("live channels", _least(kind, alive), 2))
    rows = [
        [
            variant,
            f"x{scale}",
            f"{group[0]['parameters']:,}",
            str(len(group)),
            *(_cell([value(r) for r in group], digits) for _, value, digits in cells),
        ]
        for (variant, scale), group in sorted(groups.items(), key=lambda g: g[0][1])
    ]
    header = ["run", "scale", "parameters", "seeds", *(text for text, _, _ in cells)]
    return markdown_table(header, rows)


def _getter(kind: str, key: str) -> Callable[[Result], float]:
    return lambda result: result[kind][key]


def _least(kind: str, keys: Sequence[str]) -> Callable[[Result], float]:
    return lambda result: min(result[kind][key] for key in keys)


def _cell(values: Sequence[float | None], digits: int) -> str:
    if None in values:  # a metric that the pictures are too small for
        return "-"
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {np.std(values, ddof=1):.{digits}f}"
