"""Shapes of cars, trucks, buses, trailers and construction vehicles; every shape fills its annotation box.

Sizes are (width, length, height) in metres, as in nuScenes; the front of a vehicle looks along +x.
"""

from __future__ import annotations

import numpy as np

from .mesh import Color, Mesh, MeshBuilder, Paint, pick
from .textures import Texture

Size = tuple[float, float, float]

TYRE = Paint((0.07, 0.07, 0.08))
RIM = Paint((0.55, 0.56, 0.58))
CHASSIS = Paint((0.10, 0.10, 0.11))
GLASS = Paint((0.06, 0.08, 0.10), (0.45, 0.55, 0.62), Texture.GLASS, fitted=True)
HEADLIGHT = Paint((0.98, 0.97, 0.90), glow=0.8)
TAILLIGHT = Paint((0.85, 0.05, 0.04), glow=0.6)
PLATE = Paint((0.92, 0.92, 0.88))
GRILLE = Paint((0.05, 0.05, 0.06), texture=Texture.TREADS, period=0.4)

CAR_COLORS: tuple[Color, ...] = (
    (0.90, 0.90, 0.90),
    (0.72, 0.73, 0.75),
    (0.45, 0.46, 0.48),
    (0.12, 0.12, 0.13),
    (0.62, 0.07, 0.07),
    (0.10, 0.18, 0.45),
    (0.18, 0.38, 0.62),
    (0.10, 0.28, 0.18),
    (0.55, 0.47, 0.36),
    (0.85, 0.62, 0.12),
)


def make_car(size: Size, rng: np.random.Generator) -> Mesh:
    """A hatchback, saloon or tall estate, by the ratio of height to length."""
    width, length, height = size
    body = Paint(pick(CAR_COLORS, rng))
    half, side = length / 2, width / 2
    belt, floor = height * rng.uniform(0.52, 0.58), 0.13 * height
    boot = rng.uniform(0.72, 0.98)  # how far back the roof reaches
    build = MeshBuilder()
    profile = [
        (-half, floor),
        (half, floor),
        (half, belt * 0.72),
        (half * 0.93, belt * 0.86),
        (half * 0.42, belt),
        (-half * 0.94, belt),
        (-half, belt * 0.88),
    ]
    build.extrude(profile, side, -side, body, body)
    _add_cabin(build, (half, side, belt, height), boot, body)
    _add_car_wheels(build, size)
    add_lamps(build, half, side, belt * 0.62, belt * 0.78, 0.2 * width)
    front = half + 0.01
    build.panel(yz(front, -side * 0.5, side * 0.5, belt * 0.4, belt * 0.62), GRILLE)
    build.panel(yz(-front, -0.26, 0.26, belt * 0.45, belt * 0.6), PLATE)
    build.panel(yz(front, -side * 0.95, side * 0.95, floor, belt * 0.3), CHASSIS)
    build.panel(yz(-front, -side * 0.95, side * 0.95, floor, belt * 0.3), CHASSIS)
    return build.build(fit=size)


def make_truck(size: Size, rng: np.random.Generator) -> Mesh:
    """A pickup when short, else a cab before a box, a tarpaulin or a dumper."""
    if size[1] < 6.0:
        return _make_pickup(size, rng)
    width, length, height = size
    half, side = length / 2, width / 2
    cab_color = pick(
        ((0.85, 0.85, 0.84), (0.65, 0.10, 0.08), (0.12, 0.25, 0.52), (0.82, 0.55, 0.10), (0.15, 0.4, 0.3)), rng
    )
    cab_length, deck = min(2.1, 0.3 * length), 0.95
    cab_height = min(height, rng.uniform(2.4, 2.9))
    build = MeshBuilder()
    add_cab(build, (half - cab_length, half), side * 0.97, cab_height, Paint(cab_color))
    build.box((-half, -side * 0.45, 0.5), (half - 0.3, side * 0.45, deck), CHASSIS)
    load = rng.integers(3)
    bed = (-half, half - cab_length - 0.15)
    if load == 0:  # box body
        color = pick(((0.9, 0.9, 0.88), (0.75, 0.78, 0.8), (0.85, 0.75, 0.3), (0.3, 0.5, 0.65)), rng)
        build.box((bed[0], -side, deck), (bed[1], side, height), Paint(color, texture=Texture.RIBS, period=2.4))
    elif load == 1:  # tarpaulin
        color = pick(((0.15, 0.3, 0.55), (0.2, 0.45, 0.3), (0.5, 0.5, 0.5)), rng)
        build.frustum(
            _rectangle(*bed, side),
            _rectangle(*bed, side * 0.8),
            deck,
            height,
            Paint(color, texture=Texture.CLOTH, period=3.0),
        )
    else:  # dumper: walls that lean outwards, filled with sand
        color = pick(((0.55, 0.55, 0.56), (0.78, 0.5, 0.12), (0.35, 0.2, 0.15)), rng)
        sand = Paint((0.62, 0.52, 0.36), texture=Texture.GRASS, period=1.5)
        build.frustum(
            _rectangle(*bed, side * 0.8),
            _rectangle(*bed, side),
            deck,
            height,
            Paint(color, texture=Texture.RIBS, period=1.6),
            sand,
        )
    for x in (half - 0.75 * cab_length, -half + 0.16 * length, -half + 0.16 * length + 1.15):
        add_axle(build, x, side, 0.5, 0.32)
    build.panel(
        yz(-half - 0.01, -side, side, 0.5, 0.8), Paint((0.8, 0.1, 0.1), (0.95, 0.95, 0.9), Texture.STRIPES, 0.5)
    )
    add_tail(build, half, side, 0.8, 0.95)
    return build.build(fit=size)


