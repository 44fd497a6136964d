"""Meshes of convex polygons, and the few shapes everything in the world is assembled from.

An object's frame is x forward, y left, z up with the origin on the ground under its middle; metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import ArrayLike

from .textures import Texture

MAX_CORNERS = 8  # a wheel is an octagon
BOX_MARGIN = 0.03  # metres

Color = tuple[float, float, float]  # red, green, blue in [0, 1]
Point = tuple[float, float, float]  # x, y, z in metres
Outline = Sequence[tuple[float, float]] | np.ndarray  # (n, 2) metres


@dataclass(frozen=True)
class Paint:
    """How a face looks: two colours blended by a texture that repeats every `period` metres."""

    color: Color
    second: Color | None = None
    texture: Texture = Texture.PLAIN
    period: float = 2.0
    fitted: bool = False  # stretch the texture once over the face instead of repeating it
    glow: float = 0.0  # part of the colour that light does not change: lamps


@dataclass(frozen=True)
class Mesh:
    """F convex polygons. Corners run counter-clockwise seen from outside; spare corners repeat the last one."""

    corners: np.ndarray  # (F, MAX_CORNERS, 3) metres
    normals: np.ndarray  # (F, 3) unit, outward
    origins: np.ndarray  # (F, 3) metres, where the texture begins
    u_axes: np.ndarray  # (F, 3) texture repeats per metre
    v_axes: np.ndarray  # (F, 3) texture repeats per metre
    colors: np.ndarray  # (F, 2, 3)
    textures: np.ndarray  # (F,) int32
    glow: np.ndarray  # (F,)
    two_sided: np.ndarray  # (F,) bool

    def __len__(self) -> int:
        return len(self.corners)


def join_meshes(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh with the faces of all, in order."""
    return Mesh(**{f.name: np.concatenate([getattr(mesh, f.name) for mesh in meshes]) for f in fields(Mesh)})


def pick(options: Sequence[Color], rng: np.random.Generator) -> Color:
    """One of the colours."""
    return options[rng.integers(len(options))]


