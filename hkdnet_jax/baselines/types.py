"""What every compared system is: functions of gray images on the host.

An image is float32 [H, W], nominally in [0, 1]; results are not clipped, because what
writes or scores them does so once.
"""

from collections.abc import Callable

import numpy as np

Image = np.ndarray  # float32 [H, W]
# Two registered images of one size to one of that size.
Fusion = Callable[[Image, Image], Image]
# An image and a scale, whole for most of them, to [scale * H, scale * W].
Enlargement = Callable[[Image, float], Image]
# (ir, vis, scale) to [scale * H, scale * W]; at scale 1 the method's fusion alone.
Method = Callable[[Image, Image, float], Image]
