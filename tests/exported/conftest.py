"""Exported models for the tests of this folder, each made once."""

import numpy as np
import pytest
from command_fixtures import make_pair

import hkdnet_jax
from hkdnet_jax.exported import stablehlo


@pytest.fixture(scope="module")
def expected(models):
    """A function (scale, height, width, batch) -> inputs in [0, 1], what they give."""
    made = {}

    def fused(scale, height, width, batch=1):
        key = scale, height, width, batch
        if key not in made:
            pairs = [make_pair(seed, height, width) for seed in range(batch)]
            ir, vis = (np.stack(images) for images in zip(*pairs, strict=True))
            model = hkdnet_jax.load(models[scale])
            picture = hkdnet_jax.fuse_pair(model, ir, vis, depth="float")
            unit = [x[..., None] / np.float32(255) for x in (ir, vis)]
            made[key] = unit, picture[..., None]
        return made[key]

    return fused


@pytest.fixture(scope="module")
def stablehlo_files(models, tmp_path_factory):
    """Scale -> file with the program of that model."""
    folder = tmp_path_factory.mktemp("stablehlo")
    files = {scale: folder / f"x{scale}.stablehlo" for scale in (1, 2)}
    for scale, file in files.items():
        file.write_bytes(stablehlo.convert(hkdnet_jax.load(models[scale])))
    return files
