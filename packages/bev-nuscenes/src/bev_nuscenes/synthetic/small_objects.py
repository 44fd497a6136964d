"""Shapes of pedestrians, bicycles, motorcycles, traffic cones and barriers; every shape fills its annotation box.

Sizes are (width, length, height) in metres, as in nuScenes; people and cycles look along +x, a barrier's long side
is its width.
"""

from __future__ import annotations

import numpy as np

from .mesh import Color, Mesh, MeshBuilder, Paint, pick
from .textures import Texture
from .vehicles import HEADLIGHT, RIM, TAILLIGHT, TYRE, Size

SKIN: tuple[Color, ...] = ((0.87, 0.68, 0.55), (0.72, 0.52, 0.38), (0.45, 0.30, 0.22), (0.92, 0.76, 0.64))
HAIR: tuple[Color, ...] = ((0.08, 0.06, 0.05), (0.25, 0.16, 0.08), (0.55, 0.45, 0.3), (0.6, 0.6, 0.6))
SHIRTS: tuple[Color, ...] = (
    (0.85, 0.85, 0.83),
    (0.65, 0.12, 0.12),
    (0.15, 0.25, 0.55),
    (0.12, 0.12, 0.14),
    (0.25, 0.5, 0.3),
    (0.8, 0.65, 0.2),
    (0.5, 0.3, 0.5),
    (0.35, 0.55, 0.7),
)
TROUSERS: tuple[Color, ...] = (
    (0.12, 0.14, 0.25),
    (0.1, 0.1, 0.1),
    (0.35, 0.32, 0.28),
    (0.25, 0.27, 0.3),
    (0.5, 0.45, 0.38),
)
VEST: Color = (0.95, 0.55, 0.05)
HELMET: Color = (0.95, 0.85, 0.1)


def make_pedestrian(size: Size, rng: np.random.Generator, *, worker: bool = False) -> Mesh:
    """A person in mid-stride; a construction worker wears an orange vest and a yellow helmet."""
    width, length, height = size
    half, side = length / 2, width / 2
    shirt = Paint(VEST if worker else pick(SHIRTS, rng), (0.95, 0.95, 0.8) if worker else None, Texture.CLOTH, 0.8)
    trousers, skin = Paint(pick(TROUSERS, rng), texture=Texture.CLOTH, period=0.8), Paint(pick(SKIN, rng))
    hip, shoulder = 0.48 * height, 0.82 * height
    build = MeshBuilder()
    stride = half * rng.uniform(0.45, 0.75)
    for sign in (-1.0, 1.0):
        foot, y = sign * stride, sign * side * 0.32
        build.beam((0.0, y, hip), (foot, y, 0.06), 0.15, 0.17, trousers)
        build.box((foot - 0.1, y - 0.06, 0.0), (min(foot + 0.17, half), y + 0.06, 0.09), Paint((0.08, 0.07, 0.07)))
        hand = (-foot * 1.05, sign * (side - 0.06), hip - 0.02)
        build.beam((0.0, sign * (side - 0.09), shoulder - 0.03), hand, 0.11, 0.12, shirt)
        build.blob(hand, (0.06, 0.05, 0.07), skin)
    chest = [(-0.13, -side * 0.68), (0.13, -side * 0.68), (0.13, side * 0.68), (-0.13, side * 0.68)]
    waist = [(x * 0.9, y * 0.8) for x, y in chest]
    build.frustum(waist, chest, hip - 0.05, shoulder, shirt)
    add_head(build, (0.02, 0.0, height), Paint(HELMET if worker else pick(HAIR, rng)), skin)
    return build.build(fit=size)


