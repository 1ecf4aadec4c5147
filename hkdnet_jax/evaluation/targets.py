"""How much of a hot target's contrast a fused picture keeps, on scenes that know it.

The contrast of a target in a picture is the mean level of its pixels less that of its
surroundings.  A fusion that is worth having shows a target about as clearly as the
source that shows it best, whichever that is: in smoke, fog and glare and at night the
infrared, by day often the visible image.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from scipy import ndimage

from data_pipelines.scenes import Scene

# Widths in pixels: of the rim, where a target's pixels mix with what is behind them,
# and of the surroundings around it.
RIM, SURROUNDINGS = 1, 6
LEAST_PIXELS = 30
LEAST_HEAT = 0.05  # by how much a target is warmer than its surroundings, of full range
# A place is in glare where the visible surroundings are this bright, of full range.
GLARE = 0.9
_ROUND = ndimage.generate_binary_structure(2, 2)

Fuse = Callable[[np.ndarray, np.ndarray], np.ndarray]


def hot_targets(scene: Scene) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the pixels of each hot target of a scene, and those around it.

    Targets of fewer than LEAST_PIXELS, and those that are less than LEAST_HEAT warmer
    than their surroundings, are left out.

    Yields:
      Two bool [H, W] masks.
    """
    anywhere = ndimage.binary_dilation(scene.targets > 0, _ROUND, RIM)
    for number in range(1, scene.targets.max() + 1):
        mask = scene.targets == number
        near = ndimage.binary_dilation(mask, _ROUND, RIM + SURROUNDINGS) & ~anywhere
        if mask.sum() < LEAST_PIXELS or near.sum() < LEAST_PIXELS:
            continue
        if contrast(scene.ir / 255, mask, near) >= LEAST_HEAT:
            yield mask, near


def contrast(image: np.ndarray, mask: np.ndarray, near: np.ndarray) -> float:
    """The mean level of [H, W] in a mask less that in the mask of its surroundings."""
    return float(image[mask].mean() - image[near].mean())


def kept_contrast(
    ir: np.ndarray,
    vis: np.ndarray,
    fused: np.ndarray,
    mask: np.ndarray,
    near: np.ndarray,
) -> float:
    """The contrast of a target in the fused picture, as a share of the larger one.

    Args:
      ir, vis, fused: [H, W], of one range.
      mask, near: the target and its surroundings, see `hot_targets`.

    Returns:
      The magnitude of the fused picture's contrast divided by the larger magnitude of
      the two sources'; 1 if the target is as clear as in the source that shows it best.
    """
    best = max(abs(contrast(source, mask, near)) for source in (ir, vis))
    return abs(contrast(fused, mask, near)) / best


def measure(scenes: Iterable[Scene], fuse: Fuse) -> dict[str, np.ndarray]:
    """The kept contrasts of all hot targets, by the condition that they are seen in.

    Args:
      scenes: the scenes.
      fuse: maps (ir, vis), uint8 [H, W] each, to the fused uint8 [H, W].

    Returns:
      Condition -> float64 [number of targets], sorted.  The conditions are the moods of
      the scenes, and `glare` for targets in front of what blinds the visible camera.
    """
    found = defaultdict(list)
    for scene in scenes:
        targets = list(hot_targets(scene))
        if not targets:
            continue
        fused = fuse(scene.ir, scene.vis)
        sources = [image / 255 for image in (scene.ir, scene.vis, fused)]
        for mask, near in targets:
            glare = scene.vis[near].mean() >= GLARE * 255
            condition = "glare" if glare else scene.mood
            found[condition].append(kept_contrast(*sources, mask, near))
    return {name: np.sort(found[name]) for name in sorted(found)}
