"""Reads the pictures of figures back."""

import io

import numpy as np
from PIL import Image

from hkdnet_jax.evaluation.figures import style


def drawn(figure):
    """The picture of a figure, uint8 [H, W, 3]."""
    file = io.BytesIO(style.encode(figure, ".png"))
    return np.asarray(Image.open(file).convert("RGB"))


def lines_of(figure):
    """Title of a panel -> its curves by their label, as lists of x and y."""
    return {
        panel.get_title(): {
            line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in panel.get_lines()
        }
        for panel in figure.axes
    }
