"""Painters of the procedural scenes, each of which puts one object on a canvas.

All take the canvas, their own random generator and the object's place in metres: `z`
away from the camera, `x` to its right, and heights above the ground.
"""

import numpy as np

from data_pipelines.scene_canvas import (
    TABLE,
    Canvas,
    Light,
    Point,
    Rng,
    as_target,
    soft_step,
)


def sky(c: Canvas, rng: Rng) -> None:
    """A gradient, and clouds on a plane overhead; cold in IR, clouds less so."""
    box = c.box(c.x.min(), 0, c.x.max(), c.horizon)
    x, y = c.grid(box)
    up = np.clip((c.horizon - y) / c.horizon, 0, 1)
    far = 0.35 / (up + 0.12)
    cloud = c.fbm(rng, 2.2 * x * far, 3 * far, 6 * c.pixel * far, 0.55)
    cover = soft_step(cloud - rng.uniform(-0.4, 0.6), 0.5) * (0.3 + 0.7 * up)
    haze = (1 - up) ** 3
    vis = c.mood.sky * (0.55 + 0.25 * haze + 0.35 * cover * (0.8 + 0.3 * cloud))
    ir = 0.04 + 0.2 * haze + 0.22 * cover * (0.7 + 0.2 * cloud)
    c.paint(box, np.ones_like(vis), 0.0, ir=ir, vis=0.0, glow=vis)
    x, y = rng.uniform(-0.6, 0.6), rng.uniform(0.02, 0.25)
    if c.mood.ambient > 0.9 and rng.random() < 0.3:
        c.lights.append(Light(x, y, None, 0.06, 1.5))


def hills(c: Canvas, rng: Rng, z: float, height: float, woods: bool) -> None:
    """A skyline of bare hills or of woods."""
    size = c.focal * height / z
    box = c.box(c.x.min(), c.horizon - 2.5 * size, c.x.max(), c.horizon + 0.02)
    x, y = c.grid(box)
    rough = 0.75 if woods else 0.4
    outline = size * (0.8 + 0.6 * c.fbm(rng, x * 0.3 / size, 0, c.pixel, rough))
    shade = c.fbm(rng, x / size, y / size, c.pixel / size, 0.75)
    mask = soft_step(outline - (c.horizon - y), c.pixel)
    c.paint(box, mask, z, ir=0.36 + 0.03 * shade, vis=0.16 + 0.08 * shade)


def ground(c: Canvas, rng: Rng, road: float, drift: float) -> None:
    """Grass, and a road of half width `road` whose centre drifts with the distance."""
    box = c.box(c.x.min(), c.horizon, c.x.max(), 1.0)
    x, y = c.grid(box)
    z = c.focal * c.eye / np.maximum(y - c.horizon, 0.015)
    wide = x * z / c.focal
    texel = z * c.pixel / c.focal
    patches = c.fbm(rng, wide * 0.3, z * 0.15, texel * 0.3, 0.6)
    everywhere = np.ones_like(patches)
    if road < 3.0:  # a street is paved from wall to wall
        grass = c.fbm(rng, wide * 7, z * 2.5, texel * 7, 0.82)
        vis = 0.2 + 0.08 * grass + 0.06 * patches
        ir = 0.36 + 0.03 * grass + 0.04 * patches
        c.paint(box, everywhere, z, ir=ir, vis=np.maximum(vis, 0.02))
    if road <= 0:
        return
    across = wide - drift * z * z * 0.01
    edge = road - np.abs(across)
    tar = c.fbm(rng, wide * 12, z * 9, texel * 12, 0.8)
    heat = rng.uniform(0.36, 0.52) + c.mood.sun_heat * 0.3
    seam = (z % 1.5 < 0.06) | (across % 1.5 < 0.05)
    c.paint(
        box,
        everywhere if road >= 3.0 else soft_step(edge + 0.5, 0.04),
        z,
        ir=heat - 0.04 + 0.015 * tar + 0.02 * patches - 0.05 * seam,
        vis=0.4 + 0.04 * tar + 0.03 * patches - 0.14 * seam - 0.1 * (edge > -0.15),
    )
    dash = (np.abs(across) < 0.09) & (z % 6 < 3)
    start = rng.uniform(7, 16)
    zebra = (z > start) & (z < start + 3) & (across % 1.1 < 0.55) & (edge > 0.5)
    zebra &= bool(rng.random() < 0.5) and road >= 3.0
    lines = (dash | zebra | (np.abs(edge - 0.4) < 0.08)) & (tar > -0.8)
    crack = np.abs(c.fbm(rng, wide * 0.5, z * 0.4, texel * 0.5, 0.7)) < 0.01
    # Tyres polish and warm two tracks per lane; paint is as warm as the road under it.
    worn = np.exp(-(((np.abs(np.abs(across) - road / 2) - 0.8) / 0.35) ** 2))
    c.paint(
        box,
        soft_step(edge, 0.04),
        z,
        ir=heat + 0.05 * worn + 0.015 * tar + 0.015 * patches - 0.05 * crack,
        vis=np.where(
            lines,
            0.75 + 0.03 * tar,
            0.2 + 0.035 * tar + 0.025 * patches - 0.03 * worn - 0.08 * crack,
        ),
    )
    if c.mood.sun_heat > 0.2:
        _cast_shadows(c, rng, box, z, across, road)


