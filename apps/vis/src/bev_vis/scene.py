"""A frame as three-dimensional shapes: points, lines and triangles, before any library draws them.

Legend: everything in the ego frame (x forward, y left, z up), metres; P points, L lines, V vertices, F triangles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bev_nuscenes.files import read_image
from bev_nuscenes.geometry import invert_pose

from .frame import EGO_LOWER, EGO_UPPER, Boxes, Camera, Frame, Voxels
from .geometry import BOX_EDGES, FRONT_FACE, Array, transform_points
from .palette import Palette
from .voxels import Faces, exposed_faces

if TYPE_CHECKING:
    from .inner import HeatmapView

MAX_BOXES, MAX_POINTS, MAX_FACES = 5_000, 200_000, 400_000
"""More than these are thinned: a window without a fast GPU stays in step."""
EYE, TARGET = (-24.0, 0.0, 17.0), (6.0, 0.0, 0.0)
"""Where a viewer starts, and what it looks at."""
_FRUSTUM_DEPTH_M = 3.0
_TRUE_RGB, _EGO_RGB, _RING_RGB, _PATH_RGB = (0.12, 0.13, 0.15), (0.1, 0.1, 0.12), (0.78, 0.8, 0.83), (0.0, 0.45, 0.7)
_IMAGE_COLUMNS, _IMAGE_ROWS = 96, 54
_UNDER_THE_RINGS_M = -0.05


@dataclass(frozen=True, kw_only=True)
class Points:
    positions: Array  # (P,3)
    colours: Array  # (P,3)


@dataclass(frozen=True, kw_only=True)
class Lines:
    positions: Array  # (V,3)
    ends: NDArray[np.intp]  # (L,2) positions that a line joins
    colours: Array  # (L,3)


@dataclass(frozen=True, kw_only=True)
class Triangles:
    positions: Array  # (V,3)
    corners: NDArray[np.intp]  # (F,3)
    colours: Array  # (V,3) light and shade included


Shape = Points | Lines | Triangles
Thing = TypeVar("Thing", Boxes, Array, Faces)


@dataclass(frozen=True, kw_only=True)
class Layer3d:
    """Shapes that are shown and hidden together."""

    name: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True, kw_only=True)
class Scene3d:
    """All layers of a frame, and what had to be left out."""

    layers: tuple[Layer3d, ...]
    messages: tuple[str, ...]

    def layer(self, name: str) -> Layer3d:
        """The layer of a name."""
        return next(layer for layer in self.layers if layer.name == name)


def build_scene(
    frame: Frame,
    predicted: Boxes | None,  # global
    voxels: Voxels | None,
    trajectory: Array,  # (K,3) global, the vehicle at the frames of its scene
    colours: Palette,
    *,
    images: bool = True,
    heatmap: "HeatmapView | None" = None,
) -> Scene3d:
    """Everything of a frame. ``images``: paint each camera's picture into its frustum."""
    to_ego = invert_pose(frame.ego_to_global)
    messages: list[str] = []
    true = _thinned(frame.truth.transform(to_ego), MAX_BOXES, "true boxes", messages)
    found = None if predicted is None else _best(predicted.transform(to_ego), messages)
    points = None if frame.points is None else _thinned(frame.points, MAX_POINTS, "points", messages)
    cameras = [_in_ego(camera, to_ego) for camera in frame.cameras]
    layers = (
        Layer3d(name="points", shapes=() if points is None else (point_cloud(points),)),
        Layer3d(name="predictions", shapes=() if found is None else box_shapes(found, np.array(colours.classes))),
        Layer3d(name="truth", shapes=box_shapes(true, np.tile(_TRUE_RGB, (len(colours.classes), 1)), filled=False)),
        Layer3d(name="voxels", shapes=() if voxels is None else (voxel_cubes(voxels, colours, messages),)),
        Layer3d(name="cameras", shapes=tuple(shape for camera in cameras for shape in frustum(camera, images))),
        Layer3d(name="ground", shapes=(_rings(), _ego())),
        Layer3d(name="trajectory", shapes=_path(transform_points(trajectory, to_ego))),
        Layer3d(name="heatmap", shapes=() if heatmap is None else (heated_ground(heatmap, colours),)),
    )
    return Scene3d(layers=layers, messages=tuple(messages))


