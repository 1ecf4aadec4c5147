"""Validation during training: means over the held-out pairs, and pictures of some."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hkdnet_jax import metrics, sharding, steps


def validate(
    val_step: Callable[[Mapping[str, jax.Array]], tuple[dict, dict]],
    batches: Iterable[dict[str, Any]],
    mesh: Mesh,
    pictures_wanted: int,
    metric_names: Sequence[str] = (),
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Runs the validation step over all batches.

    Args:
      val_step: a `steps.ValStep` with its parameters bound.
      batches: this process's share, as `loader.val_batches` makes it.
      mesh: over which the batches are spread.
      pictures_wanted: number of pairs to draw.
      metric_names: of `metrics.METRICS`, computed of the picture `fused` and the two
        high-resolution sources, on the host.

    Returns:
      `val/NAME` to the mean over the pairs, for a metric over those pairs for which it
      has a value; and pair names to uint8 [H, k * W], k pictures side by side.
    """
    sums: dict[str, float] = {}
    strips: dict[str, np.ndarray] = {}
    scores: list[np.ndarray] = []  # [local batch, metrics] each; NaN: no value
    for batch in batches:
        names = batch.pop("name")
        real = batch["mask"] > 0
        got, pictures = val_step(sharding.put_batch(batch, mesh))
        for key, value in jax.device_get(got).items():
            sums[key] = sums.get(key, 0.0) + float(value)
        if metric_names:
            fused = _local(jax.device_get(pictures["fused"]))
            scores.append(_score(batch, fused, metric_names)[real])
        if len(strips) < pictures_wanted:
            drawn = [name for name in steps.PICTURES if name in pictures]
            pictures = jax.device_get([pictures[name] for name in drawn])
            side_by_side = _local(np.concatenate(pictures, axis=2))
            # The pairs stand first, the fillers last.
            for name, strip in zip(names, side_by_side[real], strict=False):
                if len(strips) < pictures_wanted:
                    strips[name.replace("/", "_")] = strip[:, :, 0]
    count = sums.pop("count")
    means = {f"val/{key}": value / count for key, value in sums.items()}
    if metric_names:
        means |= _metric_means(metric_names, np.concatenate(scores))
    return means, strips


def _local(images: np.ndarray) -> np.ndarray:
    """This process's share of a global batch, in the order in which it sent it."""
    share = len(images) // jax.process_count()
    return images[jax.process_index() * share :][:share]


def _score(
    batch: Mapping[str, np.ndarray], fused: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    planes = (image[:, :, :, 0] for image in (batch["ir"], batch["vis"], fused))
    return np.stack(list(metrics.score(*planes, names).values()), axis=-1)


def _metric_means(names: Sequence[str], scores: np.ndarray) -> dict[str, float]:
    """Means of [pairs of this process, metrics] over the pairs of all processes."""
    there = np.isfinite(scores)
    sums = np.stack([np.where(there, scores, 0).sum(0), there.sum(0)])
    if jax.process_count() > 1:
        sums = multihost_utils.process_allgather(sums).sum(0)
    total, count = sums
    means = total / np.where(count > 0, count, np.nan)
    return {f"val/{name}": float(mean) for name, mean in zip(names, means, strict=True)}