def _cast_shadows(c, rng, box, z, across, road) -> None:
    """Darkens the shadows of roofs and trees beside the street (VIS only)."""
    side, reach = rng.choice([-1, 1]), rng.uniform(-0.4, 0.8)
    roofs = c.cells(np.floor((z + 0.4 * side * across) / 7), np.zeros_like(across))
    dapple = c.fbm(rng, across * 1.5, z * 1.2, z * c.pixel / c.focal * 1.5, 0.8)
    dark = side * across / road + 0.35 * roofs - reach + 0.2 * dapple * (roofs > 0.5)
    c.vis[box] *= 1 - 0.55 * soft_step(dark, 0.02)


def side_wall(
    c: Canvas, rng: Rng, far: float, x: float, near: float, height: float
) -> None:
    """A facade along the street, in the plane at `x`, from depth `near` to `far`."""
    left, right = sorted(c.focal * x / z for z in (near, far))
    top, bottom = (c.project(0, h, near)[1] for h in (height, 0))
    box = c.box(left, top, right, bottom)
    screen = c.x[:, box[1]]
    z = c.focal * x / np.where(np.abs(screen) < 1e-6, 1e-6, screen)
    _facade(c, rng, box, z, z - near, far - near, height, 3.0)


def front_wall(
    c: Canvas, rng: Rng, z: float, x0: float, x1: float, height: float
) -> None:
    """A facade that faces the camera, from `x0` to `x1`."""
    (left, top), (right, bottom) = c.project(x0, height, z), c.project(x1, 0, z)
    box = c.box(left, top, right, bottom)
    screen = c.x[:, box[1]]
    deep = np.full_like(screen, z)
    _facade(c, rng, box, deep, screen * z / c.focal - x0, x1 - x0, height, 1.0)


def _facade(c, rng, box, z, along, length, height, slant) -> None:
    """Walls with windows, a function of (along, up), so that perspective is exact.

    `z` and `along` are [1,w] in metres; `slant` is how much coarser a pixel is along
    the wall than up.
    """
    up = c.eye - (c.y[box[0]] - c.horizon) * z / c.focal
    if up.size == 0:
        return
    texel = np.abs(z) * c.pixel / c.focal
    plaster = c.fbm(rng, along * 3, up * 3, texel * 3 * slant, 0.8)
    stain = c.fbm(rng, along * 0.3, up * 0.15, texel * 0.3 * slant, 0.5)
    course = rng.choice([0.2, 0.4, 1.0])
    joint = (up % course < 0.12 * course) & (texel < 0.35 * course)
    sunny = rng.random() < 0.5  # only the sunny side of a street is warmed
    shade = rng.uniform(0.22, 0.6) * (1.25 if sunny else 0.9)
    heat = rng.uniform(0.36, 0.54) + c.mood.sun_heat * sunny
    vis = shade * (1 + 0.09 * plaster + 0.1 * stain - 0.2 * joint)
    ir = heat + 0.012 * plaster + 0.04 * stain - 0.006 * joint + 0.03 * up / height
    if rng.random() < 0.5:  # a painted band: paint has no temperature of its own
        low, high = rng.uniform(0.2, 1.0), rng.uniform(1.4, 3.0)
        vis *= np.where((up > low) & (up < high), rng.uniform(0.4, 1.6), 1.0)
    # Letters of a shop sign, which have no temperature of their own either.
    row = 2.2 + 0.1 * rng.integers(0, 8)
    sign = (up > row) & (up < row + 0.6) & (along % 9 < 5) & (along % 0.6 < 0.5)
    stroke = c.cells(np.floor(along * 10), np.floor((up - row) * 8)) > 0
    if rng.random() < 0.5 and height > 6:  # no shops in small houses
        vis = np.where(sign, np.where(stroke, 0.85, 0.12), vis)
    vis, ir, glow = _windows(c, rng, along, up, height, shade, heat, vis, ir)
    eave = up > height - 0.25
    vis, ir = np.where(eave, 0.5 * shade, vis), np.where(eave, heat - 0.08, ir)
    inside = (along >= 0) & (along <= length) & (up >= 0) & (up <= height)
    c.paint(box, inside.astype(np.float32), z, ir=ir, vis=vis.clip(0.02, 1), glow=glow)