def make_bus(size: Size, rng: np.random.Generator) -> Mesh:
    """A city bus: long glass along both sides, a large windscreen, a lit destination sign."""
    width, length, height = size
    half, side = length / 2, width / 2
    lower = pick(((0.75, 0.12, 0.10), (0.12, 0.35, 0.62), (0.92, 0.92, 0.9), (0.2, 0.5, 0.28), (0.85, 0.5, 0.1)), rng)
    upper = Paint((0.93, 0.93, 0.92) if rng.random() < 0.6 else lower)
    body = Paint(lower)
    build = MeshBuilder()
    build.box((-half, -side, 0.32), (half, side, 1.2), body)
    build.box((-half, -side, 1.2), (half, side, height - 0.12), upper, top=Paint((0.8, 0.8, 0.8)))
    build.box((-half * 0.7, -side * 0.7, height - 0.12), (half * 0.3, side * 0.7, height), Paint((0.7, 0.7, 0.7)))
    glass = Paint((0.9, 0.9, 0.9), (0.10, 0.13, 0.16), Texture.WINDOW_ROW, 5.6, fitted=True)
    for y in (side + 0.01, -side - 0.01):
        for x0, x1 in ((-half * 0.96, -0.1), (0.1, half * 0.96)):
            build.panel(xz(y, x0, x1, 1.3, height - 0.85), glass)
    build.panel(yz(half + 0.01, -side * 0.95, side * 0.95, 0.95, height - 0.65), GLASS)
    build.panel(yz(half + 0.02, -side * 0.7, side * 0.7, height - 0.6, height - 0.3), Paint((1.0, 0.65, 0.1), glow=0.7))
    build.panel(yz(-half - 0.01, -side * 0.8, side * 0.8, 1.7, height - 0.7), GLASS)
    build.panel(yz(-half - 0.01, -side * 0.7, side * 0.7, 0.6, 1.2), GRILLE)
    door = Paint((0.08, 0.10, 0.12), (0.4, 0.48, 0.55), Texture.GLASS, fitted=True)
    for x in (half - 1.6, -0.6):
        build.panel(xz(-side - 0.015, x, x + 1.2, 0.4, height - 0.8), door)
    for x in (half * 0.62, -half * 0.55):
        add_axle(build, x, side, 0.5, 0.3)
    add_lamps(build, half, side, 0.55, 0.85, 0.4)
    return build.build(fit=size)


def make_trailer(size: Size, rng: np.random.Generator) -> Mesh:
    """A semi-trailer without its tractor: wheels under the rear half, supporting legs in front, no cab."""
    width, length, height = size
    half, side = length / 2, width / 2
    color = pick(((0.88, 0.88, 0.86), (0.6, 0.15, 0.1), (0.15, 0.3, 0.5), (0.55, 0.42, 0.2), (0.35, 0.45, 0.35)), rng)
    skin = Texture.RIBS if rng.random() < 0.6 else Texture.CLOTH
    build = MeshBuilder()
    build.box((-half, -side, 1.15), (half, side, height), Paint(color, texture=skin, period=1.8))
    build.box((-half, -side * 0.4, 0.85), (half, side * 0.4, 1.15), CHASSIS)
    for y in (-side * 0.6, side * 0.6):
        build.box((half * 0.55, y - 0.08, 0.0), (half * 0.55 + 0.25, y + 0.08, 1.0), CHASSIS)
    for i in range(3 if length > 9 else 2):
        add_axle(build, -half + 1.0 + 1.25 * i, side, 0.5, 0.4)
    build.panel(yz(-half - 0.01, -0.03, 0.03, 1.2, height - 0.1), CHASSIS)  # the gap of the rear doors
    build.panel(
        yz(-half - 0.01, -side, side, 0.85, 1.1), Paint((0.8, 0.1, 0.1), (0.95, 0.95, 0.9), Texture.STRIPES, 0.5)
    )
    add_tail(build, half, side, 1.2, 1.45)
    stripe = pick(((0.9, 0.75, 0.1), (0.9, 0.9, 0.9), (0.1, 0.1, 0.3)), rng)
    for y in (-side - 0.01, side + 0.01):
        build.panel(xz(y, -half, half, 1.25, 1.45), Paint(stripe))
    return build.build(fit=size)


