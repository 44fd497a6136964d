"""Vehicles that worlds of some variety have besides those of `vehicles`; every shape fills its annotation box.

Sizes are (width, length, height) in metres, as in nuScenes; the front of a vehicle looks along +x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .mesh import Color, Mesh, MeshBuilder, Paint, pick
from .textures import Texture
from .vehicles import (
    CAR_COLORS,
    CHASSIS,
    GLASS,
    GRILLE,
    HEADLIGHT,
    RIM,
    TAILLIGHT,
    TYRE,
    Size,
    add_axle,
    add_cab,
    add_lamps,
    add_tail,
    xz,
    yz,
)

TAXI_COLORS: tuple[Color, ...] = ((0.95, 0.78, 0.08), (0.93, 0.90, 0.78), (0.10, 0.45, 0.30))
MACHINE_COLORS: tuple[Color, ...] = ((0.93, 0.68, 0.06), (0.90, 0.55, 0.05), (0.85, 0.82, 0.75))
_SidesView = Sequence[tuple[float, float]]  # x from 0 (rear) to 1 (front), z from 0 (ground) to 1 (roof)

_SEDAN: _SidesView = ((0.05, 0.60), (0.21, 0.64), (0.33, 0.97), (0.56, 1.0), (0.72, 0.62), (0.97, 0.52))
_HATCHBACK: _SidesView = ((0.02, 0.58), (0.05, 0.62), (0.13, 0.97), (0.52, 1.0), (0.70, 0.62), (0.97, 0.52))
_SUV: _SidesView = ((0.01, 0.58), (0.03, 0.62), (0.08, 0.97), (0.58, 1.0), (0.70, 0.62), (0.98, 0.55))
_VAN: _SidesView = ((0.00, 0.55), (0.01, 0.58), (0.03, 0.98), (0.68, 1.0), (0.86, 0.60), (0.99, 0.46))


def make_sedan(size: Size, rng: np.random.Generator) -> Mesh:
    """A three-box saloon."""
    return _make_body(size, _SEDAN, Paint(pick(CAR_COLORS, rng)), clearance=0.13)


def make_hatchback(size: Size, rng: np.random.Generator) -> Mesh:
    """A short car with a steep tail."""
    return _make_body(size, _HATCHBACK, Paint(pick(CAR_COLORS, rng)), clearance=0.12)


def make_suv(size: Size, rng: np.random.Generator) -> Mesh:
    """A tall two-box car on large wheels."""
    return _make_body(size, _SUV, Paint(pick(CAR_COLORS, rng)), clearance=0.17, wheel=0.39)


def make_van(size: Size, rng: np.random.Generator) -> Mesh:
    """A people carrier or delivery van with a short bonnet."""
    return _make_body(size, _VAN, Paint(pick(CAR_COLORS, rng)), clearance=0.12, wheel=0.35)


def make_taxi(size: Size, rng: np.random.Generator) -> Mesh:
    """A saloon in a taxi's colours with a lit sign on its roof."""
    paint = Paint(pick(TAXI_COLORS, rng))
    width, length, height = size
    build = _body((width, length, 0.92 * height), _SEDAN, paint, clearance=0.13)
    sign = Paint((0.98, 0.95, 0.80), glow=0.7)
    build.box((-0.12, -0.3, 0.92 * height), (0.12, 0.3, height), sign)
    return build.build(fit=size)


def make_bendy_section(size: Size, rng: np.random.Generator) -> Mesh:
    """One section of an articulated bus, as nuScenes annotates them: glass along both sides, bellows at its rear."""
    width, length, height = size
    half, side = length / 2, width / 2
    lower = Paint(pick(((0.75, 0.12, 0.10), (0.12, 0.35, 0.62), (0.20, 0.50, 0.28)), rng))
    build = MeshBuilder()
    bellows = Paint((0.12, 0.12, 0.13), texture=Texture.TREADS, period=0.5)
    build.box((-half, -side * 0.9, 0.4), (-half + 0.5, side * 0.9, height - 0.2), bellows)
    build.box((-half + 0.5, -side, 0.32), (half, side, 1.2), lower)
    build.box((-half + 0.5, -side, 1.2), (half, side, height), Paint((0.92, 0.92, 0.9)))
    glass = Paint((0.9, 0.9, 0.9), (0.10, 0.13, 0.16), Texture.WINDOW_ROW, 5.6, fitted=True)
    for y in (side + 0.01, -side - 0.01):
        build.panel(xz(y, -half + 0.7, half - 0.25, 1.3, height - 0.7), glass)
    build.panel(yz(half + 0.01, -side * 0.95, side * 0.95, 0.95, height - 0.5), GLASS)
    for x in (half * 0.5, -half * 0.5):
        add_axle(build, x, side, 0.48, 0.3)
    add_lamps(build, half, side, 0.55, 0.85, 0.4)
    return build.build(fit=size)