def _windows(c, rng, along, up, height, shade, heat, vis, ir):
    """Puts rows of windows on a facade; returns its vis, ir and glow."""
    pitch, storey = rng.uniform(2.0, 3.4), rng.uniform(2.8, 3.6)
    cell_u, cell_v = np.floor(along / pitch), np.floor(up / storey)
    u, v = np.abs(along / pitch - cell_u - 0.5), up / storey - cell_v
    half = rng.uniform(0.2, 0.32)
    frame = (u < half) & (v > 0.28) & (v < 0.86) & (up < height - 0.3)
    glass = frame & (u < half - 0.04) & (v > 0.32) & (v < 0.82)
    glass &= (u > 0.02) & (np.abs(v - 0.62) > 0.012)
    a, b, d = (c.cells(cell_u + k, cell_v + 7 * k) for k in rng.integers(TABLE, size=3))
    lit = glass & (7.3 * a % 1 < c.mood.lit_windows)
    curtain = 1 - 0.3 * (u > 0.5 * half) * (b > 0)
    pane = 0.06 + 0.2 * c.mood.ambient * (v + 0.3 * d).clip(0, 1)
    vis = np.where(glass, pane, np.where(frame, min(0.85, shade + 0.25), vis))
    glow = np.where(lit, (0.5 + 0.12 * d) * curtain, 0.0)
    # Glass mirrors the cold sky, more so low down; some rooms are heated.
    mirror = heat - 0.16 + 0.1 * v + 0.03 * b
    pane = np.where(a > 0.6, heat + 0.14, mirror)
    ir = np.where(glass, pane, np.where(frame, heat - 0.04, ir))
    radiator = (u < 0.22) & (v > 0.08) & (v < 0.25) & (d > 0.6)
    slab = v < 0.07  # floors conduct heat to the outside
    return vis, ir + 0.08 * radiator + 0.035 * slab, glow


def roof(c: Canvas, rng: Rng, z: float, x0: float, x1: float, base: float) -> None:
    """A gable over a frontal wall, with a chimney and its warm plume."""
    peak, middle = base + 0.32 * (x1 - x0), 0.5 * (x0 + x1)
    stack = middle + rng.choice([-1, 1]) * 0.25 * (x1 - x0)
    fire = rng.random() < 0.7
    warm = 0.75 if fire else 0.45
    corners = [(-0.4, base), (0.4, base), (0.4, peak), (-0.4, peak)]
    corners = [c.project(stack + x, y, z + 1) for x, y in corners]
    c.polygon(corners, z + 1, ir=warm, vis=0.3)
    if fire:
        smoke(c, rng, z + 1, stack, peak, 0.4, 0.2, 0.35)
    points = [(x0 - 0.5, base), (x1 + 0.5, base), (middle, peak)]
    points = [c.project(*p, z) for p in points]
    box = c.box(points[0][0], points[2][1], points[1][0], points[0][1])
    x, y = c.grid(box)
    scale = z / c.focal
    moss = c.fbm(rng, x * scale * 2, y * scale * 2, c.pixel * scale * 2, 0.8)
    joint = (y * scale) % 0.35 < 0.1
    shade, heat = rng.uniform(0.15, 0.45), 0.3 + c.mood.sun_heat + rng.uniform(0, 0.1)
    vis = shade * (1 - 0.3 * joint + 0.15 * moss)
    look = {"ir": heat + 0.02 * moss, "vis": vis.clip(0.02, 1)}
    c.polygon(points, z, **look)


