"""Offsets that were made, found again; and those that cannot be told."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

import hkdnet_jax
from hkdnet_jax.inference import alignment
from hkdnet_jax.inference.alignment import Alignment, NotAligned

H, W = 120, 160


def scene(seed=0, height=H, width=W):
    """A visible image and the registered infrared one, whose levels are unlike it."""
    rng = np.random.default_rng(seed)
    vis = np.full((height, width), 0.5, np.float32)
    ir = np.full((height, width), 0.5, np.float32)
    for _ in range(40):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, width // 3), rng.integers(8, height // 3)
        for image, level in ((vis, rng.random()), (ir, rng.random())):
            cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), level, -1)
    return cv2.GaussianBlur(ir, (0, 0), 1), cv2.GaussianBlur(vis, (0, 0), 1)


def matrix(x=0.0, y=0.0, angle=0.0, zoom=1.0, size=(H, W)):
    """Rotation and zoom around the middle, then a shift."""
    middle = ((size[1] - 1) / 2, (size[0] - 1) / 2)
    full = np.vstack([cv2.getRotationMatrix2D(middle, angle, zoom), [0, 0, 1]])
    full[:2, 2] += x, y
    return full


def moved(ir, true):
    """The infrared image as a camera that is off by `true` sees it."""
    return cv2.warpPerspective(
        ir, true, ir.shape[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )


def error(found, true):
    """Root mean square of what a matrix is off, over the image, in pixels."""
    y, x = np.mgrid[0:H:8, 0:W:8]
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    ends = [m @ points for m in (found, true)]
    apart = ends[0][:2] / ends[0][2] - ends[1][:2] / ends[1][2]
    return np.sqrt((apart**2).sum(axis=0).mean())


@pytest.mark.parametrize(
    ("motion", "made"),
    [
        ("translation", {"x": 7.3, "y": -4.6}),
        ("translation", {}),
        ("affine", {"x": -5.2, "y": 3.1, "angle": 2.0, "zoom": 1.02}),
        ("affine", {"x": 4.0, "y": 6.0, "angle": -2.5, "zoom": 0.98}),
        ("homography", {"x": 3.0, "y": 2.0, "angle": 1.5}),
    ],
)
def test_a_made_offset_is_found(motion, made):
    ir, vis = scene()
    true = matrix(**made)
    found = alignment.estimate(moved(ir, true), vis, motion)
    assert error(found.matrix, true) < 0.5
    assert found.centre == pytest.approx((made.get("x", 0), made.get("y", 0)), abs=0.5)
    assert found.score > 0.2


def test_what_has_no_common_outline_is_refused():
    noise = np.random.default_rng(5).random((H, W)).astype(np.float32)
    _, vis = scene()
    for other in (noise, scene(9)[0], np.zeros((H, W), np.float32)):
        with pytest.raises(NotAligned):
            alignment.estimate(other, vis, "affine")
    with pytest.raises(NotAligned, match="48 pixels"):
        alignment.estimate(vis[:40], vis[:40], "translation")


def test_wrong_calls():
    image = np.zeros((H, W), np.float32)
    with pytest.raises(ValueError, match="one size"):
        alignment.estimate(image, image[1:], "affine")
    with pytest.raises(ValueError, match="motion must be one of"):
        alignment.estimate(image, image, "rigid")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_align_fills_what_was_not_seen(dtype):
    ir, vis = scene()
    true = matrix(x=9, y=0)
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max
    made = (moved(ir, true) * full).astype(dtype)
    rgb = (np.dstack([vis] * 3) * 255).astype(np.uint8)
    aligned = hkdnet_jax.align(made, rgb, "translation")
    assert aligned.ir.dtype == dtype and aligned.ir.shape == (H, W)
    assert aligned.covered[:, :-10].all() and not aligned.covered[:, -8:].any()
    inner = np.s_[5:-5, 5:-20]
    difference = aligned.ir[inner].astype(float) / full - ir[inner]
    assert np.abs(difference).mean() < 0.01
    outside = aligned.ir[:, -8:].astype(float) / full
    assert np.corrcoef(outside.ravel(), vis[:, -8:].ravel())[0, 1] > 0.99


def test_warping_equals_opencv_where_it_saw():
    ir, _ = scene()
    true = matrix(x=3.5, angle=1.0)
    warped, covered = alignment.warp(ir, Alignment(true, (H, W), 1.0))
    y, x = np.mgrid[:H, :W]
    points = (true @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)]))[:2]
    plain = cv2.remap(
        ir, *points.reshape(2, H, W).astype(np.float32), interpolation=cv2.INTER_CUBIC
    )
    # Within two pixels of the border a cubic depends on what is taken to lie beyond.
    inner = ndimage.binary_erosion(covered, iterations=3)
    assert np.abs(warped - plain)[inner].max() < 0.02
    same, everything = alignment.warp(ir, Alignment(np.eye(3), (H, W), 1.0))
    assert everything.all() and np.abs(same - ir).max() < 1e-6


def test_a_rig_has_the_offset_that_most_pairs_have():
    offsets = [Alignment(matrix(x=x), (H, W), 1.0) for x in (4, 4.2, 3.9, 4.1, -7)]
    assert alignment.most_common(offsets, 6).centre[0] == pytest.approx(4, abs=0.21)
    with pytest.raises(NotAligned, match="of 12 pairs no more than 4"):
        alignment.most_common(offsets, 12)
    with pytest.raises(NotAligned, match="no more than 0"):
        alignment.most_common([], 3)
