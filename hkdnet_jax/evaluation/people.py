"""Pedestrians that a detector finds in fused pictures: a check by a use of them.

OpenCV's people detector (Dalal and Triggs, "Histograms of oriented gradients for human
detection", CVPR 2005) with the weights that the library ships.  It was trained on
visible pictures of people from about 100 pixels high on, misses many, and calls some
posts and windows people.  So what it finds in the high-resolution sources stands for
the people who are there, and the counts say how much of what it can use survives, not
how good a detector is on fused pictures.
"""

from collections.abc import Callable

import numpy as np

from hkdnet_jax.common.errors import UserError, needs_extra

_OVERLAP = 0.5  # intersection over union of two boxes of one person
_WINDOW = (128, 64)  # least height and width of a picture
Boxes = np.ndarray  # float64 [N, 4]: left, top, width, height in pixels
Detector = Callable[[np.ndarray], Boxes]


def load() -> Detector:
    """The detector, a function from uint8 [H, W] to boxes, the surest first.

    Raises:
      UserError: OpenCV is not installed, or its version has no such detector.
    """
    with needs_extra("The yardstick people", "align"):
        import cv2
    if not hasattr(cv2, "HOGDescriptor"):
        raise UserError(
            f"The yardstick people needs OpenCV's people detector, which version "
            f"{cv2.__version__} has not: run pip install 'opencv-python-headless<5', "
            "or leave it out."
        )
    hog = cv2.HOGDescriptor()
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def detect(picture: np.ndarray) -> Boxes:
        if np.any(np.less(picture.shape, _WINDOW)):
            return np.zeros((0, 4))  # OpenCV would write beyond its memory
        found, scores = hog.detectMultiScale(
            picture, winStride=(8, 8), padding=(8, 8), scale=1.05
        )
        boxes = np.array(found, np.float64).reshape(-1, 4)
        return boxes[np.argsort(-np.ravel(scores), kind="stable")]

    return detect


def overlaps(a: Boxes, b: Boxes) -> np.ndarray:
    """Intersection over union of each box of a with each of b, [A, B]."""
    ends_a, ends_b = a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:]
    starts = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = np.minimum(ends_a[:, None], ends_b[None]) - starts
    both = np.prod(np.maximum(0, sides), axis=2)
    areas = np.prod(a[:, 2:], axis=1)[:, None] + np.prod(b[:, 2:], axis=1)[None]
    return both / (areas - both)


def united(boxes: Boxes) -> Boxes:
    """Boxes without those that overlap an earlier one by half."""
    kept = np.zeros((0, 4))
    for box in boxes:
        if not np.any(overlaps(box[None], kept) >= _OVERLAP):
            kept = np.vstack([kept, box])
    return kept


def hits(found: Boxes, people: Boxes) -> int:
    """Number of people with a box of their own among those found.

    Each box goes, in its order, to the person it overlaps most, who must be free.
    """
    shares = overlaps(found, people)
    taken = 0
    for row in range(len(found) if len(people) else 0):
        best = int(np.argmax(shares[row]))
        if shares[row, best] >= _OVERLAP:
            shares[:, best] = 0
            taken += 1
    return taken