def make_flatbed(size: Size, rng: np.random.Generator) -> Mesh:
    """A truck with an open deck and crates of several heights on it."""
    width, length, height = size
    half, side = length / 2, width / 2
    build, bed = _truck(size, rng)
    build.box((bed[0], -side, 0.95), (bed[1], side, 1.15), Paint((0.45, 0.33, 0.22), texture=Texture.BARK, period=1.0))
    edges = np.linspace(bed[0] + 0.1, bed[1] - 0.1, 4)
    for start, end, level in zip(edges[:-1], edges[1:], rng.permutation([0.6, 0.8, 1.0]), strict=True):
        crate = Paint(pick(((0.55, 0.42, 0.26), (0.3, 0.4, 0.5), (0.6, 0.6, 0.58)), rng), texture=Texture.RIBS)
        build.box((start, -side * 0.85, 1.15), (end - 0.15, side * 0.85, 1.15 + level * (height - 1.15)), crate)
    build.box((-half, -side, 0.8), (-half + 0.08, side, 1.15), CHASSIS)
    return build.build(fit=size)


def make_tanker(size: Size, rng: np.random.Generator) -> Mesh:
    """A truck with a lying octagonal tank."""
    width, _, height = size
    side = width / 2
    build, bed = _truck(size, rng)
    paint = Paint(pick(((0.85, 0.86, 0.88), (0.75, 0.15, 0.12), (0.2, 0.35, 0.6)), rng))
    angles = np.arange(8) * (np.pi / 4) + np.pi / 8
    middle, rise = (0.95 + height) / 2, (height - 0.95) / 2
    circle = np.column_stack([side * np.cos(angles), middle + rise * np.sin(angles)])
    rear, front = (np.insert(circle, 0, x, axis=1) for x in (bed[0] + 0.1, bed[1]))
    skin = [np.stack([rear[i], rear[i - 1], front[i - 1], front[i]]) for i in range(8)]
    build.solid([rear, front, *skin], [paint] * 10)
    return build.build(fit=size)


def make_crane(size: Size, rng: np.random.Generator) -> Mesh:
    """A mobile crane, its boom laid down over the cab."""
    width, length, height = size
    half, side = length / 2, width / 2
    yellow, boom = Paint(pick(MACHINE_COLORS, rng)), 0.86 * height
    build = MeshBuilder()
    build.box((-half, -side, 0.6), (half, side, 1.25), yellow)
    build.box((half * 0.45, -side, 1.25), (half * 0.95, side * 0.1, 0.78 * height), GLASS, top=yellow)
    build.box((-half * 0.75, -side * 0.8, 1.25), (-half * 0.1, side * 0.8, 0.8 * height), yellow)
    build.beam((-half * 0.9, side * 0.5, boom), (half, side * 0.5, boom), 0.5, 0.45, yellow)
    build.box((-half * 0.4, side * 0.3, boom), (-half * 0.2, side * 0.7, height), CHASSIS)
    for x in (-0.66 * half, -0.3 * half, 0.4 * half, 0.7 * half):
        add_axle(build, x, side, 0.55, 0.4)
    add_tail(build, half, side, 0.7, 0.9)
    return build.build(fit=size)


