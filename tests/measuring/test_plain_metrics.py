"""The plain transcription against what the original MATLAB code returned."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from metric_images import (
    GOLDEN,
    PAPER,
    golden_vectors,
    golden_windows,
    noise,
    read_triple,
)
from scipy.fft import dctn
from scipy.signal import convolve2d

from hkdnet_jax.measuring import plain_metrics

VECTORS = golden_vectors()


@functools.cache
def plain_value(name, metric):
    images, _ = VECTORS[name]
    return plain_metrics.PAPER[metric](*images)


def test_has_the_six():
    assert tuple(plain_metrics.PAPER) == PAPER and len(VECTORS) == 6


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("metric", [m for m in PAPER if m != "FMI_w"])
def test_reference_vectors(name, metric):
    want = VECTORS[name][1][metric]
    assert plain_value(name, metric) == pytest.approx(want, rel=1e-12)


def test_reference_vector_of_the_wavelet():
    # One alone: the windows of an image take six seconds in plain Python.  The filter's
    # closed form is 6e-11 away from the table that MATLAB uses.
    want = VECTORS["65x49_t2"][1]["FMI_w"]
    assert plain_value("65x49_t2", "FMI_w") == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("case", "x", "f", "want"), golden_windows())
def test_reference_windows(case, x, f, want):
    assert plain_metrics.window_score(x, f) == pytest.approx(want, rel=1e-12, abs=1e-13)


def test_reference_scales_of_ms_ssim():
    for entry in json.loads((GOLDEN / "vectors.json").read_text()):
        images = [z.astype(float) for z in read_triple(GOLDEN, entry["files"])]
        for want in entry["MS_SSIM_Q_per_scale"]:
            assert plain_metrics.scale_quality(*images) == pytest.approx(
                want, rel=1e-12
            )
            # Blocks of four by another way; the mirrored border repeats the edge.
            images = [
                convolve2d(np.pad(z, (0, 1), "symmetric"), np.ones((2, 2)) / 4, "valid")
                for z in images
            ]
            images = [z[::2, ::2] for z in images]


def test_the_meyer_filter():
    taps = np.loadtxt(GOLDEN / "dmey102_rec_lo.txt")
    np.testing.assert_allclose(plain_metrics.meyer_filter(), taps, atol=1e-10)


def test_the_dct_is_scipys():
    (image, _, _) = noise(0, 7, 12)
    want = dctn(image / 255, norm="ortho")
    np.testing.assert_allclose(plain_metrics.dct_map(image), want, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (13, 120)])
def test_the_wavelet_by_whole_convolutions(shape):
    (image, _, _) = noise(1, *shape)
    low = plain_metrics.meyer_filter()[::-1]
    high = plain_metrics.meyer_filter() * np.where(np.arange(102) % 2, 1, -1)
    extended = np.pad(image / 255, 101, mode="symmetric")

    def band(down, across):
        return convolve2d(extended, np.outer(down, across), mode="valid")[1::2, 1::2]

    top = [band(low, low), band(high, low)]  # cA, cH
    bottom = [band(low, high), band(high, high)]  # cV, cD
    want = np.block([top, bottom])
    want = (want - want.min()) / np.ptp(want)
    got = plain_metrics.wavelet_map(image)
    assert got.shape == tuple(2 * ((side + 101) // 2) for side in shape)
    np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("name", VECTORS)
def test_reference_feature_maps(real_data, name):
    folder = Path(real_data).parent / "reference" / "metrics" / "vectors"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: no feature maps to compare with")
    ir, _, fused = VECTORS[name][0]
    with np.load(folder / f"{name}_features.npz") as maps:
        for kind, image in (("ir", ir), ("fused", fused)):
            want = maps[f"{kind}_dct"]
            np.testing.assert_allclose(plain_metrics.dct_map(image), want, atol=1e-12)
            want = maps[f"{kind}_wavelet"]
            want = (want - want.min()) / np.ptp(want)
            np.testing.assert_allclose(
                plain_metrics.wavelet_map(image), want, atol=1e-10
            )


def test_flat_areas_give_equal_wavelet_coefficients():
    image = np.full((130, 3), 77, np.uint8)
    image[:10] = noise(2, 10, 3)[0]
    flat = plain_metrics.wavelet_map(image)[70:100, :40]  # low-pass, far from the noise
    assert np.ptp(flat) == 0


def test_no_value():
    flat, textured = np.full((50, 50), 9, np.uint8), noise(3, 50, 50)[0]
    assert np.isnan(plain_metrics.cc(flat, textured, textured))
    assert np.isnan(plain_metrics.scd(textured, flat, textured + np.uint8(0)))
    assert np.isnan(plain_metrics.ms_ssim(*noise(4, 43, 60)))
    assert np.isnan(plain_metrics.ms_ssim(textured, textured, 255 - textured))
    assert np.isnan(plain_metrics.ag(*noise(5, 1, 60)))
    assert np.isnan(plain_metrics.fmi_dct(*noise(6, 2, 60)))
