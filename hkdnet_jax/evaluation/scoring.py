"""Scores the fused images of one or several methods, pair by pair.

A method is a folder of fused images, or a model, which gets each pair at 1/scale of its
resolution and is scored at the full resolution.  Images are scored as they are saved:
8-bit gray.
"""

import dataclasses
import os
import queue
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from hkdnet_jax import metrics
from hkdnet_jax.common.errors import UserError
from hkdnet_jax.common.image_files import image_size, quantize, read_gray, to_8_bit
from hkdnet_jax.common.pair_files import Pair
from hkdnet_jax.evaluation.pictures import (
    crop_to_multiple,
    degrade_picture,
    stretch,
)
from hkdnet_jax.inference.inputs import read_inputs
from hkdnet_jax.inference.options import Options
from hkdnet_jax.inference.pair import explain_out_of_memory, fuse_pair
from hkdnet_jax.inference.shapes import cover
from hkdnet_jax.model_files.call import pads
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.presets import MIN_SIDE

# Number of sizes whose compiled programs stay in memory; tens of megabytes each.
_SIZES_KEPT = 8
# Treatment of the images before they are scored; see `SavedImages` and `ModelImages`.
PROTOCOLS = {
    "plain": "inputs and fused images as they are",
    "paper": "model inputs and fused images stretched to their own range",
}


def fuse_options(protocol: str) -> dict[str, Any]:
    """The arguments `normalize` and `stretch` of `fuse_pair` under a protocol."""
    paper = protocol == "paper"
    return {"normalize": "minmax" if paper else "unit", "stretch": paper}


class SavedImages:
    """A method whose fused images are files."""

    def __init__(self, files: Mapping[str, Path], protocol: str):
        """Reads nothing yet.

        Args:
          files: fused images by the name of their pair, see `match_fused`.
          protocol: a key of PROTOCOLS.
        """
        self.files = files
        self.stretch = protocol == "paper"

    def fuse(self, pair: Pair, ir: np.ndarray, vis: np.ndarray) -> np.ndarray | None:
        """Reads the fused image of a pair, and stretches it under protocol `paper`.

        Returns:
          uint8 [H, W], or None if the pair has no fused image.

        Raises:
          UserError: the file cannot be read.
        """
        del ir, vis
        if pair.name not in self.files:
            return None
        image = to_8_bit(read_gray(self.files[pair.name]))
        return stretch(image) if self.stretch else image

    def label(self, pair: Pair) -> str:
        """The name of the fused image of `pair` in a sentence."""
        return str(self.files[pair.name])


class ModelImages:
    """A method that fuses degraded pairs with a model, on all devices at once."""

    def __init__(
        self, model: Model, name: str, protocol: str, pairs: Iterable[Pair] = ()
    ):
        """Puts the model on all devices.

        Args:
          model: see `Model.load`.
          name: the method's name, for sentences.
          protocol: a key of PROTOCOLS.
          pairs: those to come, so that those of many sizes share programs.
        """
        self.scale = model.scale
        sizes = (header_size(pair.ir) for pair in pairs)
        low = Counter((h // self.scale, w // self.scale) for h, w in sizes)
        self.pads = pads(model.network)
        self.shapes = cover(low) if self.pads else {}
        self.name = name
        self.options = fuse_options(protocol)
        # A thread takes a device out while it fuses, so each device has one pair.
        self.free = queue.SimpleQueue()
        for device in jax.local_devices():
            self.free.put((device, model.on(device)))

    def fuse(self, pair: Pair, ir: np.ndarray, vis: np.ndarray) -> np.ndarray:
        """Fuses a pair degraded by the model's scale.

        Args:
          pair: its files, for sentences.
          ir: uint8 [H, W]; the scale divides both sides.
          vis: uint8 [H, W].

        Returns:
          uint8 [H, W].

        Raises:
          UserError: the degraded pair is too small, or does not fit into memory.
        """
        height, width = ir.shape
        if min(height, width) < MIN_SIDE * self.scale:
            raise UserError(
                f"{pair.ir} is {width}x{height} pixels, too small for {self.name} of "
                f"scale {self.scale}: both sides need {MIN_SIDE * self.scale}."
            )
        device, model = self.free.get()
        try:
            with (
                jax.default_device(device),
                explain_out_of_memory(pair.ir, height, width),
            ):
                low = [degrade_picture(x, self.scale) for x in (ir, vis)]
                shape = self.shapes.get(low[0].shape)
                alone = shape in (None, low[0].shape)
                padding = {} if alone else {"pad_to": shape}
                return fuse_pair(model, *low, **self.options, **padding)
        finally:
            self.free.put((device, model))

    def label(self, pair: Pair) -> str:
        """The name of the fused image of `pair` in a sentence."""
        return f"the picture that {self.name} makes of {pair.ir}"


Method = SavedImages | ModelImages


@dataclass
class Outcome:
    """The result for one pair.

    Attributes:
      values: method -> metric -> value, without the methods that failed.
      errors: one sentence for each image that could not be scored.
      warnings: one sentence for each image for which a metric has no value.
      cropped: whether the sources were cropped to multiples of the scale.
    """

    values: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cropped: bool = False


def score_pairs(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method],
    names: Sequence[str],
    scale: int = 1,
    options: Options | None = None,
) -> list[Outcome]:
    """Scores each pair by `score_pair`, with a progress bar on stderr.

    As many pairs are scored at the same time as there are cores, or devices if there
    are more of them; no other pairs are in memory. Pairs of the same size are scored
    together, because each size has its own programs.

    Args:
      pairs: files of the sources.
      methods: methods by their name.
      names: names from `metrics.METRICS`.
      scale: see `score_pair`.
      options: see `score_pair`.

    Returns:
      The outcomes, in the order of `pairs`.
    """
    task = partial(
        score_pair, methods=methods, names=names, scale=scale, options=options
    )
    sizes = {pair: header_size(pair.ir) for pair in pairs}
    order = sorted(pairs, key=sizes.get)
    outcomes: dict[Pair, Outcome] = {}
    compiled: set[tuple[int, int]] = set()
    per_size = any(
        isinstance(method, ModelImages) and not method.pads
        for method in methods.values()
    )
    workers = max(os.cpu_count() or 1, jax.local_device_count())
    pool = ThreadPoolExecutor(workers)
    try:
        done = tqdm(
            pool.map(task, order), total=len(order), unit="pair", file=sys.stderr
        )
        for pair, outcome in zip(order, done, strict=True):
            outcomes[pair] = outcome
            compiled.add(sizes[pair])
            if per_size and len(compiled) > _SIZES_KEPT:
                jax.clear_caches()
                compiled.clear()
    finally:
        # After Ctrl-C no other pair is started.
        pool.shutdown(cancel_futures=True)
    return [outcomes[pair] for pair in pairs]


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) from the file's header; (0, 0) if the header is broken."""
    try:
        return image_size(path)
    except UserError:
        return 0, 0