def point_cloud(points: Array) -> Points:
    """LiDAR points, darker the lower."""
    height = np.clip((points[:, 2:] + 1.5) / 5, 0, 1)
    return Points(positions=points, colours=0.25 + 0.4 * height + np.zeros(3))


def box_shapes(boxes: Boxes, class_colours: Array, *, filled: bool = True) -> tuple[Shape, ...]:
    """Edges, a plate on the front face, and an arrow as long as the way of one second."""
    if not len(boxes):
        return ()
    corners, colours = boxes.corners(), class_colours[boxes.label]
    number = np.arange(len(boxes))[:, None, None]
    edges = Lines(
        positions=corners.reshape(-1, 3),
        ends=(8 * number + BOX_EDGES).reshape(-1, 2),
        colours=np.repeat(colours, len(BOX_EDGES), axis=0),
    )
    moving = boxes.moving()
    shapes: list[Shape] = [edges]
    if moving.any():
        shapes.append(_arrows(boxes[moving], colours[moving]))
    if filled:
        face = np.array(FRONT_FACE)[[[0, 1, 2], [0, 2, 3]]]
        both_sides = np.concatenate([face, face[:, ::-1]])
        shapes.append(
            Triangles(
                positions=corners.reshape(-1, 3),
                corners=(8 * number + both_sides).reshape(-1, 3),
                colours=np.repeat(colours, 8, axis=0),
            )
        )
    return tuple(shapes)


def voxel_cubes(labels: Voxels, colours: Palette, messages: list[str]) -> Triangles:
    """The faces of occupied cells that border on a free one; the others cannot be seen."""
    faces = _thinned(exposed_faces(labels, colours), MAX_FACES, "faces of voxels", messages)
    quads = 4 * np.arange(len(faces.rgb))[:, None, None] + np.array([(0, 1, 2), (0, 2, 3)])
    return Triangles(
        positions=faces.corners.reshape(-1, 3), corners=quads.reshape(-1, 3), colours=np.repeat(faces.rgb, 4, axis=0)
    )


def heated_ground(heatmap: "HeatmapView", colours: Palette) -> Triangles:
    """The cells of a map that may hold a centre, in the colour of the likeliest class, the paler the less likely."""
    cell = np.argwhere(heatmap.strength > 0)
    rgb = 1 - heatmap.strength[tuple(cell.T)][:, None] * (1 - np.array(colours.classes)[heatmap.label[tuple(cell.T)]])
    lower, upper = np.array(heatmap.lower), np.array(heatmap.upper)
    step = (upper - lower) / heatmap.probability.shape
    corners = lower + (cell[:, None] + np.array([(0, 0), (1, 0), (1, 1), (0, 1)])) * step
    quads = 4 * np.arange(len(cell))[:, None, None] + np.array([(0, 1, 2), (0, 2, 3)])
    return Triangles(
        positions=np.concatenate([corners, np.full((len(cell), 4, 1), _UNDER_THE_RINGS_M)], axis=-1).reshape(-1, 3),
        corners=quads.reshape(-1, 3),
        colours=np.repeat(rgb, 4, axis=0),
    )


def frustum(camera: Camera, with_image: bool) -> tuple[Shape, ...]:
    """A camera, given in the ego frame, as the pyramid it sees, with its picture on the base."""
    width, height = camera.size
    base = _on_base(camera, np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64))
    origin = camera.camera_to_global[None, :3, 3]
    ends = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)], np.intp)
    lines = Lines(
        positions=np.concatenate([origin, base]), ends=ends, colours=np.tile((0.35, 0.38, 0.42), (len(ends), 1))
    )
    return (lines, _picture(camera)) if with_image else (lines,)