@dataclass
class MeshBuilder:
    """Collects faces; `build` makes the mesh."""

    _faces: list[np.ndarray] = field(default_factory=list)
    _paints: list[Paint] = field(default_factory=list)
    _middles: list[np.ndarray | None] = field(default_factory=list)  # of the body a face belongs to; None: two-sided

    def panel(self, corners: ArrayLike, paint: Paint) -> None:
        """A flat convex polygon (n, 3) that is seen from both sides."""
        self._add(np.asarray(corners, dtype=np.float64), paint, None)

    def solid(self, faces: Sequence[np.ndarray], paints: Sequence[Paint]) -> None:
        """A convex body from its faces, each (n, 3) in either sense of rotation; `build` turns them outward."""
        middle = np.concatenate(faces).mean(axis=0)
        for face, paint in zip(faces, paints, strict=True):
            self._add(face, paint, middle)

    def box(self, lower: Point, upper: Point, paint: Paint, top: Paint | None = None) -> None:
        """An upright box between two corners, the top painted otherwise if wanted."""
        (x0, y0, z0), (x1, y1, z1) = lower, upper
        base = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        self.frustum(base, base, z0, z1, paint, top=top)

    def frustum(
        self, base: Outline, cap: Outline, bottom: float, top_z: float, paint: Paint, top: Paint | None = None
    ) -> None:
        """A body between a polygon (n, 2) at height `bottom` and another of as many corners at `top_z`."""
        low = np.column_stack([np.asarray(base, dtype=np.float64), np.full(len(base), bottom)])
        high = np.column_stack([np.asarray(cap, dtype=np.float64), np.full(len(cap), top_z)])
        sides = [
            np.stack([low[i], low[j], high[j], high[i]])
            for i, j in zip(range(len(low)), [*range(1, len(low)), 0], strict=True)
        ]
        self.solid([low, high, *sides], [paint, top or paint] + [paint] * len(sides))

    def extrude(
        self, profile: ArrayLike, left: float, right: float, sides: Paint, strips: Sequence[Paint] | Paint
    ) -> None:
        """A body with the convex side view `profile` (n, 2) in x and z, between y = right and y = left.

        `strips[i]` paints the strip from profile corner i to i + 1.
        """
        outline = np.asarray(profile, dtype=np.float64)
        near, far = (np.insert(outline, 1, y, axis=1) for y in (right, left))
        following = np.roll(np.arange(len(outline)), -1)
        strip_faces = [np.stack([near[i], near[j], far[j], far[i]]) for i, j in enumerate(following)]
        paints = [strips] * len(outline) if isinstance(strips, Paint) else list(strips)
        self.solid([near, far, *strip_faces], [sides, sides, *paints])

    def wheel(self, x: float, y: float, radius: float, width: float, tyre: Paint, rim: Paint | None = None) -> None:
        """An octagonal wheel standing on the ground at x, its middle at y, with a rim on both faces."""
        angles = np.arange(8) * (np.pi / 4) + np.pi / 8
        circle = np.column_stack([np.cos(angles), np.sin(angles)])
        lift = np.cos(np.pi / 8)  # puts an edge of the octagon on the ground
        self.extrude(circle * radius + (x, radius * lift), y + width / 2, y - width / 2, tyre, tyre)
        if rim is not None:
            hub = circle * (0.6 * radius) + (x, radius * lift)
            for side in (y - width / 2 - 0.01, y + width / 2 + 0.01):
                self.panel(np.insert(hub, 1, side, axis=1), rim)

    def ring(self, x: float, y: float, radius: float, thickness: float, paint: Paint) -> None:
        """An open wheel, as a bicycle has: eight flat segments in the plane of y."""
        angles = np.arange(9) * (np.pi / 4) + np.pi / 8
        outer = np.column_stack([np.cos(angles) * radius + x, np.full(9, y), np.sin(angles) * radius + radius])
        inner_radius = radius - thickness
        inner = np.column_stack(
            [np.cos(angles) * inner_radius + x, np.full(9, y), np.sin(angles) * inner_radius + radius]
        )
        for i in range(8):
            self.panel(np.stack([outer[i], outer[i + 1], inner[i + 1], inner[i]]), paint)

    def beam(self, start: ArrayLike, end: ArrayLike, width: float, depth: float, paint: Paint) -> None:
        """A bar of square section from one point to another, `width` along y and `depth` across."""
        first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
        along = (last - first) / np.linalg.norm(last - first)
        sideways = np.cross(along, (0.0, 0.0, 1.0) if abs(along[2]) < 0.95 else (1.0, 0.0, 0.0))
        sideways *= width / 2 / np.linalg.norm(sideways)
        upward = np.cross(sideways, along)
        upward *= depth / 2 / np.linalg.norm(upward)
        section = np.stack([-sideways - upward, sideways - upward, sideways + upward, -sideways + upward])
        ends = [first + section, last + section]
        sides = [np.stack([ends[0][i], ends[0][i - 1], ends[1][i - 1], ends[1][i]]) for i in range(4)]
        self.solid([*ends, *sides], [paint] * 6)

    def blob(self, center: ArrayLike, radii: Point, paint: Paint, wobble: np.ndarray | None = None) -> None:
        """A rounded body of three rings of six corners; `wobble` (3, 6) scales each corner's distance."""
        latitudes, longitudes = np.radians([[-50.0], [0.0], [50.0]]), np.arange(6) * (np.pi / 3)
        level = np.cos(latitudes)
        unit = np.stack([level * np.cos(longitudes), level * np.sin(longitudes), np.sin(latitudes).repeat(6, 1)], -1)
        scale = np.ones((3, 6)) if wobble is None else wobble
        rings = unit * np.asarray(radii) * scale[..., None] + np.asarray(center)
        bottom, top = (np.add(center, (0.0, 0.0, sign * radii[2])) for sign in (-1.0, 1.0))
        faces = []
        for i, j in zip(range(6), [1, 2, 3, 4, 5, 0], strict=True):
            faces += [np.stack([bottom, rings[0, i], rings[0, j]]), np.stack([top, rings[2, i], rings[2, j]])]
            for low in range(2):
                corners = rings[low, i], rings[low, j], rings[low + 1, j], rings[low + 1, i]
                faces += [np.stack(corners[:3]), np.stack([corners[0], *corners[2:]])]
        self.solid(faces, [paint] * len(faces))

    def build(self, fit: tuple[float, float, float] | None = None) -> Mesh:
        """The mesh of everything added so far, stretched to fill a box of (width, length, height) metres if given.

        It stays BOX_MARGIN inside the box's sides and top, so that noisy LiDAR points on its skin still lie in the box.
        """
        corners = self._outward_corners()
        if fit is not None:
            lower, upper = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
            width, length, height = fit
            inner = np.array([length - 2 * BOX_MARGIN, width - 2 * BOX_MARGIN, height - BOX_MARGIN])
            corners = (corners - lower) * (inner / (upper - lower)) - inner * (0.5, 0.5, 0.0)
        normals = _newell(corners)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        origins, u_axes, v_axes = _texture_axes(corners, normals, self._paints)
        second = [paint.second or paint.color for paint in self._paints]
        return Mesh(
            corners,
            normals,
            origins,
            u_axes,
            v_axes,
            np.stack([np.array([paint.color for paint in self._paints]), np.array(second)], axis=1),
            np.array([int(paint.texture) for paint in self._paints], dtype=np.int32),
            np.array([paint.glow for paint in self._paints]),
            np.array([middle is None for middle in self._middles]),
        )

    def _add(self, face: np.ndarray, paint: Paint, middle: np.ndarray | None) -> None:
        assert 3 <= len(face) <= MAX_CORNERS, f"a face has 3 to {MAX_CORNERS} corners, not {len(face)}"
        self._faces.append(face)
        self._paints.append(paint)
        self._middles.append(middle)

    def _outward_corners(self) -> np.ndarray:
        """(F, MAX_CORNERS, 3) corners, turned outward from the middle of their body and padded with the last one."""
        count = np.array([len(face) for face in self._faces])[:, None]
        start = np.cumsum(count)[:, None] - count
        flat = np.concatenate(self._faces)
        place = np.minimum(np.arange(MAX_CORNERS), count - 1)
        corners = flat[start + place]
        middles = np.stack(
            [corner if middle is None else middle for corner, middle in zip(corners[:, 0], self._middles, strict=True)]
        )
        inward = np.einsum("fi,fi->f", _newell(corners), corners[:, 0] - middles) < 0
        return np.where(inward[:, None, None], flat[start + count - 1 - place], corners)


