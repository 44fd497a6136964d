"""People and cycles that worlds of some variety have besides those of `small_objects`; every shape fills its box.

Sizes are (width, length, height) in metres, as in nuScenes; people and cycles look along +x.
"""

from __future__ import annotations

import numpy as np

from .mesh import Color, Mesh, MeshBuilder, Paint, pick
from .small_objects import SHIRTS, SKIN, TROUSERS, add_head, add_rider
from .textures import Texture
from .vehicles import HEADLIGHT, RIM, TAILLIGHT, TYRE, Size

BAGS: tuple[Color, ...] = ((0.55, 0.12, 0.10), (0.15, 0.15, 0.17), (0.35, 0.25, 0.15), (0.15, 0.35, 0.5))
UMBRELLAS: tuple[Color, ...] = ((0.75, 0.10, 0.12), (0.10, 0.12, 0.15), (0.15, 0.30, 0.65), (0.9, 0.75, 0.2))
POLICE: Color = (0.08, 0.10, 0.25)
_BLACK, _STEEL = Paint((0.1, 0.1, 0.1)), Paint((0.6, 0.61, 0.63))


def make_person_with_bag(size: Size, rng: np.random.Generator) -> Mesh:
    """A person with a backpack or a bag in one hand."""
    width, _, height = size
    build = MeshBuilder()
    _add_person(build, size, rng)
    bag = Paint(pick(BAGS, rng), texture=Texture.CLOTH)
    if rng.random() < 0.5:
        build.box((-0.34, -0.17, 0.52 * height), (-0.12, 0.17, 0.8 * height), bag)
    else:
        build.box((-0.16, width / 2 - 0.14, 0.18 * height), (0.18, width / 2, 0.4 * height), bag)
    return build.build(fit=size)


def make_person_with_umbrella(size: Size, rng: np.random.Generator) -> Mesh:
    """A person under an open umbrella, which makes the box wide and tall."""
    width, length, height = size
    build = MeshBuilder()
    body = 0.82 * height
    _add_person(build, (min(0.6, width), min(0.6, length), body), rng)
    angles = np.arange(8) * (np.pi / 4)
    circle = np.column_stack([np.cos(angles) * length / 2, np.sin(angles) * width / 2])
    build.beam((0.14, 0.0, 0.5 * height), (0.14, 0.0, 0.97 * height), 0.03, 0.03, _STEEL)
    build.frustum(circle, circle * 0.08, 0.85 * height, height, Paint(pick(UMBRELLAS, rng)))
    return build.build(fit=size)


def make_child(size: Size, rng: np.random.Generator) -> Mesh:
    """A child: a large head and short legs."""
    build = MeshBuilder()
    _add_person(build, size, rng, hip=0.42)
    return build.build(fit=size)


def make_police_officer(size: Size, rng: np.random.Generator) -> Mesh:
    """An officer in dark blue with a peaked cap and a bright band across the chest."""
    width, _, height = size
    build = MeshBuilder()
    _add_person(build, size, rng, uniform=POLICE)
    build.box((-0.15, -0.14, height - 0.06), (0.2, 0.14, height), Paint(POLICE))
    build.box((-0.15, -width * 0.3, 0.66 * height), (0.15, width * 0.3, 0.7 * height), Paint((0.9, 0.95, 0.3)))
    return build.build(fit=size)


def make_wheelchair(size: Size, rng: np.random.Generator) -> Mesh:
    """A person in a wheelchair."""
    width, length, height = size
    side = width / 2
    build = MeshBuilder()
    for y in (-side + 0.03, side - 0.03):
        build.ring(-0.1, y, 0.3, 0.05, TYRE)
        build.beam((-0.15, y, 0.62), (0.25, y, 0.62), 0.05, 0.05, _STEEL)
        build.wheel(length / 2 - 0.1, y * 0.85, 0.09, 0.04, TYRE)
    build.box((-0.22, -side * 0.75, 0.45), (0.25, side * 0.75, 0.52), _BLACK)
    build.box((-0.3, -side * 0.75, 0.45), (-0.22, side * 0.75, 0.95), _BLACK)
    add_rider(build, (-0.1, 0.55), (0.22, 0.7), side, height, rng)
    build.box((0.3, -side * 0.6, 0.12), (length / 2, side * 0.6, 0.17), _STEEL)
    return build.build(fit=size)


