"""`score` against what the original MATLAB code returned, as the lists give it."""

import functools
import json
from pathlib import Path

import pytest
from metric_images import PAPER, golden_vectors, read_triple

from hkdnet_jax import metrics

pytestmark = pytest.mark.usefixtures("compiled_for_speed")

# Relative. The wavelet's filter in closed form is 6e-11 away from MATLAB's table; for
# all others only the order of summation differs.
TOLERANCE = dict.fromkeys(PAPER, 1e-10) | {"FMI_w": 1e-9}

VECTORS = golden_vectors()
PUBLISHED = [
    f"LT_{pair}_{method}"
    for pair in ("05", "06", "37")
    for method in ("DenseFuse", "U2Fusion", "SeAFusion")
] + [f"HKDnet_{pair}_HKDnet_{scale}x" for pair in (3, 4) for scale in (2, 3, 4)]


@functools.cache
def values(name):
    return metrics.score(*VECTORS[name][0], PAPER)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("metric", PAPER)
def test_made_images(name, metric):
    want = VECTORS[name][1][metric]
    assert values(name)[metric] == pytest.approx(want, rel=TOLERANCE[metric])


@pytest.fixture(scope="module")
def published(real_data):
    """Name -> its entry in the list of published fused images."""
    folder = Path(real_data).parent / "reference" / "metrics"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no published images to score")
    entries = json.loads((folder / "values.json").read_text())
    return folder / "images", {
        f"{entry['set']}_{entry['pair']}_{entry['method']}": entry for entry in entries
    }


def test_all_published_images_are_asked_for(published):
    assert set(published[1]) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_images(published, name):
    folder, entries = published
    images = read_triple(folder, entries[name]["files"])
    assert list(images[0].shape[::-1]) == entries[name]["size_wh"]
    got, want = metrics.score(*images, PAPER), entries[name]["metrics"]
    for metric in PAPER:
        tolerance = TOLERANCE[metric]
        assert got[metric] == pytest.approx(want[metric], rel=tolerance), metric