def tree(c: Canvas, rng: Rng, z: float, x: float, height: float, bare: bool) -> None:
    """A trunk with a leafy crown, or bare branches."""
    bark = {"ir": 0.42, "vis": rng.uniform(0.08, 0.2)}
    if bare:
        _branch(
            c,
            rng,
            z,
            (x, 0.0),
            0.3 * height,
            0.0,
            0.03 * height,
            6 if z < 15 else 4,
            bark,
        )
        return
    crown = 0.62 * height
    foot, top = c.project(x, 0, z), c.project(x, crown, z)
    c.capsule(foot, top, c.focal * 0.02 * height / z, z, **bark)
    foliage(c, rng, z, x, crown, 0.32 * height, 0.42 * height)


def _branch(
    c: Canvas,
    rng: Rng,
    z: float,
    foot: Point,
    length: float,
    lean: float,
    width: float,
    levels: int,
    look: dict,
) -> None:
    """One branch and, recursively, the two that grow from its end."""
    tip = (foot[0] + length * np.sin(lean), foot[1] + length * np.cos(lean))
    radius = 0.5 * width * c.focal / z
    c.capsule(c.project(*foot, z), c.project(*tip, z), radius, z, **look)
    if levels == 0:
        return
    for turn in rng.uniform(0.15, 0.6, 2) * (-1, 1):
        longer = rng.uniform(0.6, 0.85) * length
        rest = (longer, lean + turn, 0.62 * width, levels - 1, look)
        _branch(c, rng, z, tip, *rest)


def foliage(
    c: Canvas, rng: Rng, z: float, x: float, middle: float, wide: float, tall: float
) -> None:
    """A lump of leaves around (x, middle): holes let the background through."""
    left, top = c.project(x - 1.4 * wide, middle + 1.4 * tall, z)
    right, bottom = c.project(x + 1.4 * wide, max(middle - 1.4 * tall, 0), z)
    box = c.box(left, top, right, bottom)
    sx, sy = c.grid(box)
    scale = z / c.focal
    dx = sx * scale - x
    dy = c.eye - (sy - c.horizon) * scale - middle
    texel = c.pixel * scale
    lumps = c.fbm(rng, dx / wide * 2, dy / wide * 2, texel / wide * 2, 0.7)
    leaves = c.fbm(rng, dx * 4, dy * 4, texel * 4, 0.8)
    body = 1 - np.hypot(dx / wide, dy / tall) + 0.35 * lumps + 0.12 * leaves
    sun = (0.5 + 0.3 * dy / tall + 0.4 * lumps).clip(0, 1)
    vis = rng.uniform(0.7, 1.3) * (0.11 + 0.07 * leaves + 0.12 * sun)
    ir = 0.4 + 0.025 * leaves + 0.05 * lumps + 0.04 * dy / tall
    c.paint(box, soft_step(body, 0.08), z, ir=ir, vis=vis.clip(0.02, 1))


def _shadow(c: Canvas, z: float, x: float, wide: float) -> None:
    """A soft dark patch on the ground under an object (visible only)."""
    left, top = c.project(x - wide, 0, z + 0.4 * wide)
    right, bottom = c.project(x + wide, 0, max(z - 0.4 * wide, 0.5))
    box = c.box(left, top, right, bottom)
    sx, sy = c.grid(box)
    foot = c.project(x, 0, z)
    r2 = ((sx - foot[0]) * z / (wide * c.focal)) ** 2
    r2 = r2 + ((sy - foot[1]) / max(0.5 * (bottom - top), 1e-4)) ** 2
    c.vis[box] *= 1 - 0.6 * soft_step(1 - r2, 0.6)


