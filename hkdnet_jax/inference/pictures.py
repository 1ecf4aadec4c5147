"""From the levels that a network made to the picture that is written."""

import numpy as np
from PIL import Image, ImageDraw

from hkdnet_jax.common import colour
from hkdnet_jax.common.image_files import quantize
from hkdnet_jax.inference.inputs import Inputs

_CAPTION = 16  # height of the captions on a sheet, in pixels
_LABELS = ("infrared", "visible", "fused")


def picture(fused: np.ndarray, inputs: Inputs, depth: str) -> np.ndarray:
    """Gives a fused image the colour of its pair, and the wanted depth.

    Args:
      fused: [H, W], of the wanted depth if the result is gray, otherwise float32.
      inputs: its pair.
      depth: one of `image_files.DEPTHS`.

    Returns:
      [H, W] or [H, W, 3].
    """
    if inputs.colour is not None:
        fused = colour.attach(fused, inputs.colour)
    return quantize(fused, depth) if fused.dtype == np.float32 else fused


def sheet(result: np.ndarray, inputs: Inputs) -> np.ndarray:
    """Draws both inputs, enlarged by repeating pixels, beside the result.

    Args:
      result: what `picture` returned.
      inputs: its pair.

    Returns:
      uint8 [H, W, 3].
    """
    height, width = result.shape[:2]
    if result.dtype != np.uint8:
        unit = result / (
            1 if result.dtype == np.float32 else np.iinfo(result.dtype).max
        )
        result = quantize(unit.astype(np.float32), "8")
    visible = inputs.vis[..., 0] if inputs.colour is None else inputs.colour
    panels = [quantize(inputs.ir[..., 0], "8"), quantize(visible, "8"), result]
    canvas = Image.new("RGB", (3 * width, height + _CAPTION), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (label, panel) in enumerate(zip(_LABELS, panels, strict=True)):
        shown = f"{label}, {panel.shape[1]}x{panel.shape[0]}"
        draw.text((number * width + 4, 2), shown, fill="black")
        large = Image.fromarray(panel).resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(large, (number * width, _CAPTION))
    return np.asarray(canvas)
