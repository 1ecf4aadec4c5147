"""Procedural infrared/visible scene pairs: the built-in default data.

A scene is a small world in metres, painted from far to near (scene_painters.py) on a
canvas (scene_canvas.py) that two cameras then look at.  The visible camera needs light
and is blinded by lamps, fog and smoke; the infrared camera sees warmth through them,
but neither paint nor shadow, and nothing behind glass.  So the edges of the two images
agree where an object ends, and differ where only colour or only heat changes.  Drawing
needs only NumPy.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipelines import scene_painters as paint
from data_pipelines.scene_canvas import (
    SUPERSAMPLE,
    TABLE,
    Canvas,
    Mood,
    Rng,
    develop_infrared,
    develop_targets,
    develop_visible,
)
from hkdnet_jax.common import image_files
from hkdnet_jax.common.atomic_files import write_atomically
from hkdnet_jax.common.pair_files import Pair

MIN_SIZE = 16

MOODS = {
    "day": Mood(1.0, 1.1, 0.001, False, 0.0, 0.25, 0.005, 0.1),
    "dusk": Mood(0.3, 0.45, 0.003, True, 0.3, 0.12, 0.008, 0.1),
    "night": Mood(0.07, 0.03, 0.002, True, 0.3, 0.0, 0.016, 0.1),
    "fog": Mood(0.7, 0.85, 0.035, False, 0.1, 0.05, 0.006, 0.0),
    "smoke": Mood(0.7, 0.8, 0.004, False, 0.0, 0.15, 0.006, 1.0),
}
SHARES = (0.34, 0.18, 0.28, 0.08, 0.12)  # probabilities of the moods, in their order

Thing = tuple  # (z, painter, *arguments): called as painter(canvas, rng, z, *arguments)


def _block(rng: Rng, sign: int, at: float, z: float, deep: float) -> list[Thing]:
    """One plot along a street: a house with two visible faces, or a gap with trees."""
    if rng.random() < 0.15:
        return [
            (far, paint.tree, at + 2 * sign, tall, rng.random() < 0.3)
            for far, tall in zip(
                z + rng.uniform(0, deep, 2), rng.uniform(4, 9, 2), strict=True
            )
        ]
    tall = rng.uniform(5, 14)
    left, right = (at, at + 9) if sign > 0 else (at - 9, at)
    return [
        (z + deep - 0.1, paint.side_wall, at, z, tall),  # in front of the next face
        (z, paint.front_wall, left, right, tall),
    ]


def _street(c: Canvas, rng: Rng) -> list[Thing]:
    """A street between facades, with traffic, lamps, trees and walkers."""
    half = rng.uniform(3.2, 4.5)
    paint.ground(c, rng, half, rng.uniform(-0.15, 0.15))
    things: list[Thing] = []
    if rng.random() < 0.4:
        things.append((90.0, paint.front_wall, -30.0, 30.0, rng.uniform(8, 18)))
    if rng.random() < 0.4:
        side = rng.choice([-1, 1]) * (half + 1)
        things.append((70.0, paint.wires, side, 3.0))
    for sign in (-1, 1):
        z = rng.uniform(4, 9)
        while z < 80:
            deep, at = rng.uniform(7, 16), sign * (half + rng.uniform(2.2, 3.5))
            things += _block(rng, sign, at, z, deep)
            z += deep + rng.choice([0.0, 3.0])
        for z in np.arange(rng.uniform(8, 14), 70, rng.uniform(16, 26)):
            things.append((z, paint.lamp, sign * (half + 0.5)))
        for z in rng.uniform(10, 50, rng.integers(0, 3)):
            tree = (sign * (half + 1.2), rng.uniform(4, 7), rng.random() < 0.4)
            things.append((z, paint.tree, *tree))
        for z in rng.uniform(9, 50, rng.integers(0, 3)):
            things.append((z, paint.car, sign * 0.5 * half, False, rng.random() < 0.7))
    for z in rng.uniform(6, 26, rng.integers(3, 8)):
        side = rng.choice([-1, 1]) * (half + rng.uniform(0.2, 1.8))
        crossing = rng.uniform(-half, half)
        things.append((z, paint.person, crossing if rng.random() < 0.3 else side))
    if rng.random() < 0.3:
        z = rng.uniform(12, 18)
        things.append((z, paint.shelter, rng.choice([-1, 1]) * (half + 1)))
    return things


def _house(c: Canvas, rng: Rng) -> list[Thing]:
    """A gabled house behind a garden, with people, a parked car and trees."""
    paint.ground(c, rng, 0.0, 0.0)
    x, z = rng.uniform(-4, 4), rng.uniform(16, 26)
    wide, tall = rng.uniform(7, 11), rng.uniform(3.2, 6)
    left, right = x - wide / 2, x + wide / 2
    things: list[Thing] = [
        (z, paint.front_wall, left, right, tall),
        (z - 0.1, paint.roof, left, right, tall),
        (z - 6, paint.car, x + rng.uniform(-6, 6), True, rng.random() < 0.6),
    ]
    for far in z + rng.uniform(-8, 20, 6):
        at = x + rng.choice([-1, 1]) * (wide / 2 + rng.uniform(1, 7))
        things.append((far, paint.tree, at, rng.uniform(4, 9), rng.random() < 0.4))
    for far in z - rng.uniform(1, 5, 5):
        size = rng.uniform(0.5, 1.2)
        bush = (x + rng.uniform(-9, 9), 0.6 * size, 1.4 * size, size)
        things.append((far, paint.foliage, *bush))
    for far in rng.uniform(5, z - 2, rng.integers(1, 4)):
        things.append((far, paint.person, rng.uniform(-0.35, 0.35) * far))
    if rng.random() < 0.6:
        at = rng.choice([-1, 1]) * rng.uniform(2, 6)
        things.append((z - 3, paint.lamp, at))
    if rng.random() < 0.25:
        things.append((rng.uniform(11, 15), paint.shelter, rng.uniform(-3, 3)))
    return things


def _field(c: Canvas, rng: Rng) -> list[Thing]:
    """Open land with hedges, a vehicle and people who are hard to see in VIS."""
    paint.hills(c, rng, 90.0, rng.uniform(4, 9), True)
    road = rng.choice([0.0, 2.0])
    paint.ground(c, rng, road, rng.uniform(-0.15, 0.15))
    things: list[Thing] = []
    for far in rng.uniform(12, 80, 14):
        size = rng.uniform(0.5, 2.0)
        at = rng.choice([-1, 1]) * (2 * road + 1 + rng.uniform(0, 0.6) * far)
        things.append((far, paint.foliage, at, 0.7 * size, 2 * size, size))
    for far in rng.uniform(15, 60, 4):
        at = rng.choice([-1, 1]) * (2 * road + 1 + rng.uniform(0, 0.6) * far)
        things.append((far, paint.tree, at, rng.uniform(4, 9), rng.random() < 0.5))
    far = rng.uniform(10, 30)
    vehicle = (rng.uniform(-0.4, 0.4) * far, rng.random() < 0.7, rng.random() < 0.8)
    things.append((far, paint.car, *vehicle))
    for far in rng.uniform(7, 35, rng.integers(2, 6)):
        things.append((far, paint.person, rng.uniform(-0.4, 0.4) * far))
    return things


def _smoke(rng: Rng) -> list[Thing]:
    """A smoke source, and a person whom it hides from the visible camera."""
    z = rng.uniform(9, 20)
    x = rng.uniform(-0.25, 0.25) * z
    return [
        (z, paint.smoke, x, 0.0, rng.uniform(0.9, 1.6), 0.4, 0.95),
        (z + 3, paint.person, 1.1 * x + rng.uniform(-1, 1)),
    ]


LAYOUTS: tuple[Callable[[Canvas, Rng], list[Thing]], ...] = (
    _street,
    _street,
    _house,
    _field,
)


def _canvas(rng: Rng, height: int, width: int) -> Canvas:
    """An empty canvas of the supersampled size, with a random camera and mood."""
    rows, columns = height * SUPERSAMPLE, width * SUPERSAMPLE
    x = (np.arange(columns, dtype=np.float32) + 0.5 - columns / 2) / rows
    y = (np.arange(rows, dtype=np.float32) + 0.5) / rows
    table = rng.standard_normal((TABLE, TABLE), np.float32)
    shifts = ((0, 0), (0, -1), (-1, 0), (-1, -1))
    c = Canvas(
        *(np.zeros((rows, columns), np.float32) for _ in range(5)),
        x=x.astype(np.float32)[None, :],
        y=y.astype(np.float32)[:, None],
        focal=rng.uniform(0.9, 1.3),
        horizon=rng.uniform(0.42, 0.56),
        eye=rng.uniform(1.6, 2.6),
        mood=MOODS[str(rng.choice(list(MOODS), p=SHARES))],
        corners=[np.roll(table, shift, (0, 1)).ravel() for shift in shifts],
    )
    c.detail = c.fbm(rng, c.x * 24, c.y * 24, c.pixel * 24, 0.85)
    return c


@dataclass(frozen=True)
class Scene:
    """A rendered scene, and what is known of it.

    Attributes:
      ir: uint8 [H, W].
      vis: uint8 [H, W].
      targets: int16 [H, W]: the number, from 1, of the person or vehicle whose warmth a
        pixel shows, and 0 elsewhere.  Smoke hides none of it, other objects do.
      mood: a key of MOODS.
    """

    ir: np.ndarray
    vis: np.ndarray
    targets: np.ndarray
    mood: str


def render(
    seed: int, index: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Renders the two images of a scene, as a pure function of the arguments.

    Args, raises: see `render_scene`.

    Returns:
      (ir, vis), each uint8 [height, width].
    """
    scene = render_scene(seed, index, height, width)
    return scene.ir, scene.vis