@as_target
def person(c: Canvas, rng: Rng, z: float, x: float) -> None:
    """A walker: skin hottest, clothes cooler; in VIS often as dark as the ground."""
    tall = rng.uniform(1.55, 1.9)
    stride, swing = rng.uniform(0.05, 0.32), rng.uniform(-0.25, 0.25)
    coat = rng.choice([0.05, 0.12, 0.2, 0.28, 0.5])
    trousers, heat = rng.uniform(0.04, 0.22), rng.uniform(0.7, 0.88)
    warm_coat = heat - rng.uniform(0.0, 0.12)
    _shadow(c, z, x, 0.6)

    def part(ax, ay, bx, by, thick, ir, vis):
        p, q = c.project(x + ax, ay * tall, z), c.project(x + bx, by * tall, z)
        c.capsule(p, q, thick * c.focal / z, z, ir=ir, vis=vis)

    for sign in (-1, 1):
        knee = (sign * 0.5 * stride + 0.06 * np.sign(swing), 0.27)
        part(0.06 * sign, 0.5, *knee, 0.085, heat - 0.06, trousers)
        part(*knee, sign * stride, 0.04, 0.06, heat - 0.12, trousers)
        part(sign * stride, 0.02, sign * stride + 0.12, 0.02, 0.04, heat - 0.3, 0.04)
    for sign in (-1, 1):
        elbow, hand = (sign * 0.25, 0.62), (sign * 0.25 + swing, 0.5)
        part(sign * 0.19, 0.79, *elbow, 0.055, warm_coat - 0.06, 0.8 * coat)
        part(*elbow, *hand, 0.045, heat, 0.9 * coat)
        part(*hand, *hand, 0.05, min(1.0, heat + 0.12), 0.4)
    part(0, 0.55, 0, 0.74, 0.16, warm_coat, coat)
    part(-0.1, 0.77, 0.1, 0.77, 0.1, warm_coat + 0.03, coat)
    part(0, 0.84, 0, 0.88, 0.06, heat + 0.1, 0.35)
    part(0, 0.925, 0, 0.94, 0.1, min(1.0, heat + 0.14), 0.4)
    part(0, 0.975, 0, 0.975, 0.085, heat - 0.05, 0.05)


@as_target
def car(c: Canvas, rng: Rng, z: float, x: float, sideways: bool, moving: bool) -> None:
    """A car from its front, back or side; warm around the engine and the tyres."""
    paint = rng.choice([0.06, 0.12, 0.3, 0.6, 0.8])
    steel = rng.uniform(0.34, 0.46) + 0.3 * c.mood.sun_heat
    hot = rng.uniform(0.74, 0.92) if moving else steel + 0.03
    body = {"ir": steel, "vis": paint}
    glass = {"ir": steel - 0.14, "vis": 0.09}
    tyre, trim = (
        {"ir": hot - 0.1, "vis": 0.04},
        {"ir": steel - 0.05, "vis": 0.6 * paint},
    )
    _shadow(c, z, x, 2.6 if sideways else 1.3)

    def quad(x0, x1, x2, x3, low, high, look):
        corners = [(x0, low), (x1, low), (x2, high), (x3, high)]
        c.polygon([c.project(x + a, b, z) for a, b in corners], z, **look)

    def disc(dx, y, radius, **look):
        centre = c.project(x + dx, y, z)
        c.capsule(centre, centre, radius * c.focal / z, z, **look)

    if sideways:
        quad(-1.5, 1.3, 0.8, -1.1, 0.85, 1.5, body)
        quad(-1.3, -0.15, -0.15, -0.95, 0.9, 1.4, glass)
        quad(-0.05, 1.1, 0.7, -0.05, 0.9, 1.4, glass)
        quad(-2.1, 2.15, 2.05, -2.05, 0.3, 0.9, body)
        quad(1.2, 2.1, 2.0, 1.2, 0.6, 0.88, {"ir": hot - 0.12, "vis": paint})
        quad(-2.1, 2.1, 2.1, -2.1, 0.56, 0.61, trim)
        quad(-2.1, 2.15, 2.15, -2.1, 0.28, 0.36, trim)
        for wheel in (-1.3, 1.35):
            disc(wheel, 0.34, 0.4, ir=steel - 0.1, vis=0.03)
            disc(wheel, 0.33, 0.33, **tyre)
            disc(wheel, 0.33, 0.18, ir=hot - 0.3, vis=0.45)
        return
    coming = rng.random() < 0.5
    for wheel in (-0.72, 0.72):
        quad(*(wheel + 0.12 * s for s in (-1, 1, 1, -1)), 0, 0.5, tyre)
    quad(-0.85, 0.85, 0.62, -0.62, 0.85, 1.48, body)
    quad(-0.74, 0.74, 0.55, -0.55, 0.93, 1.41, glass)
    quad(-0.9, 0.9, 0.88, -0.88, 0.2, 0.92, body)
    quad(-0.9, 0.9, 0.9, -0.9, 0.2, 0.36, trim)
    warm = hot - (0.05 if coming else 0.25)
    quad(-0.45, 0.45, 0.45, -0.45, 0.6, 0.8, {"ir": warm, "vis": 0.5 * paint})
    quad(-0.26, 0.26, 0.26, -0.26, 0.42, 0.54, {"ir": steel - 0.03, "vis": 0.75})
    if moving and not coming:
        disc(-0.55, 0.22, 0.07, ir=1.0, vis=0.1)  # the exhaust
    shining = moving and c.mood.lamps
    glow = (4.0 if coming else 0.8) if shining else 0.0
    for lamp in (-0.68, 0.68):
        disc(lamp, 0.7, 0.12, ir=steel + 0.12 * shining, vis=0.6, glow=glow)
        if shining:
            place = (*c.project(x + lamp, 0.7, z), c.project(0, 0, z - 2)[1])
            power = 1.0 if coming else 0.12
            c.lights.append(Light(*place, 0.9 * c.focal / z, power))