def score_pair(
    pair: Pair,
    methods: Mapping[str, Method],
    names: Sequence[str],
    scale: int = 1,
    options: Options | None = None,
) -> Outcome:
    """Scores the fused image of every method for one pair.

    Args:
      pair: files of the sources.
      methods: methods by their name.
      names: names from `metrics.METRICS`.
      scale: by how much the fused images were enlarged, for the metrics in `DETAIL`;
        the sources are cropped at the right and bottom to multiples of it, and so are
        saved images of the sources' full size, so that every method is scored on
        the same pixels.
      options: what the levels of the sources mean; the default options if None.

    Returns:
      The outcome. A file that cannot be used is a sentence in it and raises nothing.
    """
    outcome = Outcome()
    try:
        images = read_sources(pair, options or Options())
        ir, vis = (crop_to_multiple(image, scale) for image in images)
        if not ir.size:
            raise UserError(f"{pair.ir} is smaller than the scale {scale}: remove it.")
    except UserError as error:
        outcome.errors.append(str(error))
        return outcome
    full_shape = images[0].shape
    outcome.cropped = ir.shape != full_shape
    small = [n for n in names if min(ir.shape) < metrics.METRICS[n].min_side]
    if small:
        outcome.errors.append(_too_small(pair, ir.shape, small))
    for name, method in methods.items():
        try:
            fused = method.fuse(pair, ir, vis)
            if fused is None:
                continue
            if fused.shape == full_shape:
                fused = crop_to_multiple(fused, scale)
            _check_size(method.label(pair), fused.shape, pair, full_shape, ir.shape)
            with explain_out_of_memory(pair.ir, *ir.shape):
                scored = metrics.score(ir, vis, fused, names, scale)
        except UserError as error:
            outcome.errors.append(str(error))
            continue
        outcome.values[name] = {metric: float(v) for metric, v in scored.items()}
        undefined = [n for n in names if np.isnan(scored[n]) and n not in small]
        if undefined:
            shown = {pair.ir: ir, pair.vis: vis, method.label(pair): fused}
            outcome.warnings.append(_undefined(shown, undefined))
    return outcome


def read_sources(pair: Pair, options: Options) -> list[np.ndarray]:
    """Reads a pair as gray pictures of 8 bits.

    Args:
      pair: its files.
      options: what their levels mean.

    Returns:
      The infrared and the visible image, uint8 [H, W] each.

    Raises:
      UserError: a file cannot be read, or the sizes differ.
    """
    inputs = read_inputs(pair, dataclasses.replace(options, color="gray"))
    return [quantize(unit[..., 0], "8") for unit in (inputs.ir, inputs.vis)]


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _too_small(pair: Pair, shape: tuple[int, int], names: Sequence[str]) -> str:
    needs = [f"{name} (needs {metrics.METRICS[name].min_side})" for name in names]
    return (
        f"{pair.ir} is {_size(shape)} pixels, too small for {', '.join(needs)}: leave "
        "the pair out, or choose other --metrics."
    )


def _check_size(
    label: str,
    fused: tuple[int, int],
    pair: Pair,
    full: tuple[int, int],
    cropped: tuple[int, int],
) -> None:
    """Raises UserError unless a fused image has the size that is scored."""
    if fused == cropped:
        return
    also = f" (or {_size(cropped)})" if cropped != full else ""
    raise UserError(
        f"{label} is {_size(fused)} but its source {pair.ir} is {_size(full)}{also}; "
        "give sources of the fused image's size."
    )


def _undefined(shown: Mapping[Path | str, np.ndarray], names: Sequence[str]) -> str:
    """A sentence on why metrics have no value.

    Args:
      shown: both sources and the fused image, by their names in the sentence.
      names: the metrics without a value.
    """
    listed = ", ".join(names)
    flat = [str(label) for label, x in shown.items() if x.min() == x.max()]
    if flat:
        return f"{' and '.join(flat)} is flat: no value for {listed}."
    *_, fused = shown
    return f"{fused} has no finite {listed}: it may be equal to a source."
