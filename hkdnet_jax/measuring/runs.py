"""Runs of the benchmark, which measure rows one by one and print them as they come."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.measuring.exported import measure_exported
from hkdnet_jax.measuring.flicker import Frame, mean_rows, measure_flicker
from hkdnet_jax.measuring.fresh import Skipped, call_fresh
from hkdnet_jax.measuring.measure import Row, Settings, Size, machine, size_text
from hkdnet_jax.measuring.metrics import measure_metrics
from hkdnet_jax.measuring.parity import measure_parity
from hkdnet_jax.measuring.peers import measure_peers
from hkdnet_jax.measuring.settings import check_training
from hkdnet_jax.measuring.subjects import (
    EXPORTED_COLUMNS,
    FLICKER_COLUMNS,
    METRICS_COLUMNS,
    PARITY_COLUMNS,
    PEERS_COLUMNS,
    SUBJECTS,
)
from hkdnet_jax.measuring.table import Column, header, line, listing
from hkdnet_jax.model_files.model import Model


def run_metrics(sizes: Sequence[Size], repeats: int) -> Row:
    """Measures the fusion metrics; their table goes to stdout.

    Args:
      sizes: (height, width) of the images, in pixels.
      repeats: number of timed calls for each row.

    Returns:
      The report: `machine` and `rows`.
    """
    print(header(METRICS_COLUMNS), flush=True)
    rows = []
    for row in measure_metrics(sizes, repeats):
        print(line(METRICS_COLUMNS, row), flush=True)
        rows.append(row)
    return {"machine": machine(), "rows": rows}


def run_parity(presets: Sequence[str], dtypes: Sequence[str]) -> Row:
    """Compares the first device with the CPU; the table goes to stdout.

    Args:
      presets: see `parity.measure_parity`.
      dtypes: see `parity.measure_parity`.

    Returns:
      The report: `machine`, `rows` (see `parity.measure_parity`) and `failures`, a
      sentence for each case that differs.
    """
    print(header(PARITY_COLUMNS), flush=True)
    rows, failures = [], []
    for row in measure_parity(presets, dtypes):
        shown = row | {"verdict": "yes" if row["ok"] else "NO"}
        print(line(PARITY_COLUMNS, shown), flush=True)
        rows.append(row)
        if not row["ok"]:
            differs = "error" not in row and f"it differs by {row['difference']:.2g}"
            reason = differs or row["error"]
            failures.append(f"{row['case']}: {reason}.")
    return {"machine": machine(), "rows": rows, "failures": failures}


def run_exported(files: Sequence[Path], sizes: Sequence[Size], repeats: int) -> Row:
    """Measures exported files, with a new process for each size.

    The table goes to stdout.

    Args:
      files: see `exported.measure_exported`.
      sizes: (height, width) of the inputs, in pixels.
      repeats: number of timed calls for each row.

    Returns:
      The report: `machine` and `rows`.

    Raises:
      UserError: see `exported.measure_exported`.
    """
    return _by_size(
        EXPORTED_COLUMNS,
        sizes,
        lambda size: call_fresh(measure_exported, files, size, repeats),
    )


def run_peers(specs: Sequence[str], settings: Settings, sizes: Sequence[Size]) -> Row:
    """Measures other programs beside ours, with a new process for each size.

    The table goes to stdout.

    Args:
      specs: see `peers.open_peer`.
      settings: settings of all rows, checked by `settings.check_settings`.
      sizes: (height, width) of the inputs, in pixels.

    Returns:
      The report: `machine` and `rows`.

    Raises:
      UserError: see `peers.measure_peers`.
    """
    return _by_size(
        PEERS_COLUMNS,
        sizes,
        lambda size: call_fresh(measure_peers, specs, settings, size),
    )


def _by_size(
    columns: Sequence[Column],
    sizes: Sequence[Size],
    measure: Callable[[Size], list[Row]],
) -> Row:
    """Prints the rows of each size once they are measured; returns the report."""
    about = call_fresh(machine)
    print(header(columns), flush=True)
    rows = []
    for size in tqdm(sizes, unit="size", file=sys.stderr):
        found = measure(size)
        rows += found
        for row in found:
            tqdm.write(line(columns, row), file=sys.stdout)
    return {"machine": about, "rows": rows}


def run_flicker(
    student: Model, teacher: Model, sequences: Mapping[str, Iterable[Frame]]
) -> Row:
    """Measures the flicker of sequences; the table and the means go to stdout.

    Args:
      student: see `flicker.measure_flicker`.
      teacher: see `flicker.measure_flicker`.
      sequences: see `flicker.measure_flicker`.

    Returns:
      The report: `machine`, `rows` and `means`, a row for each method over all steps.
    """
    print(header(FLICKER_COLUMNS), flush=True)
    rows = []
    for row in measure_flicker(student, teacher, sequences):
        print(line(FLICKER_COLUMNS, row), flush=True)
        rows.append(row)
    means = mean_rows(rows)
    for row in means:
        print(line(FLICKER_COLUMNS, row), flush=True)
    return {"machine": machine(), "rows": rows, "means": means}


def run_subject(name: str, settings: Settings, sizes: Sequence[Size]) -> Row:
    """Measures a subject, with a new process for each row.

    The table, the fits and the skipped rows go to stdout, a progress bar to stderr.

    Args:
      name: a key of SUBJECTS.
      settings: settings of all rows, checked by `settings.check_settings`.
      sizes: (height, width) to measure, in pixels.

    Returns:
      The report: `machine`, `subject`, `settings`, `rows`, `fits`, and `skipped` and
      `failures` with a sentence for each such row.

    Raises:
      UserError: the subject trains, but a size is not square or the devices cannot
        share the batch.
    """
    subject = SUBJECTS[name]
    # In a new process too, because this one must not take the accelerator.
    about = call_fresh(machine)
    if subject.trains:
        check_training(sizes, settings.batch, about["device_count"])

    rows, skipped, failures = [], [], []
    names = "size", *subject.varied
    values = itertools.product(sizes, *subject.varied.values())
    cases = [dict(zip(names, combination, strict=True)) for combination in values]
    print(header(subject.columns), flush=True)
    for case in tqdm(cases, unit="process", file=sys.stderr):
        try:
            found = call_fresh(subject.measure, settings, **case)
        except (Skipped, UserError) as problem:
            sentences = skipped if isinstance(problem, Skipped) else failures
            sentences.append(f"{_label(case)}: {problem}")
            continue
        rows += found
        for row in found:
            tqdm.write(line(subject.columns, row), file=sys.stdout)
    fits = subject.fits(rows)
    for fit in fits:
        print(f"fit: {listing(fit)}")
    for sentence in skipped:
        print(f"skipped: {sentence}")
    return {
        "machine": about,
        "subject": name,
        "settings": dataclasses.asdict(settings),
        "rows": rows,
        "fits": fits,
        "skipped": skipped,
        "failures": failures,
    }


def _label(case: Row) -> str:
    others = [f"{name} {value}" for name, value in case.items() if name != "size"]
    return ", ".join([size_text(case["size"]), *others])