def make_kick_scooter(size: Size, rng: np.random.Generator) -> Mesh:
    """A person standing on a kick scooter."""
    width, length, height = size
    half = length / 2
    build = MeshBuilder()
    for x in (-half + 0.12, half - 0.12):
        build.wheel(x, 0.0, 0.11, 0.06, TYRE)
    build.box((-half + 0.1, -0.09, 0.14), (half - 0.2, 0.09, 0.19), _BLACK)
    build.beam((half - 0.15, 0.0, 0.12), (half - 0.28, 0.0, 1.05), 0.05, 0.05, _STEEL)
    build.box((half - 0.32, -width / 2, 1.02), (half - 0.26, width / 2, 1.07), _BLACK)
    _add_person(build, (min(width, 0.6), 0.5, height), rng, lift=0.19)
    return build.build(fit=size)


def make_racing_bicycle(size: Size, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A bicycle with thin wheels and a low handlebar."""
    width, length, height = size
    half = length / 2
    tall = 1.0 if rider else height
    radius = 0.34 * tall
    frame = Paint(pick(((0.85, 0.1, 0.1), (0.1, 0.1, 0.12), (0.95, 0.95, 0.95), (0.1, 0.6, 0.65)), rng))
    build = MeshBuilder()
    front, rear = half - radius, -half + radius
    for x in (rear, front):
        build.ring(x, 0.0, radius, 0.04, TYRE)
    seat, handle, crank = (-0.2, 0.0, 0.97 * tall), (front - 0.1, 0.0, 0.88 * tall), (0.0, 0.0, radius)
    for bar in (
        ((rear, 0.0, radius), crank),
        (crank, seat),
        (seat, handle),
        (crank, handle),
        (handle, (front, 0.0, radius)),
    ):
        build.beam(*bar, 0.04, 0.04, frame)
    build.box((-0.34, -0.07, seat[2]), (-0.08, 0.07, tall), _BLACK)
    build.box((handle[0], -width / 2, handle[2] - 0.05), (handle[0] + 0.08, width / 2, handle[2]), _BLACK)
    if rider:
        add_rider(build, (seat[0], seat[2] + 0.02), (handle[0] + 0.04, handle[2]), width / 2, height, rng)
    return build.build(fit=size)


def make_cargo_bicycle(size: Size, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A bicycle with a box before the handlebar."""
    width, length, height = size
    half, side = length / 2, width / 2
    tall = 1.05 if rider else height
    build = MeshBuilder()
    frame = Paint(pick(((0.1, 0.3, 0.6), (0.1, 0.1, 0.1), (0.2, 0.5, 0.3)), rng))
    rear, front = -half + 0.3 * tall, half - 0.22
    build.ring(rear, 0.0, 0.3 * tall, 0.06, TYRE)
    build.ring(front, 0.0, 0.22, 0.06, TYRE)
    load = Paint(pick(((0.62, 0.45, 0.26), (0.85, 0.75, 0.2), (0.2, 0.2, 0.22)), rng), texture=Texture.BARK)
    box = ((0.1, -side * 0.9), (front - 0.1, -side * 0.9), (front - 0.1, side * 0.9), (0.1, side * 0.9))
    build.frustum([(0.9 * x, 0.8 * y) for x, y in box], box, 0.28, 0.62 * tall, load)
    seat, handle = (rear + 0.12, 0.0, 0.82 * tall), (rear + 0.62, 0.0, tall - 0.03)
    for start, end in (
        ((rear, 0.0, 0.3 * tall), seat),
        (seat, handle),
        (handle, (0.15, 0.0, 0.4)),
        (seat, (0.1, 0.0, 0.3)),
    ):
        build.beam(start, end, 0.06, 0.06, frame)
    build.box((handle[0] - 0.04, -side, tall - 0.05), (handle[0] + 0.04, side, tall), _BLACK)
    build.box((seat[0] - 0.12, -0.09, seat[2]), (seat[0] + 0.12, 0.09, seat[2] + 0.06), _BLACK)
    if rider:
        add_rider(build, (seat[0], seat[2] + 0.04), (handle[0], tall), side, height, rng)
    return build.build(fit=size)


def make_scooter(size: Size, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A motor scooter: small wheels, a flat floor, a leg shield."""
    width, length, height = size
    half, side = length / 2, width / 2
    tall = 1.12 if rider else height
    color = Paint(pick(((0.75, 0.85, 0.85), (0.8, 0.15, 0.15), (0.95, 0.9, 0.75), (0.15, 0.3, 0.3)), rng))
    build = MeshBuilder()
    front, rear = half - 0.22, -half + 0.24
    for x in (rear, front):
        build.wheel(x, 0.0, 0.21, 0.13, TYRE, RIM)
    build.extrude([(-half, 0.3), (0.0, 0.26), (0.05, 0.7), (-half + 0.08, 0.66)], 0.2, -0.2, color, color)
    build.box((-0.05, -0.2, 0.22), (front - 0.25, 0.2, 0.29), _BLACK)
    build.extrude(
        [(front - 0.28, 0.25), (front - 0.18, 0.25), (front - 0.3, 0.85 * tall), (front - 0.38, 0.85 * tall)],
        side * 0.65,
        -side * 0.65,
        color,
        color,
    )
    build.beam((front, 0.0, 0.21), (front - 0.3, 0.0, 0.85 * tall), 0.1, 0.1, color)
    build.box((front - 0.42, -side, 0.9 * tall), (front - 0.34, side, 0.94 * tall), _BLACK)
    build.box((front - 0.36, -0.1, 0.82 * tall), (front - 0.24, 0.1, tall), HEADLIGHT)
    build.box((-half + 0.02, -0.16, 0.68), (0.0, 0.16, 0.78), _BLACK)
    build.box((-half - 0.01, -0.09, 0.45), (-half + 0.05, 0.09, 0.55), TAILLIGHT)
    if rider:
        add_rider(build, (-0.3, 0.76), (front - 0.38, 0.92 * tall), side, height, rng)
    return build.build(fit=size)


def _add_person(
    build: MeshBuilder,
    size: Size,
    rng: np.random.Generator,
    *,
    hip: float = 0.48,
    lift: float = 0.0,
    uniform: Color | None = None,
) -> None:
    """A standing or walking person whose soles are `lift` metres above the ground; `hip` is a part of the height."""
    width, length, height = size
    side, stride = width / 2, length / 2 * rng.uniform(0.2, 0.7)
    shirt = Paint(uniform or pick(SHIRTS, rng), texture=Texture.CLOTH, period=0.8)
    trousers, skin = Paint(uniform or pick(TROUSERS, rng), texture=Texture.CLOTH), Paint(pick(SKIN, rng))
    waist, shoulder = lift + hip * (height - lift), height - 0.32
    for sign in (-1.0, 1.0):
        foot = sign * stride
        build.beam((0.0, sign * side * 0.3, waist), (foot, sign * side * 0.3, lift + 0.06), 0.14, 0.16, trousers)
        build.box(
            (foot - 0.1, sign * side * 0.3 - 0.05, lift), (foot + 0.14, sign * side * 0.3 + 0.05, lift + 0.09), _BLACK
        )
        hand = (-foot * 0.9, sign * (side - 0.06), waist)
        build.beam((0.0, sign * (side - 0.1), shoulder - 0.03), hand, 0.1, 0.11, shirt)
    chest = [(-0.13, -side * 0.65), (0.13, -side * 0.65), (0.13, side * 0.65), (-0.13, side * 0.65)]
    build.frustum([(0.9 * x, 0.8 * y) for x, y in chest], chest, waist - 0.05, shoulder, shirt)
    add_head(build, (0.02, 0.0, height), Paint(pick(((0.08, 0.06, 0.05), (0.3, 0.2, 0.1), (0.6, 0.5, 0.3)), rng)), skin)
