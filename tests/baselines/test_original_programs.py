"""Equal to the outputs of the original programs, with the original weights."""

import os
from pathlib import Path

import numpy as np
import pytest

from hkdnet_jax.baselines import conversion, registry
from hkdnet_jax.baselines.weights import Weights

PAIRS = ("Athena_man_in_doorway", "Triclobs_Kaptein_1123")
FILES = {
    "densefuse": ("densefuse", "densefuse_gray"),
    "cnn": ("cnn", "cnn_fusion"),
    **{f"imdn_x{scale}": ("imdn", f"imdn_x{scale}") for scale in (2, 3, 4)},
}


@pytest.fixture(scope="module")
def reference() -> Path:
    """Folder of the original weights and outputs."""
    folder = os.environ.get("HKDNET_REFERENCE")
    if not folder:
        pytest.skip("HKDNET_REFERENCE is not set: no original weights and outputs")
    return Path(folder) / "baselines"


@pytest.fixture(scope="module")
def weights(reference, tmp_path_factory) -> Weights:
    folder = tmp_path_factory.mktemp("weights")
    for name, (kind, file) in FILES.items():
        conversion.convert_file(kind, reference / f"{file}.npz", None, folder / name)
    return Weights(folder)


@pytest.fixture(scope="module")
def outputs(reference):
    with np.load(reference / "outputs.npz") as opened:
        return dict(opened.items())


def sources(outputs, name):
    levels = (outputs[f"{name}/{kind}_x2"] for kind in ("ir", "vis"))
    return [x.astype(np.float32) / np.float32(255) for x in levels]


@pytest.mark.parametrize("name", PAIRS)
def test_densefuse(weights, outputs, name):
    got = registry.FUSIONS["densefuse"](weights)(*sources(outputs, name))
    want = outputs[f"{name}/densefuse_addition"]
    assert np.abs(255 * got - want).max() < 1e-4 * 255


@pytest.mark.parametrize("name", PAIRS)
def test_cnn_fusion(weights, outputs, name):
    got = registry.FUSIONS["cnn"](weights)(*sources(outputs, name))
    levels = np.round(255 * got.clip(0, 1)).astype(int)
    difference = np.abs(levels - outputs[f"{name}/cnn"].astype(int))
    assert (difference <= 1).mean() >= 0.999
    assert (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_imdn(weights, outputs, scale):
    image = outputs[f"{PAIRS[0]}/imdn_x{scale}_input"]
    got = registry.ENLARGEMENTS["imdn"](weights)(image, scale)
    want = outputs[f"{PAIRS[0]}/imdn_x{scale}_output"][0]
    np.testing.assert_allclose(got, want, atol=5e-6)
