"""Edge strengths, shared by Qabf and Nabf."""

import numpy as np


def relative_strength(source: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Divides the weaker of two edge strengths by the stronger; 0 where both are 0."""
    stronger = np.maximum(source, fused)
    return np.minimum(source, fused) / np.where(stronger == 0, 1, stronger)
