"""Runs and scores methods on degraded pairs, picture by picture, restartably.

Each picture's scores are a file below the folder of the comparison, written when they
are complete; a second run takes them from there.
"""

import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import hkdnet_jax
from hkdnet_jax import metrics
from hkdnet_jax.common import atomic_files, image_files
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair, read_pair
from hkdnet_jax.evaluation import rows
from hkdnet_jax.evaluation.contenders import Contender, Running, multiple_of
from hkdnet_jax.evaluation.pictures import Picture, crop_to_multiple, degrade_picture
from hkdnet_jax.evaluation.results import full_reference
from hkdnet_jax.evaluation.rows import Row
from hkdnet_jax.evaluation.scoring import PROTOCOLS
from hkdnet_jax.inference.pair import explain_out_of_memory
from hkdnet_jax.runtime import memory


@dataclass
class Measured:
    """What was measured.

    Attributes:
      rows: scale -> method -> image -> its row, see `measure`.
      errors: one sentence for each thing that could not be done.
    """

    rows: dict[float, dict[str, dict[str, Row]]]
    errors: list[str] = field(default_factory=list)


def compare(
    pairs: Sequence[Pair],
    contenders: Sequence[Contender],
    scales: Sequence[float],
    out: Path,
) -> Measured:
    """Measures every method on every pair at every scale, with a progress bar.

    Args:
      pairs: high-resolution pairs.
      contenders: the methods.
      scales: out of `contenders.SCALES`.
      out: folder for the pictures (pictures/xS/METHOD) and the rows (rows/xS/METHOD);
        those that it holds are not made again.
    """
    names = [contender.name for contender in contenders]
    found = Measured({scale: {name: {} for name in names} for scale in scales})
    errors: dict[str, None] = {}  # a method that cannot do a scale says so once
    tasks = [(pair, scale) for pair in pairs for scale in scales]
    sources, read, images = None, None, []
    for pair, scale in tqdm(tasks, unit="pair", file=sys.stderr):
        try:
            if read != pair:
                images, read = [to_8_bit(image) for image in read_pair(pair)], pair
            cropped = [crop_to_multiple(image, multiple_of(scale)) for image in images]
            if not cropped[0].size:
                raise UserError(
                    f"{pair.ir} has a side under {multiple_of(scale)} pixels."
                )
        except UserError as error:
            errors[str(error)] = None
            continue
        if sources and sources[0].shape != cropped[0].shape:
            jax.clear_caches()  # each size has its own programs
        sources = cropped
        for contender in contenders:
            try:
                row = measure(contender, pair, *sources, scale, out)
            except UserError as error:
                errors[f"{contender.name} at x{scale}: {error}"] = None
                continue
            if row is not None:
                found.rows[scale][contender.name][pair.name] = row
    found.errors = list(errors)
    return found


def measure(
    contender: Contender,
    pair: Pair,
    ir: Picture,
    vis: Picture,
    scale: float,
    out: Path,
) -> Row | None:
    """Measures a method on one pair at one scale, or reads what it measured before.

    Args:
      contender: the method.
      pair: the pair's files.
      ir: uint8 [H, W], the high-resolution image; `multiple_of` divides its sides.
      vis: uint8 [H, W].
      scale: out of `contenders.SCALES`.
      out: see `compare`.

    Returns:
      None if the method has no picture of the pair; otherwise a dict of `plain` and
      `paper` (the six metrics under each protocol), `detail` (plain), and of a method
      that runs here `own` (PSNR in dB and SSIM against its own fusion of the
      high-resolution pair), `seconds` and `megabytes` (the growth of resident memory,
      None if the system does not tell) of its second run, which compiles nothing.

    Raises:
      UserError: the method cannot do it, or a file cannot be read or written.
    """
    file = _row_file(out, scale, contender.name, pair)
    key = _key(ir, vis)
    known = rows.read(file, key)
    if known is not None:
        return known
    low = [np.asarray(degrade_picture(image, scale)) for image in (ir, vis)]
    with explain_out_of_memory(pair.ir, *ir.shape):
        plain = contender.fuse(pair, *low, scale, "plain")
        if plain is None:
            return None
        memory.restart_peak()
        before, start = memory.rss(), time.perf_counter()
        paper = contender.fuse(pair, *low, scale, "paper")
        seconds, peak = time.perf_counter() - start, memory.peak_rss()
        row: Row = {}
        if isinstance(contender, Running):
            own = _own_fusion(contender, pair, ir, vis, _own_scale(scale), out, key)
            row |= {
                "own": full_reference(plain, own, None),
                "seconds": seconds,
                "megabytes": None if peak is None else max(0, peak - before) / 1e6,
            }
        for protocol, fused in zip(PROTOCOLS, (plain, paper), strict=True):
            row[protocol] = _scores(ir, vis, fused, metrics.PAPER, scale)
        row["detail"] = _scores(ir, vis, plain, metrics.DETAIL, scale)
    _save_picture(plain, picture_file(out, scale, contender.name, pair))
    rows.save(file, key, row)
    return row


def _own_fusion(
    contender: Running,
    pair: Pair,
    ir: Picture,
    vis: Picture,
    folder: str,
    out: Path,
    key: str,
) -> Picture:
    """The method's fusion of the high-resolution pair, made once for all such pairs."""
    file = picture_file(out, folder, contender.name, pair)
    row = _row_file(out, folder, contender.name, pair)
    if rows.read(row, key) is not None and file.exists():
        return read_gray(file)
    picture = contender.fuse(pair, ir, vis, 1, "plain")
    _save_picture(picture, file)
    rows.save(row, key, {})
    return picture


def _own_scale(scale: float) -> str:
    """The folder of the fusions at scale 1, of sources that are cropped alike."""
    return "1" if multiple_of(scale) == multiple_of(1) else f"1-{multiple_of(scale)}"


def _row_file(out: Path, scale: float | str, method: str, pair: Pair) -> Path:
    return out / "rows" / f"x{scale}" / method / f"{pair.name}.json"


def picture_file(out: Path, scale: float | str, method: str, pair: Pair) -> Path:
    """Where the picture of a method is, below the folder of the comparison."""
    return out / "pictures" / f"x{scale}" / method / f"{pair.name}.png"


def _save_picture(picture: Picture, file: Path) -> None:
    atomic_files.write_atomically(file, image_files.encode(picture, file))


def _scores(
    ir: Picture, vis: Picture, fused: Picture, names: Sequence[str], scale: float
) -> dict[str, float | None]:
    """Metrics of one picture; None where a metric has no value."""
    values = metrics.score(ir, vis, fused, names, scale)
    return {name: None if np.isnan(x) else float(x) for name, x in values.items()}


def _key(ir: Picture, vis: Picture) -> str:
    """What a row must have in common with a run that takes it: pixels and version."""
    digest = hashlib.sha256(f"{hkdnet_jax.__version__} {ir.shape}".encode())
    digest.update(ir.tobytes() + vis.tobytes())
    return digest.hexdigest()