def make_construction_vehicle(size: Size, rng: np.random.Generator) -> Mesh:
    """A yellow or orange excavator on tracks or a wheel loader."""
    width, length, height = size
    half, side = length / 2, width / 2
    yellow = Paint(pick(((0.93, 0.68, 0.06), (0.90, 0.55, 0.05), (0.95, 0.75, 0.15)), rng))
    steel = Paint((0.25, 0.25, 0.26))
    build = MeshBuilder()
    if rng.random() < 0.55:
        _add_excavator(build, (half, side, height), yellow, steel)
    else:
        _add_loader(build, (half, side, height), yellow, steel)
    return build.build(fit=size)


def _add_excavator(build: MeshBuilder, reach: Size, yellow: Paint, steel: Paint) -> None:
    half, side, height = reach
    track = Paint((0.15, 0.15, 0.15), texture=Texture.TREADS, period=0.9)
    for y in (-side, side * 0.55):
        profile = [
            (-half, 0.25),
            (-half + 0.3, 0.0),
            (0.4 * half, 0.0),
            (0.5 * half, 0.25),
            (0.4 * half, 0.75),
            (-half + 0.2, 0.75),
        ]
        build.extrude(profile, y + 0.45 * side, y, track, track)
    build.box((-half * 0.95, -side * 0.85, 0.85), (half * 0.25, side * 0.85, 1.7), yellow)
    build.box((-half * 0.95, -side * 0.8, 1.7), (-half * 0.45, side * 0.8, 2.1), steel)
    build.box((-half * 0.3, side * 0.1, 1.7), (half * 0.3, side * 0.85, min(height, 2.9)), GLASS, top=yellow)
    elbow = (half * 0.55, -side * 0.2, height - 0.15)
    build.beam((half * 0.1, -side * 0.2, 1.5), elbow, 0.35, 0.3, yellow)
    build.beam(elbow, (half * 0.9, -side * 0.2, 0.9), 0.3, 0.24, yellow)
    bucket = [(half * 0.7, 0.1), (half, 0.0), (half, 0.75), (half * 0.8, 0.95)]
    build.extrude(bucket, side * 0.25, -side * 0.65, steel, steel)


def _add_loader(build: MeshBuilder, reach: Size, yellow: Paint, steel: Paint) -> None:
    half, side, height = reach
    build.box((-half, -side * 0.7, 0.6), (-half * 0.2, side * 0.7, min(1.9, 0.62 * height)), yellow)
    build.box((-half * 0.4, -side * 0.5, 0.6), (half * 0.45, side * 0.5, 1.2), yellow)
    build.box((-half * 0.45, -side * 0.55, 1.2), (half * 0.05, side * 0.55, height), GLASS, top=yellow)
    for y in (-side * 0.45, side * 0.45):
        build.beam((0.0, y, 1.4), (half * 0.75, y, 0.7), 0.2, 0.25, yellow)
    build.extrude(
        [(half * 0.65, 0.05), (half, 0.0), (half * 0.85, 0.9), (half * 0.62, 0.95)], side, -side, steel, steel
    )
    for x in (-half * 0.62, half * 0.35):
        for y in (-side + 0.25, side - 0.25):
            build.wheel(x, y, 0.68, 0.5, TYRE, yellow)
    build.panel(
        yz(-half - 0.01, -side * 0.6, side * 0.6, 0.8, 1.2),
        Paint((0.9, 0.1, 0.1), (0.95, 0.95, 0.9), Texture.STRIPES, 0.4),
    )


