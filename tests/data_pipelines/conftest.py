"""Files of pairs for the tests of sources and of batches."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def root(tmp_path):
    """Seven pairs of files, 16x20, of two formats and depths."""
    rng = np.random.default_rng(3)
    for kind in ("ir", "vis"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for i in range(7):
            deep = kind == "ir" and i % 2
            image = rng.integers(0, 65536 if deep else 256, (16, 20))
            path = tmp_path / "set" / kind / f"{i}.{'png' if deep else 'bmp'}"
            Image.fromarray(image.astype(np.uint16 if deep else np.uint8)).save(path)
    return tmp_path / "set"