def make_roller(size: Size, rng: np.random.Generator) -> Mesh:
    """A road roller: a steel drum in front, a cab with a roof, wheels behind."""
    width, length, height = size
    half, side = length / 2, width / 2
    yellow, steel = Paint(pick(MACHINE_COLORS, rng)), Paint((0.5, 0.5, 0.52))
    drum = 0.24 * length
    build = MeshBuilder()
    build.wheel(half - drum, 0.0, drum, width * 0.9, steel)
    build.box((half - 2 * drum, -side, drum * 0.9), (half - drum * 0.6, side, drum * 1.25), yellow)
    build.box((-half, -side * 0.75, 0.5), (half - 2 * drum, side * 0.75, 0.5 * height), yellow)
    build.box((-half * 0.4, -side * 0.6, 0.5 * height), (half * 0.1, side * 0.6, 0.9 * height), GLASS)
    build.box((-half * 0.55, -side * 0.8, 0.93 * height), (half * 0.2, side * 0.8, height), yellow)
    for y in (-side + 0.25, side - 0.25):
        build.wheel(-half * 0.62, y, 0.55, 0.5, TYRE, RIM)
    return build.build(fit=size)


def _make_body(size: Size, outline: _SidesView, paint: Paint, clearance: float, wheel: float = 0.34) -> Mesh:
    return _body(size, outline, paint, clearance, wheel).build(fit=size)


def _body(size: Size, outline: _SidesView, paint: Paint, clearance: float, wheel: float = 0.34) -> MeshBuilder:
    """A car from its side view: painted up to the belt, glass between belt and roof, narrower towards the roof."""
    width, length, height = size
    half, side = length / 2, width / 2
    belt, floor = 0.62 * height, clearance * height
    x = [-half + length * part for part, _ in outline]
    tail, rear_foot, roof_rear, roof_front, front_foot, nose = x
    levels = [height * part for _, part in outline]
    build = MeshBuilder()
    hull = [(-half, floor), (half, floor), (half, 0.8 * levels[5]), (nose, levels[5]), (front_foot, belt)]
    build.extrude([*hull, (tail, belt), (-half, 0.9 * belt)], side, -side, paint, paint)
    foot = [(rear_foot, -side * 0.96), (front_foot, -side * 0.96), (front_foot, side * 0.96), (rear_foot, side * 0.96)]
    top = [(roof_rear, -side * 0.8), (roof_front, -side * 0.8), (roof_front, side * 0.8), (roof_rear, side * 0.8)]
    build.frustum(foot, top, belt, height - 0.05, GLASS)
    build.box((roof_rear, -side * 0.8, height - 0.07), (roof_front, side * 0.8, height), paint)
    pillars = (0.5 * (roof_rear + roof_front), roof_rear + 0.08 * length)
    for sign in (-1.0, 1.0):
        for pillar in pillars:
            build.beam(
                (pillar, sign * side * 0.965, belt), (pillar, sign * side * 0.81, height - 0.05), 0.02, 0.1, paint
            )
    for axle in (-0.30 * length, 0.31 * length):
        add_axle(build, axle, side, min(wheel, 0.24 * height), 0.22)
    add_lamps(build, half, side, belt * 0.58, belt * 0.74, 0.2 * width)
    build.panel(yz(half + 0.01, -side * 0.5, side * 0.5, belt * 0.36, belt * 0.56), GRILLE)
    build.panel(yz(-half - 0.01, -0.26, 0.26, belt * 0.4, belt * 0.54), Paint((0.92, 0.92, 0.88)))
    return build


def _truck(size: Size, rng: np.random.Generator) -> tuple[MeshBuilder, tuple[float, float]]:
    """A truck's cab, frame and wheels, and the rear and front end of what may stand on the frame."""
    width, length, height = size
    half, side = length / 2, width / 2
    cab_length = min(2.1, 0.3 * length)
    build = MeshBuilder()
    color = pick(((0.85, 0.85, 0.84), (0.65, 0.10, 0.08), (0.12, 0.25, 0.52), (0.15, 0.4, 0.3)), rng)
    add_cab(build, (half - cab_length, half), side * 0.97, min(height, rng.uniform(2.4, 2.9)), Paint(color))
    build.box((-half, -side * 0.45, 0.5), (half - 0.3, side * 0.45, 0.95), CHASSIS)
    for x in (half - 0.75 * cab_length, -half + 0.16 * length, -half + 0.16 * length + 1.15):
        add_axle(build, x, side, 0.5, 0.32)
    for y in (-side * 0.8, side * 0.8):
        build.panel(yz(-half - 0.012, y - 0.15, y + 0.15, 0.7, 0.9), TAILLIGHT)
        build.panel(yz(half + 0.03, y - 0.18, y + 0.18, 0.55, 0.62), HEADLIGHT)
    return build, (-half, half - cab_length - 0.15)
