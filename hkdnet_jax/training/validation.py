"""Validation during training: means over the validation pairs, and some pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from hkdnet_jax import metrics
from hkdnet_jax.runtime import sharding
from hkdnet_jax.training import val_steps


def validate(
    val_step: Callable[[Mapping[str, jax.Array]], tuple[dict, dict]],
    batches: Iterable[dict[str, Any]],
    names: Sequence[str],
    mesh: Mesh,
    pictures_wanted: int,
    metric_names: Sequence[str] = (),
    stop_requested: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, float], dict[str, np.ndarray]] | None:
    """Runs the validation step over all batches.

    Args:
      val_step: a `val_steps.ValStep` with its parameters bound.
      batches: this process's rows, as `loader.val_batches` makes them.
      names: names of all pairs, in the order of the batches.
      mesh: the devices that share each batch.
      pictures_wanted: number of pairs to draw.
      metric_names: names from `metrics.METRICS`; these metrics compare the picture
        `fused` with the two high-resolution sources, and are computed on the host.
      stop_requested: called once per batch by all processes; True ends the validation.

    Returns:
      None if the validation was ended early; otherwise two dicts, the same in every
      process. One maps `val/NAME` to the mean over the pairs, for a metric over the
      pairs for which it has a value. The other maps pair names to uint8 [H, k * W], k
      pictures side by side.
    """
    sums: dict[str, float] = {}
    strips: dict[str, np.ndarray] = {}
    scores: list[np.ndarray] = []  # [local batch, metrics] each; NaN: no value
    for batch in batches:
        if stop_requested():
            return None
        batch_sums, pictures = val_step(sharding.put_batch(batch, mesh))
        for key, value in jax.device_get(batch_sums).items():
            sums[key] = sums.get(key, 0.0) + float(value)
        if metric_names:
            fused = jax.device_get(pictures["fused"])
            fused = fused[sharding.local_rows(mesh, len(fused))]
            real = batch["mask"] > 0
            scores.append(_score(batch, fused, metric_names)[real])
        if len(strips) < pictures_wanted:
            strips |= _draw(pictures, names[len(strips) : pictures_wanted])
    count = sums.pop("count")
    means = {f"val/{key}": value / count for key, value in sums.items()}
    if metric_names:
        means |= _metric_means(metric_names, np.concatenate(scores))
    return means, strips


def _draw(
    pictures: Mapping[str, jax.Array], names: Sequence[str]
) -> dict[str, np.ndarray]:
    """The strips of the first pairs of a batch, one for each of `names` at most."""
    drawn = [pictures[name] for name in val_steps.PICTURES if name in pictures]
    strips = np.concatenate(jax.device_get(drawn), axis=2)[..., 0]
    # `names` is shorter if fillers end the batch, and longer if it goes on with the
    # names of later batches.
    named = zip(names, strips, strict=False)
    return {name.replace("/", "_"): strip for name, strip in named}


def _score(
    batch: Mapping[str, np.ndarray], fused: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    planes = (image[:, :, :, 0] for image in (batch["ir"], batch["vis"], fused))
    return np.stack(list(metrics.score(*planes, names).values()), axis=-1)


def _metric_means(names: Sequence[str], scores: np.ndarray) -> dict[str, float]:
    """Means over the pairs of all processes; `scores` is [own pairs, metrics]."""
    finite = np.isfinite(scores)
    sums = np.stack([np.where(finite, scores, 0).sum(0), finite.sum(0)])
    if jax.process_count() > 1:
        with jax.transfer_guard("allow"):  # jax's function makes an implicit copy
            sums = multihost_utils.process_allgather(sums).sum(0)
    total, count = sums
    means = total / np.where(count > 0, count, np.nan)
    return {f"val/{name}": float(mean) for name, mean in zip(names, means, strict=True)}
