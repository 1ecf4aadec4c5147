"""Made pairs, fused images and a model for the tests that score; plain expectations."""

import dataclasses

import numpy as np
from command_fixtures import TINIEST, make_pair, random_params, write
from PIL import Image

from hkdnet_jax.inference.pair import fuse_pair
from hkdnet_jax.model_files import file_format
from hkdnet_jax.model_files.model import Model
from hkdnet_jax.models.student import Student

H, W = 24, 30
CHEAP = ("AG", "CC")  # metrics that compile in no time


def save_model(folder):
    """A student of scale 2 with random weights."""
    config = {"kind": "student", "scale": 2, "model": dataclasses.asdict(TINIEST)}
    file_format.save_model(folder, config, random_params(Student(TINIEST, 2), seed=2))
    return folder


def picture(seed, height=H, width=W):
    return make_pair(seed, height, width)[0]


def write_sources(root, stems="abc"):
    """Pairs of these stems in root/ir and root/vis."""
    for seed, stem in enumerate(stems):
        for kind, image in zip(("ir", "vis"), make_pair(seed, H, W), strict=True):
            write(root / kind / f"{stem}.png", image)


def fused_folder(folder, stems="abc", seed=10):
    for number, stem in enumerate(stems):
        write(folder / f"{stem}.png", picture(seed + number))
    return folder


def expected_values(ir, vis, fused):
    """AG and CC in plain NumPy."""
    gy, gx = np.gradient(fused / 255)
    ag = np.sqrt((gx**2 + gy**2) / 2).sum() / ((fused.shape[0] - 1) * fused[0, 1:].size)
    cc = [np.corrcoef(x.ravel(), fused.ravel())[0, 1] for x in (ir, vis)]
    return {"AG": ag, "CC": np.mean(cc)}


def model_output(model_dir, ir, vis, **options):
    """What the model makes of a pair that PIL made small."""
    low = []
    for image in (ir, vis):
        size = image.shape[1] // 2, image.shape[0] // 2
        small = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)
        low.append(np.asarray(small))
    return fuse_pair(Model.load(model_dir), *low, **options)
