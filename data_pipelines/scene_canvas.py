"""The canvas and the two cameras of the procedural scenes (see scenes.py).

A canvas holds four float layers of a small world seen by one pinhole camera:
temperature (`ir`), reflectance (`vis`), emitted light (`glow`) and `depth` in metres.
Painters blend into them from far to near; then each camera develops what it can see.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps

import numpy as np

SUPERSAMPLE = 2  # averaged over boxes at the end: cheap antialiasing of the textures
TABLE = 64  # side of the periodic lattice of random numbers behind every texture

Rng = np.random.Generator
Box = tuple[slice, slice]
Value = float | np.ndarray
Point = tuple[float, float]


@dataclass(frozen=True)
class Mood:
    """Light and weather; brightness is relative to daylight, haze is per metre."""

    ambient: float
    sky: float
    haze: float
    lamps: bool
    lit_windows: float  # share of windows with light behind them
    sun_heat: float  # how much the sun has warmed the surfaces that face it
    noise: float  # read noise of the visible sensor after its gain
    smoke: float  # probability of a smoke source


@dataclass(frozen=True)
class Light:
    """A lamp: place and size on the screen, row of the ground under it, strength.

    If `ground` is None, the lamp is the sun: it dazzles, but its light is already part
    of the ambient light.
    """

    x: float
    y: float
    ground: float | None
    size: float
    power: float


@dataclass
class Canvas:
    """Layers [H,W] float32 and the camera; screen unit = image height, x centred."""

    ir: np.ndarray
    vis: np.ndarray
    glow: np.ndarray
    depth: np.ndarray
    detail: np.ndarray  # fine texture of all things that are painted in one colour
    x: np.ndarray  # [1,W]
    y: np.ndarray  # [H,1], 0 at the top
    focal: float
    horizon: float
    eye: float  # camera height, metres
    mood: Mood
    # Standard normal numbers of a periodic lattice [TABLE,TABLE], flattened, and the
    # same numbers shifted to the cell to the right, below and diagonally below.
    corners: list[np.ndarray]
    lights: list[Light] = field(default_factory=list)
    # Number of the target whose warmth a pixel shows, int16 [H,W]; 0 for none.
    targets: np.ndarray = field(init=False)
    target: int = 0  # the target that is being painted
    last_target: int = 0

    def __post_init__(self):
        """Starts without targets."""
        self.targets = np.zeros(self.ir.shape, np.int16)

    @property
    def pixel(self) -> float:
        """Size of one canvas pixel in screen units."""
        return 1.0 / self.y.shape[0]

    def project(self, x: float, y: float, z: float) -> Point:
        """Projects world coordinates (metres: right, up, away) to the screen."""
        return self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Box:
        """Slices of the canvas that cover a screen rectangle; they may be empty."""
        height, width = self.ir.shape
        low = [int(y0 * height) - 1, int(x0 * height + width / 2) - 1]
        high = [int(y1 * height) + 2, int(x1 * height + width / 2) + 2]
        rows, cols = (
            slice(min(max(a, 0), n), min(max(b, 0), n))
            for a, b, n in zip(low, high, (height, width), strict=True)
        )
        return rows, cols

    def grid(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Screen coordinates ([1,w], [h,1]) of a box."""
        return self.x[:, box[1]], self.y[box[0]]

    def paint(
        self,
        box: Box,
        mask: np.ndarray,
        z: Value,
        ir: Value | None = None,
        vis: Value | None = None,
        glow: Value | None = 0.0,
    ) -> None:
        """Blends values into the layers by a mask in [0,1]; None skips a layer."""
        for layer, value in ((self.ir, ir), (self.vis, vis), (self.glow, glow)):
            if value is not None:
                view = layer[box]
                view += mask * (value - view)
        np.copyto(self.depth[box], z, where=mask > 0.5)
        if ir is not None:  # else the warmth behind it still shows
            np.copyto(self.targets[box], self.target, where=mask > 0.5)

    def flat(
        self, box: Box, distance: np.ndarray, z: float, ir, vis, glow=0.0, round_=0.0
    ) -> None:
        """Paints where distance < 0 in one colour, textured and with a shaded rim."""
        detail = self.detail[box]
        mask = np.clip(0.5 - distance / self.pixel, 0, 1)
        rim = 1 - 0.35 * np.clip(1 + distance / round_, 0, 1) ** 2 if round_ else 1.0
        self.paint(
            box,
            mask,
            z,
            ir=ir * (0.7 + 0.3 * rim) + 0.02 * detail,
            vis=None if vis is None else vis * rim * np.clip(1 + 0.18 * detail, 0, 2),
            glow=glow,
        )

    def capsule(self, p: Point, q: Point, radius: float, z: float, **look) -> None:
        """Paints a thick line with round ends (a disc if p == q), in screen units."""
        radius = max(radius, 0.4 * self.pixel)
        box = self.box(
            min(p[0], q[0]) - radius,
            min(p[1], q[1]) - radius,
            max(p[0], q[0]) + radius,
            max(p[1], q[1]) + radius,
        )
        x, y = self.grid(box)
        dx, dy = q[0] - p[0], q[1] - p[1]
        along = ((x - p[0]) * dx + (y - p[1]) * dy) / (dx * dx + dy * dy + 1e-12)
        along = np.clip(along, 0, 1)
        distance = np.hypot(x - p[0] - along * dx, y - p[1] - along * dy) - radius
        self.flat(box, distance, z, **look, round_=radius)

    def polygon(self, points: list[Point], z: float, **look) -> None:
        """Paints a convex polygon, in screen units, given in either orientation."""
        xs, ys = zip(*points, strict=True)
        box = self.box(min(xs), min(ys), max(xs), max(ys))
        x, y = self.grid(box)
        area = sum(
            a[0] * b[1] - b[0] * a[1]
            for a, b in zip(points, points[1:] + points[:1], strict=True)
        )
        distance = np.full((y.shape[0], x.shape[1]), -np.inf, np.float32)
        for a, b in zip(points, points[1:] + points[:1], strict=True):
            dx, dy = b[0] - a[0], b[1] - a[1]
            length = np.copysign(np.hypot(dx, dy) + 1e-9, area)
            edge = ((x - a[0]) * dy - (y - a[1]) * dx) / length
            np.maximum(distance, edge, out=distance)
        self.flat(box, distance, z, **look)

    def fbm(
        self, rng: Rng, x: Value, y: Value, pixel: Value, gain: float = 0.6
    ) -> np.ndarray:
        """Fractal noise, zero mean, spread about 0.5, with one cycle per unit or more.

        Octaves go down to the size of a pixel (`pixel`, in units of x and y) at any
        resolution and distance, so there is detail in every pixel and no aliasing.
        """
        x, y, pixel = (np.asarray(v, np.float32) for v in (x, y, pixel))
        shift = rng.random(2) * TABLE
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
        finest = float(pixel.min()) if pixel.size else 1.0
        for octave in range(9):
            frequency = 2.0**octave
            if frequency * finest > 1.0:
                break
            u = x * np.float32(frequency) + np.float32(shift[0] + 17.3 * octave)
            v = y * np.float32(frequency) + np.float32(shift[1] + 31.7 * octave)
            left, top = np.floor(u), np.floor(v)
            u, v = u - left, v - top
            u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
            index = _cell(left, top)
            a, b, low_a, low_b = (corner.take(index) for corner in self.corners)
            a += u * (b - a)
            low_a += u * (low_b - low_a)
            fade = np.clip(2 - 2 * frequency * pixel, 0, 1) * gain**octave
            low_a -= a
            a += v * low_a
            total += fade * a
        return total * np.float32(np.sqrt(1 - gain * gain))

    def cells(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """A standard normal number for each integer cell (u, v)."""
        return self.corners[0].take(_cell(u, v))


def as_target(painter: Callable[..., None]) -> Callable[..., None]:
    """Makes a painter note in `Canvas.targets` where the warmth of its object shows."""

    @wraps(painter)
    def painted(c: Canvas, *args) -> None:
        c.last_target += 1
        c.target = c.last_target
        painter(c, *args)
        c.target = 0

    return painted


def _cell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Position of the integer cell (u, v) in the flattened periodic lattice."""
    row = (v.astype(np.intp) & (TABLE - 1)) * TABLE
    return row + (u.astype(np.intp) & (TABLE - 1))


def soft_step(value: np.ndarray, width: float) -> np.ndarray:
    """A soft threshold at 0: 0 below -width, 1 above width."""
    t = np.clip(0.5 + value / (2 * width), 0, 1)
    return t * t * (3 - 2 * t)


def develop_targets(c: Canvas) -> np.ndarray:
    """The targets of whole pixels, int16 [H/SUPERSAMPLE, W/SUPERSAMPLE].

    A pixel that shows several targets, or one only in part, is 0.
    """
    s = SUPERSAMPLE
    height, width = c.targets.shape
    blocks = c.targets.reshape(height // s, s, width // s, s)
    first = blocks[:, :1, :, :1]
    return np.where((blocks == first).all((1, 3)), first[:, 0, :, 0], 0)


def _shrink(layer: np.ndarray) -> np.ndarray:
    """Averages blocks of SUPERSAMPLE x SUPERSAMPLE pixels."""
    s = SUPERSAMPLE
    height, width = layer.shape
    return layer.reshape(height // s, s, width // s, s).mean((1, 3))


def _soften(image: np.ndarray, share: float) -> np.ndarray:
    """Applies a 3x3 lens blur: each neighbour along an axis gets `share` of a pixel."""
    tall = np.pad(image, ((1, 1), (0, 0)), mode="edge")
    image = (1 - 2 * share) * image + share * (tall[:-2] + tall[2:])
    wide = np.pad(image, ((0, 0), (1, 1)), mode="edge")
    return (1 - 2 * share) * image + share * (wide[:, :-2] + wide[:, 2:])


def _light(c: Canvas, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The light that falls on the scene, and the glare of lamps in the lens."""
    light = np.full((y.size, x.size), c.mood.ambient, np.float32)
    glare = np.zeros_like(light)
    for lamp in c.lights:
        dx, dy = (x - lamp.x) / lamp.size, (y - lamp.y) / lamp.size
        r2 = dx * dx + dy * dy
        if lamp.ground is not None:
            pool = (dx / 2.2) ** 2 + ((y - lamp.ground) / (0.7 * lamp.size)) ** 2
            light += lamp.power * (0.5 / (1 + pool) ** 2 + 0.25 / (1 + r2))
        ray = 0.04 * np.exp(-np.abs(dy)) / (0.15 + np.abs(dx))
        glare += lamp.power * (0.5 / (1 + 4 * r2) ** 1.5 + 0.06 / (1 + r2) + ray)
    return light, glare


def develop_visible(c: Canvas, rng: Rng) -> np.ndarray:
    """The visible camera's image of the scene, with exposure, glare and noise.

    Returns [H/SUPERSAMPLE, W/SUPERSAMPLE] with values in about [0,1].
    """
    x = c.x.reshape(1, -1, SUPERSAMPLE).mean(-1)
    y = c.y.reshape(-1, 1, SUPERSAMPLE).mean(-1)
    light, glare = _light(c, x, y)
    air = np.exp(-c.mood.haze * c.depth)
    # Lamps shine through haze: only their halo is lost, which the glare replaces.
    seen = _shrink(c.glow * np.maximum(air, c.glow > 2)) + glare
    seen += light * _shrink(c.vis * air) + 0.75 * c.mood.sky * (1 - _shrink(air))
    seen = np.maximum(seen, 0)
    # Auto exposure reaches a medium gray by day, and stays below that at night.
    target = rng.uniform(0.45, 0.7)
    gain = min(target / (np.minimum(seen, 1).mean() + 0.02), 4.0)
    image = (1 - np.exp(-1.3 * gain * seen)) ** np.float32(0.85)
    image = _soften(image, rng.uniform(0.05, 0.12))
    r2 = x**2 + (y - 0.5) ** 2
    image *= 1 - rng.uniform(0, 0.2) * r2 / r2.max()
    noise = c.mood.noise * np.sqrt(0.3 + image)
    return image + noise * rng.standard_normal(image.shape, np.float32)


def develop_infrared(c: Canvas, rng: Rng) -> np.ndarray:
    """The infrared camera's image, with a soft lens, gain control and column noise.

    Returns [H/SUPERSAMPLE, W/SUPERSAMPLE] with values in about [0,1].
    """
    air = np.exp(-0.06 * c.mood.haze * c.depth)
    image = _shrink(0.36 + (c.ir - 0.36) * air)
    image = _soften(image, rng.uniform(0.08, 0.18))
    low, high = np.percentile(image, [1, 99.9])
    stretch = rng.uniform(0.5, 1.0)  # how far the gain control goes to full range
    low, high = stretch * low, 1 + stretch * (high - 1)
    image = (image - low) / max(high - low, 0.1)
    height, width = image.shape
    noise = rng.standard_normal((height, width), np.float32)
    stripes = rng.standard_normal((1, width), np.float32)
    return image + rng.uniform(0.004, 0.01) * noise + 0.004 * stripes