def _newell(corners: np.ndarray) -> np.ndarray:
    """Normals (F, 3) of polygons (F, V, 3), as long as twice their areas; repeated corners do no harm."""
    return np.cross(corners, np.roll(corners, -1, axis=1)).sum(axis=1)


def _texture_axes(
    corners: np.ndarray, normals: np.ndarray, paints: Sequence[Paint]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texture origin and axes: u runs level along a wall, v up it; on level faces they are x and y."""
    level = np.abs(normals[:, 2]) > 0.99
    u = np.cross((0.0, 0.0, 1.0), normals)
    u[level] = (1.0, 0.0, 0.0)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(normals, u)
    v[level] = (0.0, 1.0, 0.0)
    along_u = np.einsum("fvk,fk->fv", corners, u)
    along_v = np.einsum("fvk,fk->fv", corners, v)
    along_n = np.einsum("fk,fk->f", corners[:, 0], normals)
    origins = u * along_u.min(1)[:, None] + v * along_v.min(1)[:, None] + normals * along_n[:, None]
    fitted = np.array([paint.fitted for paint in paints])
    period = np.array([paint.period for paint in paints])
    u_period = np.where(fitted, np.maximum(np.ptp(along_u, axis=1), 1e-3), period)
    v_period = np.where(fitted, np.maximum(np.ptp(along_v, axis=1), 1e-3), period)
    return origins, u / u_period[:, None], v / v_period[:, None]
