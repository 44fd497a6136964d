"""Shapes beside the road that nobody annotates: buildings, trees, hedges, lamp posts and signs."""

from __future__ import annotations

import numpy as np

from .mesh import Color, Mesh, MeshBuilder, Paint, pick
from .textures import Texture

WALLS: tuple[Color, ...] = (
    (0.72, 0.68, 0.62),
    (0.62, 0.36, 0.28),
    (0.80, 0.78, 0.74),
    (0.55, 0.56, 0.58),
    (0.70, 0.58, 0.42),
    (0.48, 0.52, 0.56),
    (0.75, 0.66, 0.60),
)
WINDOWS: tuple[Color, ...] = ((0.16, 0.20, 0.26), (0.22, 0.28, 0.34), (0.12, 0.14, 0.17))
LEAVES: tuple[tuple[Color, Color], ...] = (
    ((0.10, 0.22, 0.07), (0.30, 0.44, 0.14)),
    ((0.13, 0.26, 0.10), (0.36, 0.48, 0.18)),
    ((0.16, 0.24, 0.06), (0.44, 0.46, 0.14)),
)


def make_building(width: float, depth: float, height: float, rng: np.random.Generator) -> Mesh:
    """A building whose front is the face at +x; `width` is along y. Floors are 3 to 3.6 m high."""
    wall, window = pick(WALLS, rng), pick(WINDOWS, rng)
    texture = (Texture.FACADE, Texture.BANDS, Texture.FACADE)[rng.integers(3)]
    front = Paint(wall, window, texture, period=rng.uniform(6.0, 7.2))
    half, side = depth / 2, width / 2
    plinth = Paint(_shade(wall, 0.6), (0.75, 0.72, 0.68), Texture.BRICK, 1.6)
    build = MeshBuilder()
    build.box((-half, -side, 0.8), (half, side, height), front, top=Paint((0.45, 0.44, 0.43)))
    build.box((-half, -side - 0.06, 0.0), (half + 0.06, side + 0.06, 0.8), plinth)
    build.box((-half, -side - 0.2, height), (half + 0.2, side + 0.2, height + 0.6), Paint(_shade(wall, 0.85)))
    if rng.random() < 0.6:  # a shop: glass and an awning
        start = rng.uniform(-side * 0.9, 0.0)
        end = start + min(rng.uniform(4.0, 8.0), side * 0.9)
        glass = Paint((0.85, 0.84, 0.8), (0.14, 0.17, 0.2), Texture.WINDOW_ROW, fitted=True)
        build.panel(
            [(half + 0.07, start, 0.4), (half + 0.07, end, 0.4), (half + 0.07, end, 2.7), (half + 0.07, start, 2.7)],
            glass,
        )
        awning = Paint(pick(((0.7, 0.15, 0.12), (0.15, 0.4, 0.3), (0.15, 0.25, 0.5), (0.85, 0.7, 0.3)), rng))
        build.panel(
            [(half + 0.05, start, 3.2), (half + 0.05, end, 3.2), (half + 1.2, end, 2.75), (half + 1.2, start, 2.75)],
            awning,
        )
    door = rng.uniform(0.2, 0.7) * side
    frame = [
        (half + 0.08, door, 0.0),
        (half + 0.08, door + 1.2, 0.0),
        (half + 0.08, door + 1.2, 2.3),
        (half + 0.08, door, 2.3),
    ]
    build.panel(frame, Paint((0.25, 0.16, 0.10)))
    return build.build()


def make_tree(height: float, rng: np.random.Generator) -> Mesh:
    """A trunk under three irregular clumps of leaves."""
    dark, bright = LEAVES[rng.integers(len(LEAVES))]
    leaves = Paint(dark, bright, Texture.LEAVES, period=2.2)
    crown_bottom = height * rng.uniform(0.28, 0.4)
    build = MeshBuilder()
    build.beam(
        (0.0, 0.0, 0.0),
        (0.0, 0.0, crown_bottom + 0.8),
        0.3,
        0.3,
        Paint((0.30, 0.23, 0.17), texture=Texture.BARK, period=1.2),
    )
    spread = (height - crown_bottom) * rng.uniform(0.36, 0.5)
    for _ in range(3):
        offset = rng.uniform(-0.4, 0.4, 2) * spread
        lift = rng.uniform(0.35, 0.65)
        radius = spread * rng.uniform(0.65, 0.9)
        middle = (offset[0], offset[1], crown_bottom + lift * (height - crown_bottom))
        vertical = min(radius, 0.5 * (height - crown_bottom))
        build.blob(middle, (radius, radius, vertical), leaves, rng.uniform(0.8, 1.2, (3, 6)))
    return build.build()


