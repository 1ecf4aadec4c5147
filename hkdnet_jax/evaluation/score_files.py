"""Files of scores: the suffix of a name decides the format; JSON is read back.

The other JSON files of figures that this project writes are read here too: those of
`compare`, `results`, `sweep` and `benchmark`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hkdnet_jax import metrics
from hkdnet_jax.common.atomic_files import write_atomically
from hkdnet_jax.common.errors import UserError, listing
from hkdnet_jax.evaluation import tables
from hkdnet_jax.evaluation.scoring import PROTOCOLS
from hkdnet_jax.evaluation.tables import Scores

WRITERS = {
    ".json": tables.to_json,
    ".csv": tables.to_csv,
    ".md": tables.to_markdown,
    ".tex": tables.to_latex,
}
Tables = dict[str, Scores]  # by their title
Speeds = dict[str, list[dict[str, float | None]]]
_SWEEP, _COMPARISON = "table.json", "compare.json"
_VARIED = ("phase", "implementation", "passes", "way")  # of a benchmark's rows


def check(outs: Sequence[Path]) -> None:
    """Raises UserError unless all are file names with a suffix of WRITERS."""
    for out in outs:
        if out.suffix.lower() not in WRITERS:
            raise UserError(
                f"--out {out} has none of the suffixes {', '.join(WRITERS)}: end the "
                "name with one of them, which decides the format."
            )
        if out.is_dir():
            raise UserError(f"--out {out} is a folder: give the name of a file.")


def write(scores: Scores, outs: Sequence[Path]) -> list[str]:
    """Writes the files; returns one sentence for each that could not be written."""
    failures = []
    for out in outs:
        try:
            text = WRITERS[out.suffix.lower()](scores)
            write_atomically(out, text.encode())
        except UserError as error:
            failures.append(str(error))
    return failures


def read(path: Path) -> Tables:
    """Reads the scores in a file of `evaluate`, `compare`, `results` or `sweep`.

    Args:
      path: a JSON file that one of these commands wrote, or the folder of a sweep or a
        comparison.

    Returns:
      Scores by what they are of: those of `evaluate` by the name of the file, those of
      `compare` such as `x2 plain` or `x2 own` (see docs/comparison.md), those of
      `results` such as `tno x2 plain`, those of a sweep such as `table5 x2 val`. The
      methods of a sweep are its variants, and its images are its seeds.

    Raises:
      UserError: the file cannot be read, or no such command wrote it.
    """
    file = _in_folder(path) if path.is_dir() else path
    content = _json(file, path)
    try:
        if isinstance(content, list):
            found = _sweep(content, file.resolve().parent.name)
        elif "sets" in content:
            found = _results(content["sets"])
        elif "scales" in content:
            found = _compared(content["scales"], content["errors"])
        else:
            found = {file.stem: _evaluated(content, file.stem)}
    except (KeyError, TypeError, AttributeError, ValueError):
        found = {}
    if not found:
        raise UserError(
            f"{file} holds no scores: give a JSON file that evaluate --out, compare, "
            "results or sweep wrote, or the folder of a sweep or a comparison."
        )
    return found


def read_all(files: Iterable[Path], only: str) -> Tables:
    """Reads several files, see `read`; keeps the titles that fit a pattern like `x2 *`.

    Raises:
      UserError: a file cannot be read, two have one title, or the pattern fits none.
    """
    found: Tables = {}
    for file in files:
        for title, scores in read(file).items():
            if title in found:
                raise UserError(f"{file} and another file are both called {title}.")
            found[title] = scores
    chosen = {k: v for k, v in found.items() if fnmatchcase(k, only)}
    if not chosen:
        raise UserError(f"--only {only} fits none of {listing(list(found))}.")
    return chosen


def read_speed(path: Path) -> Speeds:
    """Reads the times in a file of `benchmark fuse`, `train`, `attention` or `conv`.

    Returns:
      What was measured, such as `fuse lite x2` -> its rows, by size: `pixels` of an
      input, `seconds` for one pair or sample, `gigabytes` at the peak (None where the
      system reports none).

    Raises:
      UserError: the file cannot be read, or is not the benchmark's.
    """
    content = _json(path, path)
    found: Speeds = {}
    try:
        settings = content["settings"]
        what = f"{settings['preset']} x{settings['scale']}"
        if settings["scale"] == 1:
            what = "teacher"
        if settings["dtype"] != "float32":
            what += f" {settings['dtype']}"
        for row in content["rows"]:
            varied = [f"{key} {row[key]}" for key in _VARIED if key in row]
            name = ", ".join([f"{content['subject']} {what}", *varied])
            peak = row["peak_rss_bytes"]
            found.setdefault(name, []).append(
                {
                    "pixels": math.prod(map(int, row["size"].split("x"))),
                    "seconds": row["seconds"] / row["batch"],
                    "gigabytes": peak and peak / 1e9,
                }
            )
    except (KeyError, TypeError, AttributeError, ValueError):
        found = {}
    if not found:
        raise UserError(
            f"{path} holds no times: give a JSON file that benchmark fuse, train, "
            "attention or conv wrote with --out."
        )
    return {k: sorted(rows, key=lambda r: r["pixels"]) for k, rows in found.items()}


def _in_folder(folder: Path) -> Path:
    comparison = folder / _COMPARISON
    return comparison if comparison.exists() else folder / _SWEEP


def _json(file: Path, given: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        what = (
            f"{given} holds no {_SWEEP} and no {_COMPARISON}"
            if given != file
            else f"{file} cannot be read"
        )
        raise UserError(
            f"{what} ({error.strerror}): give a JSON file of scores, or the folder of "
            "a sweep or a comparison."
        ) from None
    except ValueError:
        raise UserError(f"{file} is no JSON file: give one with scores.") from None


def _evaluated(content: Mapping[str, Any], name: str) -> Scores:
    methods = content.get("methods") or {name: content}
    return _scores(
        {
            method: {image["name"]: image for image in found["images"]}
            for method, found in methods.items()
        },
        content.get("protocol", ""),
        errors=content.get("errors", ()),
    )


def _compared(scales: Mapping[str, Any], errors: Sequence[str]) -> Tables:
    """Scores by scale and kind: `own` with the detail beside it, or a protocol."""
    columns = {"own": {name: name for name in ("psnr", "ssim", *metrics.DETAIL)}}
    for protocol in PROTOCOLS:
        columns[protocol] = {f"{protocol}_{name}": name for name in metrics.PAPER}
    found = {}
    for scale, methods in scales.items():
        for kind, names in columns.items():
            values = {
                method: {
                    image["name"]: {name: image[key] for key, name in names.items()}
                    for image in measured["images"]
                }
                for method, measured in methods.items()
            }
            protocol = kind if kind in PROTOCOLS else ""
            found[f"x{scale} {kind}"] = _scores(values, protocol, errors=errors)
    return found


def _results(sets: Mapping[str, Any]) -> Tables:
    """Scores by set, scale and kind: a protocol, or `full_reference`."""
    found = {}
    for name, scales in sets.items():
        for scale, images in scales.items():
            kinds = dict.fromkeys(kind for image in images.values() for kind in image)
            for kind in kinds:
                methods: dict[str, dict[str, Any]] = {}
                for image, values in images.items():
                    for method, row in values[kind].items():
                        methods.setdefault(method, {})[image] = row
                protocol = kind if kind in PROTOCOLS else ""
                found[f"{name} x{scale} {kind}"] = _scores(methods, protocol)
    return found


def _sweep(results: Iterable[Mapping[str, Any]], name: str) -> Tables:
    """Scores by scale and kind of pairs, `val` or `test`."""
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        for kind in ("val", "test"):
            if result[kind]:
                group = groups.setdefault(f"{name} x{result['scale']} {kind}", {})
                seeds = group.setdefault(result["variant"], {})
                seeds[f"seed {result['seed']}"] = result[kind]
    return {title: _scores(group, "", "runs") for title, group in groups.items()}


def _scores(
    methods: Mapping[str, Mapping[str, Mapping[str, Any]]],
    protocol: str,
    unit: str = "images",
    errors: Sequence[str] = (),
) -> Scores:
    rows = [row for images in methods.values() for row in images.values()]
    known = [name for name in tables.KNOWN if any(name in row for row in rows)]
    if not known:
        raise ValueError("no known metric")
    images = {name for images in methods.values() for name in images}
    values = {
        method: {
            image: {m: _number(row.get(m)) for m in known}
            for image, row in images.items()
        }
        for method, images in methods.items()
    }
    return Scores(known, values, len(images), protocol, errors, unit)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
