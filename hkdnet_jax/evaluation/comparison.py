"""Compares methods that a user names: from folders and models to scores."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hkdnet_jax import pretrained
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import IMAGE_SUFFIXES
from hkdnet_jax.common.pair_files import Found, Pair, Search, find_pairs, match_fused
from hkdnet_jax.common.pair_list import read_pair_list
from hkdnet_jax.common.pair_names import NamePattern
from hkdnet_jax.evaluation.scoring import (
    Method,
    ModelImages,
    SavedImages,
    score_pairs,
)
from hkdnet_jax.evaluation.tables import Scores
from hkdnet_jax.inference.inputs import take_ranges
from hkdnet_jax.inference.options import Options
from hkdnet_jax.pretrained.arguments import load_model


@dataclass(frozen=True)
class Comparison:
    """The pairs and methods to score.

    Attributes:
      pairs: the sources, at least one pair.
      methods: methods by their name in the tables, in the order of the tables.
      protocol: the protocol of the methods, a key of PROTOCOLS.
      scale: scale of the model or, for the metrics in `DETAIL`, of the fused images;
        the sources are cropped to multiples of it.
      problems: one sentence for each file that is left out.
      notes: sentences on what was recognised without being asked for.
    """

    pairs: Sequence[Pair]
    methods: dict[str, Method]
    protocol: str
    scale: int
    problems: Sequence[str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """The result of a comparison.

    Attributes:
      scores: the scores, with one sentence for each image that could not be scored.
      warnings: one sentence for each image for which a metric has no value.
      notes: sentences on what was recognised or cropped without being asked for.
    """

    scores: Scores
    warnings: Sequence[str]
    notes: Sequence[str]


def find_sources(
    ir: Path | None, vis: Path | None, search: Search, listed: Path | None = None
) -> Found:
    """Finds the pairs to score.

    Args:
      ir: folder of infrared images.
      vis: folder of visible images.
      search: see `find_pairs`.
      listed: a list of pairs instead of the folders, see `read_pair_list`.

    Raises:
      UserError: a folder or the list cannot be read, or there is no pair.
    """
    if listed is not None:
        lines, problems = read_pair_list(listed)
        found = Found([one.pair for one in lines], problems)
        where = str(listed)
    else:
        found, where = find_pairs(ir, vis, search), f"{ir} and {vis}"
    if not found.pairs:
        raise UserError(
            f"{where} hold no pairs: give folders whose pictures have the same stems "
            f"({', '.join(IMAGE_SUFFIXES)}), or patterns (--ir-pattern, --vis-pattern)."
        )
    return found


def collect(
    sources: Found,
    fused: Sequence[str] = (),
    model: str | None = None,
    scale: int | None = None,
    protocol: str = "plain",
    fused_pattern: NamePattern | None = None,
    scaled: Sequence[str] = (),
) -> Comparison:
    """Finds the fused images and the model of some pairs; computes nothing yet.

    Args:
      sources: see `find_sources`.
      fused: `DIR` or `NAME=DIR` of each method's fused images, as in `--fused`.
      model: name or directory of a model, see `load_model`.
      scale: scale of the model, None for the model's own; or that of the fused images,
        if a metric asks for it.
      protocol: a key of PROTOCOLS.
      fused_pattern: see `match_fused`.
      scaled: the metrics that ask for a scale.

    Raises:
      UserError: there is nothing to score, a folder of fused images holds none of any
        pair, a folder or model does not exist, `scale` is given without a model or a
        metric for it or is missing, or two methods have the same name.
    """
    folders = _named_folders(fused, model, scale)
    if scale and not (model or scaled):
        raise UserError(f"--scale {scale} is a model's: add --model, or drop it.")
    if scaled and not (model or scale):
        raise UserError(
            f"{scaled[0]} depends on by how much the fused pictures were enlarged: add "
            "--scale 2, 3 or 4."
        )
    pairs, problems = sources.pairs, list(sources.problems)
    methods: dict[str, Method] = {}
    for name, folder in folders.items():
        files, unmatched = match_fused(folder, pairs, fused_pattern)
        if not files:
            raise UserError(
                f"--fused {folder} holds no fused picture of any pair: give a folder "
                f"whose files are named like the sources, such as {pairs[0].name}.png."
            )
        methods[name] = SavedImages(files, protocol)
        problems += unmatched
    if not model:
        return Comparison(pairs, methods, protocol, scale or 1, problems, sources.notes)
    loaded, name = load_model(model, scale), _model_name(model, scale)
    methods[name] = ModelImages(loaded, name, protocol, pairs)
    return Comparison(pairs, methods, protocol, loaded.scale, problems, sources.notes)


def _named_folders(
    fused: Sequence[str], model: str | None, scale: int | None
) -> dict[str, Path]:
    """Maps each method's name to the folder of its fused images.

    Raises:
      UserError: there is nothing to score, or a method has no name, no folder or the
        name of another method.
    """
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
    """The name of a model in a table, which is that of its directory."""
    return _last_part(pretrained.locate(model, scale))


def _last_part(folder: Path | str) -> str:
    return Path(os.path.abspath(folder)).name


def compare(
    comparison: Comparison, metrics: Sequence[str], options: Options | None = None
) -> Result:
    """Scores every method on every pair, with a progress bar on stderr.

    Args:
      comparison: see `collect`.
      metrics: names from `metrics.METRICS`.
      options: what the levels of the sources mean; the default options if None.
    """
    pairs, methods = comparison.pairs, comparison.methods
    options, taken = take_ranges(pairs, options or Options())
    outcomes = score_pairs(pairs, methods, metrics, comparison.scale, options)
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
    # Each source is listed once, although every method reports it.
    warnings = list(dict.fromkeys(w for o in outcomes for w in o.warnings))
    cropped = sum(outcome.cropped for outcome in outcomes)
    notes = [*comparison.notes, *taken]
    if cropped:
        notes.append(
            f"{cropped} of {len(pairs)} pairs were cropped at the right and bottom to "
            f"multiples of the scale {comparison.scale}."
        )
    return Result(scores, warnings, notes)