def make_hedge(length: float, height: float, rng: np.random.Generator) -> Mesh:
    """A clipped hedge, `length` along x."""
    dark, bright = LEAVES[rng.integers(len(LEAVES))]
    build = MeshBuilder()
    build.box((-length / 2, -0.45, 0.0), (length / 2, 0.45, height), Paint(dark, bright, Texture.LEAVES, period=1.6))
    return build.build()


def make_bush(radius: float, rng: np.random.Generator) -> Mesh:
    """A round bush."""
    dark, bright = LEAVES[rng.integers(len(LEAVES))]
    build = MeshBuilder()
    wobble = rng.uniform(0.8, 1.15, (3, 6))
    build.blob(
        (0.0, 0.0, 0.55 * radius), (radius, radius, 0.8 * radius), Paint(dark, bright, Texture.LEAVES, 1.4), wobble
    )
    return build.build()


def make_lamp_post(*, lit: bool = False) -> Mesh:
    """A street lamp of 7 m whose arm reaches along +x."""
    steel = Paint((0.42, 0.44, 0.45))
    lamp = Paint((1.0, 0.93, 0.75), glow=1.0) if lit else Paint((0.85, 0.85, 0.8))
    build = MeshBuilder()
    build.beam((0.0, 0.0, 0.0), (0.0, 0.0, 7.0), 0.16, 0.16, steel)
    build.beam((0.0, 0.0, 6.9), (1.8, 0.0, 7.1), 0.09, 0.09, steel)
    build.box((1.2, -0.13, 6.98), (1.9, 0.13, 7.1), lamp)
    return build.build()


def make_sign(rng: np.random.Generator) -> Mesh:
    """A traffic sign on a pole, facing +x."""
    build = MeshBuilder()
    build.beam((0.0, 0.0, 0.0), (0.0, 0.0, 2.9), 0.07, 0.07, Paint((0.5, 0.5, 0.52)))
    angles = np.arange(8) * (np.pi / 4) + np.pi / 8
    disc = np.column_stack([np.full(8, 0.06), 0.32 * np.cos(angles), 2.6 + 0.32 * np.sin(angles)])
    rim = pick(((0.8, 0.08, 0.08), (0.1, 0.25, 0.65), (0.9, 0.75, 0.1)), rng)
    build.panel(disc, Paint(rim))
    build.panel(disc * (1.0, 0.65, 0.65) + (0.012, 0.0, 2.6 * 0.35), Paint((0.93, 0.93, 0.93)))
    return build.build()


def make_traffic_light() -> Mesh:
    """A traffic light on a pole, facing +x; the last three faces are its lamps, red, amber and green."""
    black = Paint((0.07, 0.08, 0.08))
    build = MeshBuilder()
    build.beam((0.0, 0.0, 0.0), (0.0, 0.0, 3.6), 0.12, 0.12, Paint((0.45, 0.46, 0.47)))
    build.box((-0.1, -0.17, 2.55), (0.12, 0.17, 3.55), black)
    angles = np.arange(8) * (np.pi / 4) + np.pi / 8
    for height, color in ((3.36, (1.0, 0.08, 0.05)), (3.05, (1.0, 0.72, 0.08)), (2.74, (0.15, 1.0, 0.45))):
        disc = np.column_stack([np.full(8, 0.13), 0.12 * np.cos(angles), height + 0.12 * np.sin(angles)])
        build.panel(disc, Paint(color))
    return build.build()


def _shade(color: Color, factor: float) -> Color:
    red, green, blue = color
    return factor * red, factor * green, factor * blue
