"""Fusion metrics: the paper's six, those printed beside them, and two of detail.

Every metric is a pure function of three float64 [H, W] arrays of levels 0..255, the
infrared, the visible and the fused image, in a module of its own that gives formula,
range and source; docs/metrics.md describes them all.  They take images of any size
without compiling anything for it.  `score` runs any of them:

    values = score(ir, vis, fused)  # uint8 [H, W] each
    values["FMI_dct"], values["SCD"], ...
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hkdnet_jax.common.errors import UserError
from hkdnet_jax.metrics.ag import ag
from hkdnet_jax.metrics.cc import cc
from hkdnet_jax.metrics.detail import BLOCK, detail_energy, detail_fidelity
from hkdnet_jax.metrics.en import en
from hkdnet_jax.metrics.fmi import fmi_dct, fmi_w
from hkdnet_jax.metrics.mi import mi
from hkdnet_jax.metrics.ms_ssim import MIN_SIDE as MS_SSIM_MIN_SIDE
from hkdnet_jax.metrics.ms_ssim import ms_ssim
from hkdnet_jax.metrics.nabf import nabf
from hkdnet_jax.metrics.psnr import psnr
from hkdnet_jax.metrics.qabf import qabf
from hkdnet_jax.metrics.scd import scd
from hkdnet_jax.metrics.sd import sd
from hkdnet_jax.metrics.sf import sf
from hkdnet_jax.metrics.ssim import ssim
from hkdnet_jax.metrics.vif import vif


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      compute: maps (ir, vis, fused), float64 [H, W] levels 0..255, to a scalar.
      min_side: the shortest side in pixels for which the metric has a value.
      higher_is_better: whether tables count a higher value as better.
      scaled: whether `compute` also takes `scale`, by how much the fused image was
        enlarged.
    """

    compute: Callable[..., float]
    min_side: int = 1
    higher_is_better: bool = True
    scaled: bool = False


PAPER = ("FMI_dct", "FMI_w", "SCD", "MS_SSIM", "AG", "CC")
EXTRA = ("EN", "SD", "SF", "MI", "Qabf", "VIF", "SSIM", "PSNR", "Nabf")
DETAIL = ("detail_fidelity", "detail_energy")
METRICS: dict[str, Metric] = {
    "FMI_dct": Metric(fmi_dct, min_side=3),
    "FMI_w": Metric(fmi_w),
    "SCD": Metric(scd),
    "MS_SSIM": Metric(ms_ssim, MS_SSIM_MIN_SIDE),
    "AG": Metric(ag, min_side=2),
    "CC": Metric(cc),
    "EN": Metric(en),
    "SD": Metric(sd),
    "SF": Metric(sf, min_side=2),
    "MI": Metric(mi),
    "Qabf": Metric(qabf, min_side=3),
    "VIF": Metric(vif, min_side=41),
    "SSIM": Metric(ssim, min_side=11),
    "PSNR": Metric(psnr),
    "Nabf": Metric(nabf, min_side=3, higher_is_better=False),
    "detail_fidelity": Metric(detail_fidelity, BLOCK, scaled=True),
    "detail_energy": Metric(detail_energy, BLOCK, scaled=True),
}


def select(spec: str) -> tuple[str, ...]:
    """Returns the metrics that `paper`, `all` or a comma-separated list stands for.

    `all` are those that need no scale, PAPER and EXTRA.

    Raises:
      UserError: a name is not that of a metric, or is given twice.
    """
    if spec in ("paper", "all"):
        return PAPER if spec == "paper" else PAPER + EXTRA
    names = tuple(name.strip() for name in spec.split(","))
    wrong = [name for name in names if name not in METRICS or names.count(name) > 1]
    if wrong:
        raise UserError(
            f"Metrics {spec!r}: {wrong[0]!r} is not a metric or is given twice; give "
            f"paper, all, or some of {', '.join(METRICS)}, separated by commas."
        )
    return names


def score(
    ir: np.ndarray,
    vis: np.ndarray,
    fused: np.ndarray,
    names: Sequence[str] = PAPER,
    scale: int | float = 1,
) -> dict[str, np.ndarray]:
    """Computes metrics of one fused image, or of a batch of images of one size.

    It runs in float64 on the host's CPU whatever other devices there are, because
    float32 cannot reproduce the reference values.  Threads may call it concurrently.

    Args:
      ir, vis, fused: uint8, all [H, W] or all [N, H, W].
      names: keys of METRICS.
      scale: by how much the fused images were enlarged, for the metrics in DETAIL.

    Returns:
      For each name a float64 array [] or [N]; NaN where the metric has no value, as
      for a flat image or one smaller than `Metric.min_side`.

    Raises:
      KeyError: a name is not in METRICS.
      TypeError: an image is not uint8.
      ValueError: the shapes differ or are others.
    """
    shapes = {image.shape for image in (ir, vis, fused)}
    if any(image.dtype != np.uint8 for image in (ir, vis, fused)):
        raise TypeError("score takes uint8 images")
    if len(shapes) > 1 or ir.ndim not in (2, 3):
        raise ValueError(f"score takes three images of one size, got {sorted(shapes)}")
    triples = np.stack([ir, vis, fused], axis=-3).astype(np.float64)
    flat = triples.reshape(-1, *triples.shape[-3:])
    values = {}
    for name in names:
        metric = METRICS[name]
        compute = (
            partial(metric.compute, scale=scale) if metric.scaled else metric.compute
        )
        if min(ir.shape[-2:]) < metric.min_side:
            row = [np.nan] * len(flat)
        else:
            with np.errstate(all="ignore"):  # what has no value becomes NaN
                row = [compute(*triple) for triple in flat]
        row = np.array(row, np.float64)
        values[name] = np.where(np.isfinite(row), row, np.nan).reshape(ir.shape[:-2])
    return values