def make_bicycle(size: Size, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A bicycle with open wheels; its rider sits upright, so the box is taller."""
    width, length, height = size
    half, side = length / 2, width / 2
    frame_height = 1.05 if rider else height
    radius = 0.31 * frame_height
    frame = Paint(pick(((0.7, 0.1, 0.1), (0.1, 0.3, 0.6), (0.1, 0.1, 0.1), (0.85, 0.85, 0.85), (0.2, 0.55, 0.3)), rng))
    build = MeshBuilder()
    front, rear = half - radius, -half + radius
    for x in (rear, front):
        build.ring(x, 0.0, radius, 0.07, TYRE)
    seat, handle = (-0.18, 0.0, 0.86 * frame_height), (front - 0.12, 0.0, frame_height - 0.02)
    crank = (-0.02, 0.0, radius)
    for start, end in (
        ((rear, 0.0, radius), crank),
        (crank, seat),
        (seat, handle),
        (crank, handle),
        (handle, (front, 0.0, radius)),
    ):
        build.beam(start, end, 0.06, 0.06, frame)
    build.box((-0.32, -0.08, seat[2]), (-0.06, 0.08, seat[2] + 0.06), Paint((0.1, 0.1, 0.1)))
    build.box((front - 0.16, -side, frame_height - 0.05), (front - 0.08, side, frame_height), Paint((0.1, 0.1, 0.1)))
    if rider:
        add_rider(build, (seat[0], seat[2] + 0.05), (front - 0.14, frame_height), side, height, rng)
    return build.build(fit=size)


def make_motorcycle(size: Size, rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A motorcycle or scooter: fat wheels, a coloured body, a lamp in front."""
    width, length, height = size
    half, side = length / 2, width / 2
    tall = 1.15 if rider else height
    radius = 0.29
    color = Paint(
        pick(((0.7, 0.08, 0.08), (0.1, 0.1, 0.12), (0.12, 0.25, 0.6), (0.85, 0.85, 0.85), (0.9, 0.5, 0.05)), rng)
    )
    build = MeshBuilder()
    front, rear = half - radius, -half + radius
    for x in (rear, front):
        build.wheel(x, 0.0, radius, 0.17, TYRE, RIM)
    build.extrude([(rear, 0.35), (0.3, 0.28), (0.45, 0.8), (-0.1, 0.72), (rear - 0.1, 0.8)], 0.17, -0.17, color, color)
    build.box((rear - 0.1, -0.15, 0.74), (0.05, 0.15, 0.84), Paint((0.1, 0.1, 0.1)))
    build.beam((front, 0.0, radius), (front - 0.35, 0.0, 0.92 * tall), 0.22, 0.12, color)
    build.box((front - 0.42, -side, 0.9 * tall), (front - 0.32, side, 0.95 * tall), Paint((0.1, 0.1, 0.1)))
    build.box((front - 0.3, -0.14, 0.72 * tall), (front - 0.12, 0.14, 0.9 * tall), HEADLIGHT)
    build.box((front - 0.36, -0.2, 0.88 * tall), (front - 0.3, 0.2, tall), Paint((0.4, 0.45, 0.5)))
    build.box((-half, -0.1, 0.6), (-half + 0.08, 0.1, 0.74), TAILLIGHT)
    if rider:
        add_rider(build, (-0.25, 0.82), (front - 0.38, 0.95 * tall), side, height, rng)
    return build.build(fit=size)


def make_traffic_cone(size: Size, rng: np.random.Generator) -> Mesh:
    """An orange cone with white bands on a dark foot."""
    width, length, height = size
    orange = Paint(pick(((0.95, 0.36, 0.05), (0.92, 0.28, 0.06), (0.98, 0.45, 0.08)), rng))
    white = Paint((0.95, 0.95, 0.93))
    build = MeshBuilder()
    build.box((-length / 2, -width / 2, 0.0), (length / 2, width / 2, 0.05), Paint((0.12, 0.12, 0.12)))
    angles = np.arange(6) * (np.pi / 3)
    circle = np.column_stack([np.cos(angles), np.sin(angles)])
    base, tip = 0.42 * min(width, length), 0.05
    levels = np.array([0.05, 0.38, 0.56, 0.72, 0.84, 1.0])
    for low, high, paint in zip(levels[:-1], levels[1:], (orange, white, orange, white, orange), strict=True):
        low_radius, high_radius = (base + (tip - base) * level for level in (low, high))
        bottom = low * height if low > 0.05 else 0.05
        build.frustum(circle * low_radius, circle * high_radius, bottom, high * height, paint)
    return build.build(fit=size)


def make_barrier(size: Size, rng: np.random.Generator) -> Mesh:
    """A striped board on feet, or a water-filled barrier; the long side lies along y."""
    width, length, height = size
    half, side = length / 2, width / 2
    build = MeshBuilder()
    if rng.random() < 0.6:
        board = Paint((0.92, 0.92, 0.90), (0.82, 0.10, 0.08), Texture.STRIPES, 0.55)
        build.box((-0.05, -side, 0.55 * height), (0.05, side, height), board)
        build.box((-0.05, -side, 0.22 * height), (0.05, side, 0.42 * height), board)
        for y in (-side * 0.8, side * 0.8):
            build.box((-half, y - 0.06, 0.0), (half, y + 0.06, 0.1), Paint((0.15, 0.15, 0.15)))
            build.box((-0.04, y - 0.04, 0.1), (0.04, y + 0.04, height * 0.95), Paint((0.5, 0.5, 0.5)))
    else:
        color = pick(((0.88, 0.15, 0.08), (0.92, 0.92, 0.9), (0.93, 0.4, 0.06)), rng)
        profile = [(-half, 0.0), (half, 0.0), (half, 0.2 * height), (half * 0.4, 0.6 * height), (half * 0.35, height)]
        profile += [(-half * 0.35, height), (-half * 0.4, 0.6 * height), (-half, 0.2 * height)]
        build.extrude(profile, side, -side, Paint(color), Paint(color, (0.95, 0.95, 0.93), Texture.STRIPES, 1.2))
    return build.build(fit=size)


def add_rider(
    build: MeshBuilder,
    seat: tuple[float, float],
    grip: tuple[float, float],
    side: float,
    height: float,
    rng: np.random.Generator,
) -> None:
    """A seated person; `seat` and `grip` are (x, z) of saddle and handlebar."""
    shirt, trousers = (
        Paint(pick(SHIRTS, rng), texture=Texture.CLOTH),
        Paint(pick(TROUSERS, rng), texture=Texture.CLOTH),
    )
    skin = Paint(pick(SKIN, rng))
    helmet = Paint(pick(((0.9, 0.9, 0.9), (0.1, 0.1, 0.1), (0.8, 0.1, 0.1), (0.1, 0.3, 0.7)), rng))
    (seat_x, seat_z), (grip_x, grip_z) = seat, grip
    shoulder = (seat_x + 0.22, 0.0, height - 0.33)
    build.beam((seat_x, 0.0, seat_z), shoulder, 0.4, 0.24, shirt)
    for sign in (-1.0, 1.0):
        arm_y = sign * min(0.22, side - 0.05)
        build.beam((shoulder[0], arm_y, shoulder[2] - 0.04), (grip_x, arm_y, grip_z), 0.1, 0.1, shirt)
        knee = (seat_x + 0.42, sign * 0.14, seat_z - 0.08)
        build.beam((seat_x, sign * 0.12, seat_z), knee, 0.15, 0.15, trousers)
        build.beam(knee, (seat_x + 0.28, sign * 0.13, max(0.16, seat_z - 0.52)), 0.13, 0.13, trousers)
    add_head(build, (shoulder[0] + 0.06, 0.0, height), helmet, skin)


def add_head(build: MeshBuilder, crown: tuple[float, float, float], hair: Paint, skin: Paint) -> None:
    """A head whose top is at `crown`, the face towards +x."""
    x, y, top = crown
    build.box((x - 0.06, y - 0.06, top - 0.32), (x + 0.06, y + 0.06, top - 0.2), skin)
    build.blob((x, y, top - 0.13), (0.11, 0.095, 0.13), hair)
    build.box((x + 0.02, y - 0.075, top - 0.24), (x + 0.115, y + 0.075, top - 0.08), skin)
