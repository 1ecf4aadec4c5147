"""The HTML of results and sentences. Everything that a visitor named is escaped."""

import html
import math
from collections.abc import Mapping, Sequence

from hkdnet_jax import metrics
from hkdnet_jax.web.service import Batch, Result

_ZOOMS = {"fit": "Fit", "1": "100 %", "2": "200 %", "4": "400 %", "8": "800 %"}


def problem(sentence: str) -> str:
    """A sentence on what went wrong, which screen readers announce at once."""
    return f'<p class="hk-problem" role="alert">{html.escape(sentence)}</p>'


def done(sentence: str) -> str:
    """A sentence on what was done, which screen readers announce."""
    return f'<p class="hk-done" role="status">{html.escape(sentence)}</p>'


def result(shown: Result, addresses: Mapping[str, str]) -> str:
    """The result: comparison, downloads, metrics and notes.

    Args:
      shown: the fused pair.
      addresses: of the files `before.png`, `fused_8bit.png` and `fused_16bit.png`.
    """
    height, width = shown.before.shape[:2]
    before, what = addresses["before.png"], html.escape(shown.what)
    after = addresses["fused_8bit.png"]
    zooms = "".join(f'<option value="{k}">{v}</option>' for k, v in _ZOOMS.items())
    return f"""
<section class="hk-viewer" aria-label="Comparison" data-zoom="fit"
    style="--split: 50%; --width: {width}px; --zoom: 1">
  <div class="hk-pane" tabindex="0" role="group"
      aria-label="The two pictures, one above the other; scroll when they are enlarged">
    <div class="hk-stack">
      <img src="{before}" width="{width}" height="{height}"
          alt="Before: {what}">
      <img src="{after}" width="{width}" height="{height}"
          alt="After: the fused picture" class="hk-after">
      <div class="hk-line"></div>
    </div>
  </div>
  <div class="hk-names"><span>Before: {what}</span><span>After: fused</span></div>
  <div class="hk-controls">
    <label>Before and after
      <input class="hk-split" type="range" min="0" max="100" value="50"
          aria-valuetext="50 % before"></label>
    <label>Zoom <select class="hk-zoom">{zooms}</select></label>
  </div>
</section>
<p class="hk-downloads">
  <a href="{addresses["fused_8bit.png"]}" download>Download PNG, 8 bits</a>
  <a href="{addresses["fused_16bit.png"]}" download>Download PNG, 16 bits</a>
</p>
{_metrics(shown.scores)}{_list("Notes", shown.notes)}"""


def _metrics(scores: Mapping[str, Mapping[str, float]]) -> str:
    if not scores:
        return ""
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in scores)
    rows = []
    for name in metrics.PAPER:
        values = [scores[key][name] for key in scores]
        cells = "".join(
            f"<td>{'–' if math.isnan(value) else format(value, '.4f')}</td>"  # noqa: RUF001
            for value in values
        )
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return f"""
<div class="hk-scroll" tabindex="0" role="group" aria-label="Metrics">
<table class="hk-table">
  <caption>Metrics of the paper; higher is better. There is no true picture to compare
    with: each is computed from the result and the two inputs, which are enlarged to its
    size.</caption>
  <thead><tr><th scope="col">Metric</th>{heads}</tr></thead>
  <tbody>{"".join(rows)}</tbody>
</table></div>"""


def batch(shown: Batch, address: str | None) -> str:
    """What became of an archive.

    Args:
      shown: the pairs.
      address: of the archive that goes back; None if nothing was fused.
    """
    link = (
        ""
        if address is None
        else f'<p class="hk-downloads"><a href="{address}" download>Download the '
        f"{len(shown.files)} fused pictures (ZIP)</a></p>"
    )
    problems = _list("Not fused", shown.problems)
    return f"{link}{problems}{_list('Notes', shown.notes)}"


def _list(title: str, sentences: Sequence[str]) -> str:
    if not sentences:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in sentences)
    return f'<h3>{title}</h3><ul class="hk-notes">{items}</ul>'