def render_scene(seed: int, index: int, height: int, width: int) -> Scene:
    """Renders a scene, as a pure function of the arguments.

    Another size shows the same scene with finer or coarser detail.

    Args:
      seed: integer, at least 0.
      index: number of the scene, at least 0.
      height: height in pixels, at least 16.
      width: width in pixels, at least 16.

    Raises:
      ValueError: `seed` or `index` is negative, or a side is below 16.
      TypeError: an argument is not an integer.
    """
    seed, index, height, width = map(operator.index, (seed, index, height, width))
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, got {seed} and {index}")
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"a scene is at least 16x16 pixels, got {height}x{width}")
    rng = np.random.default_rng([seed, index])
    c = _canvas(rng, height, width)
    for_sky, for_layout, for_film = rng.spawn(3)
    paint.sky(c, for_sky)
    paint.hills(c, for_sky, 200.0, for_sky.uniform(8, 25), for_sky.random() < 0.6)
    things = LAYOUTS[for_layout.integers(len(LAYOUTS))](c, for_layout)
    if for_layout.random() < c.mood.smoke:
        things += _smoke(for_layout)
    things.sort(key=lambda thing: -thing[0])
    # Each thing has its own generator, so a clipped thing does not change the others.
    for (z, painter, *args), own in zip(things, rng.spawn(len(things)), strict=True):
        painter(c, own, z, *args)
    images = develop_infrared(c, for_film), develop_visible(c, for_film)
    ir, vis = (np.rint(255 * image.clip(0, 1)).astype(np.uint8) for image in images)
    mood = next(name for name, mood in MOODS.items() if mood is c.mood)
    return Scene(ir, vis, develop_targets(c), mood)


def write_pairs(
    folder: Path | str, seed: int, start: int, count: int, height: int, width: int
) -> list[Pair]:
    """Writes scenes start..start+count-1 as folder/{ir,vis}/scene_0000.png.

    The number in the name is the scene's index.

    Args:
      folder: folder to write to, created if it is missing.
      seed: see `render`.
      start: index of the first scene, at least 0.
      count: number of scenes, at least 1.
      height: height in pixels, at least 16.
      width: width in pixels, at least 16.

    Returns:
      The pairs, in the order of the scenes.

    Raises:
      ValueError: `count` is below 1, or as for `render`.
      TypeError: as for `render`.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    folder, pairs = Path(folder), []
    for index in range(start, start + count):
        name = f"scene_{index:04d}"
        images = render(seed, index, height, width)
        paths = [folder / kind / f"{name}.png" for kind in ("ir", "vis")]
        for path, image in zip(paths, images, strict=True):
            write_atomically(path, image_files.encode(image, path))
        pairs.append(Pair(name, *paths))
    return pairs