def _picture(camera: Camera) -> Triangles:
    """The picture as a net of coloured corners: no texture, which not every window can show."""
    image = read_image(camera.image, camera.size).resize((_IMAGE_COLUMNS, _IMAGE_ROWS), Image.Resampling.BOX)
    columns, rows = np.meshgrid(
        np.linspace(0, camera.size[0], _IMAGE_COLUMNS), np.linspace(0, camera.size[1], _IMAGE_ROWS)
    )
    number = np.arange(_IMAGE_COLUMNS * _IMAGE_ROWS).reshape(_IMAGE_ROWS, _IMAGE_COLUMNS)
    a, b, c, d = (part.ravel() for part in (number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]))
    front = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return Triangles(
        positions=_on_base(camera, np.stack([columns.ravel(), rows.ravel()], axis=1)),
        corners=np.concatenate([front, front[:, ::-1]]),
        colours=np.asarray(image).reshape(-1, 3) / 255,
    )


def _on_base(camera: Camera, pixels: Array) -> Array:
    """Pixels (M,2) on the plane a few metres before the camera."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(camera.intrinsics).T
    return transform_points(_FRUSTUM_DEPTH_M * rays, camera.camera_to_global)


def _in_ego(camera: Camera, global_to_ego: Array) -> Camera:
    return replace(camera, camera_to_global=global_to_ego @ camera.camera_to_global)


def _arrows(boxes: Boxes, colours: Array) -> Lines:
    """A shaft and two barbs for every box."""
    start, way = boxes.center, boxes.velocity
    tip, side = start + way, np.stack([-way[:, 1], way[:, 0], 0 * way[:, 0]], axis=1)
    barbs = [tip - 0.2 * way + sign * 0.1 * side for sign in (1, -1)]
    positions = np.stack([start, tip, *barbs], axis=1).reshape(-1, 3)
    ends = (4 * np.arange(len(start))[:, None, None] + np.array([(0, 1), (1, 2), (1, 3)])).reshape(-1, 2)
    return Lines(positions=positions, ends=ends, colours=np.repeat(colours, 3, axis=0))


def _rings() -> Lines:
    """Circles every ten metres on the ground."""
    turn = np.linspace(0, 2 * np.pi, 97)[:-1]
    circle = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    radii = np.arange(10, 60, 10)
    positions = (radii[:, None, None] * circle).reshape(-1, 3)
    number = np.arange(len(turn))
    one = np.stack([number, np.roll(number, -1)], axis=1)
    ends = (len(turn) * np.arange(len(radii))[:, None, None] + one).reshape(-1, 2)
    return Lines(positions=positions, ends=ends, colours=np.tile(_RING_RGB, (len(ends), 1)))


def _ego() -> Triangles:
    """The recording car."""
    lower, upper = np.array(EGO_LOWER), np.array(EGO_UPPER)
    return Triangles(
        positions=lower + (upper - lower) * _CUBE, corners=_CUBE_TRIANGLES, colours=np.tile(_EGO_RGB, (8, 1))
    )


def _path(trajectory: Array) -> tuple[Shape, ...]:
    if len(trajectory) < 2:
        return ()
    ends = np.stack([np.arange(len(trajectory) - 1), np.arange(1, len(trajectory))], axis=1)
    return (Lines(positions=trajectory, ends=ends, colours=np.tile(_PATH_RGB, (len(ends), 1))),)


def _best(boxes: Boxes, messages: list[str]) -> Boxes:
    if len(boxes) > MAX_BOXES:
        messages.append(f"{MAX_BOXES:,} of {len(boxes):,} predicted boxes shown, those that score best")
    return boxes[np.sort(np.argsort(-boxes.score, kind="stable")[:MAX_BOXES])]


def _thinned(things: Thing, limit: int, name: str, messages: list[str]) -> Thing:
    """Every so-manieth, so that what is left is spread as before."""
    count = len(things.rgb) if isinstance(things, Faces) else len(things)
    if count <= limit:
        return things
    messages.append(f"{limit:,} of {count:,} {name} shown, evenly thinned")
    return things[np.linspace(0, count - 1, limit).astype(np.intp)]


_CUBE = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float64)
_QUADS: Sequence[tuple[int, int, int, int]] = (
    (0, 1, 3, 2),
    (4, 6, 7, 5),
    (0, 4, 5, 1),
    (2, 3, 7, 6),
    (0, 2, 6, 4),
    (1, 5, 7, 3),
)
_CUBE_TRIANGLES = np.array([tri for a, b, c, d in _QUADS for tri in ((a, b, c), (a, c, d))], np.intp)
