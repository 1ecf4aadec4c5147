"""The methods that a user compares: from folders and names to scores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Pair, match_folders, match_fused
from hkdnet_jax.evaluation.scoring import (
    Method,
    ModelImages,
    SavedImages,
    score_pairs,
)
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.pretrained.arguments import load_model


@dataclass(frozen=True)
class Comparison:
    """What is to be scored.

    Attributes:
      pairs: the sources, at least one.
      methods: name in the tables -> method, in the order of the tables.
      protocol: of PROTOCOLS, as the methods have it.
      scale: of the model; the sources are cropped to multiples of it.
      problems: a sentence for each file that is left out.
    """

    pairs: Sequence[Pair]
    methods: dict[str, Method]
    protocol: str
    scale: int
    problems: Sequence[str]


@dataclass(frozen=True)
class Found:
    """What came of a comparison.

    Attributes:
      scores: with a sentence for each thing that could not be scored.
      warnings: a sentence for each image whose content leaves a metric without value.
      cropped: how many pairs were cropped.
    """

    scores: Scores
    warnings: Sequence[str]
    cropped: int


def collect(
    ir: Path,
    vis: Path,
    fused: Sequence[str] = (),
    model: str | None = None,
    scale: int | None = None,
    protocol: str = "plain",
) -> Comparison:
    """Finds the sources, the fused images and the model; computes nothing yet.

    Args:
      ir: folder of infrared images.
      vis: folder of visible images; files of equal stem are a pair.
      fused: `DIR` or `NAME=DIR` of each method's fused images, as in `--fused`.
      model: name or directory of a model, see `load_model`.
      scale: of the model; None for its own.
      protocol: of PROTOCOLS.

    Raises:
      UserError: there is nothing to score, no pair, no fused image of any pair, no such
        folder or model, or two methods have one name.
    """
    folders = _named_folders(fused, model, scale)
    if scale and not model:
        raise UserError(f"--scale {scale} is a model's: add --model, or drop it.")
    pairs, problems = match_folders(ir, vis)
    if not pairs:
        raise UserError(
            f"{ir} and {vis} hold no pairs: give folders with pictures of equal stems "
            f"({', '.join(IMAGE_SUFFIXES)})."
        )
    methods: dict[str, Method] = {}
    for name, folder in folders.items():
        files, unmatched = match_fused(folder, pairs)
        if not files:
            raise UserError(
                f"--fused {folder} holds no fused picture of any pair: give a folder "
                f"whose files are named as the sources, such as {pairs[0].name}.png."
            )
        methods[name] = SavedImages(files, protocol)
        problems += unmatched
    if not model:
        return Comparison(pairs, methods, protocol, 1, problems)
    loaded, name = load_model(model, scale), _model_name(model, scale)
    methods[name] = ModelImages(loaded, name, protocol)
    return Comparison(pairs, methods, protocol, loaded.scale, problems)


def _named_folders(
    fused: Sequence[str], model: str | None, scale: int | None
) -> dict[str, Path]:
    """Method -> folder of its fused images; UserError unless all names differ."""
    if not fused and not model:
        raise UserError(
            "There is nothing to score: give --fused DIR or --model NAME_OR_DIR."
        )
    folders: dict[str, Path] = {}
    taken = {_model_name(model, scale): f"--model {model}"} if model else {}
    for text in fused:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = _last_part(text), text
        if not name or not folder:
            raise UserError(f"--fused {text} lacks a part: write NAME=DIR.")
        if name in taken:
            raise UserError(
                f"{taken[name]} and --fused {text} are both called {name!r}: write "
                "--fused NAME=DIR with another name."
            )
        taken[name] = f"--fused {text}"
        folders[name] = Path(folder)
    return folders


def _model_name(model: str, scale: int | None) -> str:
    """What to call a model in a table: the name of its directory."""
    return _last_part(pretrained.locate(model, scale))


def _last_part(folder: Path | str) -> str:
    return Path(os.path.abspath(folder)).name


def compare(comparison: Comparison, metrics: Sequence[str]) -> Found:
    """Scores every method on every pair, with a progress bar on stderr.

    Args:
      comparison: see `collect`.
      metrics: names of `metrics.METRICS`.
    """
    pairs, methods = comparison.pairs, comparison.methods
    outcomes = score_pairs(pairs, methods, metrics, comparison.scale)
    errors = [*comparison.problems, *(e for o in outcomes for e in o.errors)]
    values = {
        method: {
            pair.name: outcome.values[method]
            for pair, outcome in zip(pairs, outcomes, strict=True)
            if method in outcome.values
        }
        for method in methods
    }
    scores = Scores(
        metrics,
        values,
        len(pairs),
        comparison.protocol,
        [f"{sentence.rstrip('.')}." for sentence in errors],
    )
    # Several methods meet the same flat source.
    warnings = list(dict.fromkeys(w for o in outcomes for w in o.warnings))
    return Found(scores, warnings, sum(outcome.cropped for outcome in outcomes))