def lamp(c: Canvas, rng: Rng, z: float, x: float) -> None:
    """A street lamp; if lit, it makes a pool of light and blinds the VIS camera."""
    tall, toward = rng.uniform(4.5, 5.5), -np.sign(x)
    scale = c.focal / z
    post = {"ir": 0.32, "vis": 0.12}
    foot, top = c.project(x, 0, z), c.project(x, tall, z)
    c.capsule(foot, top, 0.06 * scale, z, **post)
    head = c.project(x + 1.2 * toward, tall + 0.25, z)
    c.capsule(top, head, 0.04 * scale, z, **post)
    lit = c.mood.lamps and rng.random() < 0.7
    tip = (head[0] + 0.3 * scale * toward, head[1])
    look = {"ir": 0.7, "vis": 0.8, "glow": 4.0} if lit else {"ir": 0.35, "vis": 0.5}
    c.capsule(head, tip, 0.09 * scale, z, **look)
    if lit:
        c.lights.append(Light(*head, foot[1], 1.8 * scale, 0.7))


def wires(c: Canvas, rng: Rng, z: float, x: float, near: float) -> None:
    """Overhead lines that run along the street from depth `near` to `z`."""
    for side in rng.uniform(-0.8, 0.8, 3):
        p, q = c.project(x + side, 7.0, near), c.project(x + side, 7.0, z)
        c.capsule(p, q, 0.0, near, ir=0.3, vis=0.06)


def shelter(c: Canvas, rng: Rng, z: float, x: float) -> None:
    """A glass bus shelter with a person in it: VIS sees through, IR does not."""
    person(c, rng, z, x + rng.uniform(-0.5, 0.5))
    corners = [(-1.3, 0.2), (1.3, 0.2), (1.3, 2.1), (-1.3, 2.1)]
    corners = [c.project(x + a, b, z) for a, b in corners]
    c.polygon(corners, z, ir=rng.uniform(0.24, 0.32), vis=None, glow=None)
    post = {"ir": 0.42, "vis": 0.1}
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
        c.capsule(corners[a], corners[b], 0.05 * c.focal / z, z, **post)


def smoke(
    c: Canvas,
    rng: Rng,
    z: float,
    x: float,
    base: float,
    wide: float,
    warm: float,
    veil: float,
) -> None:
    """A drifting plume: a veil in VIS, almost clear in IR except for its warm root."""
    scale = z / c.focal
    rise, drift = 14 * wide, rng.uniform(-0.5, 0.5)
    reach = rise * (abs(drift) + 0.5) + wide
    left, top = c.project(x - reach, base + rise, z)
    right, bottom = c.project(x + reach, base - 0.3 * wide, z)
    box = c.box(left, top, right, bottom)
    sx, sy = c.grid(box)
    up = (c.eye - (sy - c.horizon) * scale - base) / wide
    along = (sx * scale - x) / wide - drift * up
    size = 0.6 + 0.45 * up.clip(0, None)
    texel = c.pixel * scale / wide
    puffs = c.fbm(rng, along * 0.5, up * 0.5, texel * 0.5, 0.6)
    body = 1 - np.abs(along) / size + 0.8 * puffs
    thick = soft_step(body - 0.1, 0.6) * np.clip(1.3 - up / 11, 0, 1)
    thick *= veil * soft_step(up + 0.4 * puffs, 0.4)
    c.paint(box, thick, z, vis=(0.55 + 0.15 * puffs).clip(0.1, 1))
    c.paint(box, 0.1 * thick, z, ir=0.45, glow=None)
    core = np.exp(-up.clip(0, None) / 1.2 - (1.6 * along) ** 2)
    c.ir[box] += warm * thick * core