def _make_pickup(size: Size, rng: np.random.Generator) -> Mesh:
    width, length, height = size
    half, side = length / 2, width / 2
    body = Paint(pick(CAR_COLORS, rng))
    belt, floor = 0.55 * height, 0.2 * height
    build = MeshBuilder()
    build.box((-half, -side, floor), (0.0, side, belt), body, top=Paint((0.2, 0.18, 0.16)))
    nose = [(0.0, floor), (half, floor), (half, belt * 0.85), (half * 0.55, belt), (0.0, belt)]
    build.extrude(nose, side, -side, body, body)
    base, cap = _rectangle(-0.1, half * 0.6, side * 0.95), _rectangle(0.05, half * 0.36, side * 0.8)
    build.frustum(base, cap, belt, height - 0.04, GLASS)
    build.box((0.05, -side * 0.8, height - 0.06), (half * 0.36, side * 0.8, height), body)
    cargo = pick(((0.45, 0.35, 0.25), (0.2, 0.35, 0.5), (0.5, 0.5, 0.5)), rng)
    build.box(
        (-half * 0.85, -side * 0.7, belt), (-half * 0.3, side * 0.6, height * 0.8), Paint(cargo, texture=Texture.CLOTH)
    )
    for x in (-0.62 * half, 0.62 * half):
        add_axle(build, x, side, 0.19 * height + 0.03, 0.25)
    add_lamps(build, half, side, belt * 0.65, belt * 0.82, 0.35)
    build.panel(yz(half + 0.01, -side * 0.55, side * 0.55, belt * 0.45, belt * 0.65), GRILLE)
    return build.build(fit=size)


def _add_cabin(build: MeshBuilder, reach: tuple[float, float, float, float], boot: float, body: Paint) -> None:
    """Glass between the belt line and a painted roof, narrower at the top."""
    half, side, belt, height = reach
    rear, roof_rear, roof_front, front = -half * boot, -half * (boot - 0.16), half * 0.12, half * 0.46
    roof = height - 0.05
    build.frustum(
        _rectangle(rear, front, side * 0.97), _rectangle(roof_rear, roof_front, side * 0.8), belt, roof, GLASS
    )
    build.box((roof_rear, -side * 0.8, roof - 0.03), (roof_front, side * 0.8, height), body)
    pillar = (roof_rear + roof_front) / 2
    for sign in (-1.0, 1.0):
        build.beam((pillar, sign * side * 0.975, belt), (pillar, sign * side * 0.81, roof), 0.02, 0.1, body)
        build.box(
            (front * 0.82, sign * side * 0.97 - 0.07, belt),
            (front * 0.95, sign * side * 0.97 + 0.03, belt + 0.14),
            body,
        )


def _add_car_wheels(build: MeshBuilder, size: Size) -> None:
    width, length, height = size
    radius = min(0.36, 0.21 * height)
    for x in (-0.31 * length, 0.31 * length):
        add_axle(build, x, width / 2, radius, 0.22)


def add_cab(build: MeshBuilder, span: tuple[float, float], side: float, height: float, paint: Paint) -> None:
    rear, front = span
    profile = [(rear, 0.5), (front, 0.5), (front, 1.5), (front - 0.25, height), (rear, height)]
    build.extrude(profile, side, -side, paint, [paint, paint, GLASS, paint, paint])
    for y in (-side - 0.01, side + 0.01):
        build.panel(xz(y, rear + 0.5, front - 0.35, 1.5, height - 0.35), GLASS)
    build.panel(yz(front + 0.01, -side * 0.7, side * 0.7, 0.8, 1.25), GRILLE)
    for y in (-side * 0.8, side * 0.8):
        build.panel(yz(front + 0.015, y - 0.18, y + 0.18, 0.62, 0.85), HEADLIGHT)


def add_axle(build: MeshBuilder, x: float, side: float, radius: float, width: float) -> None:
    for y in (-side + width / 2, side - width / 2):
        build.wheel(x, y, radius, width + 0.02, TYRE, RIM)


def add_lamps(build: MeshBuilder, half: float, side: float, bottom: float, top: float, width: float) -> None:
    for sign in (-1.0, 1.0):
        inner, outer = sorted((sign * side * 0.96, sign * (side * 0.96 - width)))
        build.panel(yz(half + 0.012, inner, outer, bottom, top), HEADLIGHT)
    add_tail(build, half, side, bottom, top)


def add_tail(build: MeshBuilder, half: float, side: float, bottom: float, top: float) -> None:
    for sign in (-1.0, 1.0):
        inner, outer = sorted((sign * side * 0.98, sign * side * 0.68))
        build.panel(yz(-half - 0.012, inner, outer, bottom, top), TAILLIGHT)


def _rectangle(rear: float, front: float, side: float) -> list[tuple[float, float]]:
    return [(rear, -side), (front, -side), (front, side), (rear, side)]


def yz(x: float, y0: float, y1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
    return [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]


def xz(y: float, x0: float, x1: float, z0: float, z1: float) -> list[tuple[float, float, float]]:
    return [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)]
