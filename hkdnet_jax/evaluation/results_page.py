"""docs/results.md: the tables of `evaluation.results` and what they mean."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hkdnet_jax.evaluation.markdown import markdown_table
from hkdnet_jax.evaluation.results import (
    AVERAGE,
    MULTIPLE,
    ORACLE,
    OURS,
    REDUCED,
    RELEASED,
    TEACHER,
    VGG_LAYERS,
    gains,
    means,
)
from hkdnet_jax.evaluation.scoring import PROTOCOLS

_INTRODUCTION = f"""# Results of the models that come with the package

This page is written by `make results` (`hkdnet_jax/results.py`); results.json holds the
scores of each image. No weights were fitted to these pairs or picked by them, but three
choices of the recipe were made while looking at some of them: alpha = 0.3 on the demo
pairs, the global skip on ten pairs of `tno` and `vifb`, and the rule of the vivid
pictures on every third pair of `tno` ([training-log.md](training-log.md)).
`hkdnet_demo` shows the scenes of two pairs of `tno`.

- Pairs are cropped at the right and bottom to multiples of {MULTIPLE}. The
  low-resolution pairs are made from them by anti-aliased bilinear downsampling, rounded
  to 8 bit.
- `{OURS}` is the student of that scale. For `{TEACHER}`, the teacher fuses the
  low-resolution pair and bicubic interpolation enlarges its picture. `{AVERAGE}` does
  the same with 2/3 of the infrared and 1/3 of the visible picture instead of the
  teacher.
- A set's name alone stands for the balanced models, `vivid` after it for the students
  of the vivid teacher, whose pictures are then the labels, and `camera` for students
  that were trained on degraded pairs and are scored on clean ones like the others.
- A vivid picture depends on what is near, and a low-resolution pair shows four, nine or
  sixteen times as much scene in the same number of pixels. `{REDUCED}`
  takes that into account, so it is the fairer comparison for a vivid student, and the
  one that its gain is over.
- PSNR, SSIM and VGG distance compare the 8-bit picture with the teacher's picture of
  the HIGH-resolution pair. The VGG distance is the squared distance of unit VGG16
  features after {", ".join(VGG_LAYERS)}; lower is better. The gain is in PSNR, over
  `{TEACHER}` except for vivid students.
- Seconds are for one call of `fuse_pair` after compilation, while another pair was
  being measured. GB is what the compiler plans for that call, on top of what the
  process takes anyway (0.5 GB). Peaks of whole processes are in
  [performance.md](performance.md). A dash stands for what was not measured.
"""
_ON_METRICS = f"""\
- The fusion metrics compare a picture with its two high-resolution sources
  ([metrics.md](metrics.md)). Under protocol `plain`, pictures are scored as saved;
  under `paper`, low-resolution inputs and outputs are stretched to their own range, as
  in the authors' demo. `{ORACLE}` sees what the others do not. `{RELEASED}` are the
  authors' own pictures, which are stretched already and should therefore be compared
  under `paper` only.
- Under `paper`, a few extreme pixels decide how much of the range is left for the rest.
  A sharper picture has more of them and may score lower for it, above all in SCD
  ([measured](training-log.md#stretch-and-scd)).
- These metrics say how much of both sources is in the picture and at what contrast, and
  little about super-resolution: a plain average, enlarged, scores about the same as
  trained networks do. The first table of each set shows that.
"""


def to_markdown(found: Mapping[str, Any]) -> str:
    """The text of docs/results.md."""
    parts, scored = [], False
    for name, scales in found.items():
        parts.append(f"## {name}\n\n{_full_reference_table(scales)}")
        if "plain" in next(iter(next(iter(scales.values())).values())):
            scored = True
            parts += [_metric_table(scales, protocol) for protocol in PROTOCOLS]
    introduction = _INTRODUCTION + (_ON_METRICS if scored else "")
    return f"{introduction}\n" + "\n".join(parts)


def _full_reference_table(scales: Mapping[str, Any]) -> str:
    rows = []
    for scale, pairs in scales.items():
        gain = gains(pairs)
        for method, values in means(pairs, "full_reference").items():
            more = [""] * 5
            if method == OURS:
                better = f"{sum(g > 0 for g in gain)} of {len(gain)}"
                mean, least = f"{np.mean(gain):+.2f}", f"{gain[0]:+.2f}"
                cost = [
                    f"{values[key]:.2f}" if key in values else "-"
                    for key in ("seconds", "gigabytes")
                ]
                more = [mean, least, better, *cost]
            distance = f"{values['vgg']:.4f}" if "vgg" in values else "-"
            numbers = [f"{values['psnr']:.2f}", f"{values['ssim']:.4f}", distance]
            rows.append([f"x{scale}", method, *numbers, *more])
    title = ["scale", "method", "PSNR, dB", "SSIM", "VGG distance"]
    gained = ["mean gain, dB", "least gain", "better on", "s a pair", "GB planned"]
    return markdown_table([*title, *gained], rows, text_columns=2)


def _metric_table(scales: Mapping[str, Any], protocol: str) -> str:
    rows, names = [], []
    for scale, pairs in scales.items():
        for method, values in means(pairs, protocol).items():
            names = list(values)
            rows.append([f"x{scale}", method, *(f"{v:.4f}" for v in values.values())])
    table = markdown_table(["scale", "method", *names], rows, text_columns=2)
    return f"Protocol `{protocol}`:\n\n{table}"
