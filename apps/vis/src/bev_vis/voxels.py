"""Voxels as shaded pictures, by numpy and PIL alone: from above, and in perspective.

Legend: (X,Y,Z) cells of the occupancy grid, V occupied cells, F faces. Frames: ego is x forward, y left, z up; a camera
is x right, y down, z along the optical axis. Metres and pixels.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bev_nuscenes import FREE, OCCUPANCY_CELL, OCCUPANCY_LOWER, OCCUPANCY_SHAPE

from .frame import EGO_LOWER, EGO_UPPER, Voxels
from .geometry import Array, looking_at
from .palette import Palette

# The six faces: axis, direction, and how brightly the sky lights them.
_FACES = ((0, 1, 0.80), (0, -1, 0.72), (1, 1, 0.66), (1, -1, 0.60), (2, 1, 1.0), (2, -1, 0.4))
_SUPERSAMPLING = 2
_NEAR_M = 1.0
_SKY = (240, 243, 247)
_EGO_RGB = (0.13, 0.14, 0.16)
_EGO_RADIUS_M = 2.3


class View(NamedTuple):
    """From where the voxels are looked at, ego frame."""

    eye: tuple[float, float, float] = (-38.0, 0.0, 27.0)  # metres
    target: tuple[float, float, float] = (1.0, 0.0, 0.0)  # metres
    field_of_view: float = 1.05  # radians, across


def from_above(labels: Voxels, colours: Palette) -> NDArray[np.float64]:
    """The uppermost cell of every column, brighter the higher: (X,Y,4) red, green, blue, opacity from 0 to 1."""
    occupied = labels != FREE
    top = labels.shape[2] - 1 - occupied[..., ::-1].argmax(axis=-1)
    any_there = occupied.any(axis=-1)
    label = np.take_along_axis(labels, top[..., None], axis=-1)[..., 0]
    height = np.where(any_there, top, -1).astype(np.float64)
    # Light from ahead and the left: a cell behind a higher one lies in its shade.
    ahead, left = np.roll(height, -1, axis=0), np.roll(height, -1, axis=1)
    ahead[-1], left[:, -1] = height[-1], height[:, -1]
    shade = np.clip(0.1 * (2 * height - ahead - left), -0.3, 0.2)
    brightness = np.clip(0.72 + 0.2 * height / (labels.shape[2] - 1) + shade, 0.35, 1.1)
    rgb = np.clip(_colour_table(colours)[np.minimum(label, FREE - 1)] * brightness[..., None], 0, 1)
    return np.concatenate([rgb, any_there[..., None].astype(np.float64)], axis=-1)


def in_perspective(
    labels: Voxels, size: tuple[int, int], colours: Palette, view: View | None = None
) -> NDArray[np.uint8]:
    """The cells as cubes, seen from behind and above the vehicle: (height,width,3); ``size`` is width and height."""
    view = view or View()
    width, height = (_SUPERSAMPLING * side for side in size)
    eye = np.array(view.eye)
    faces, ego = exposed_faces(labels, colours, eye), _ego_faces(eye)
    corners, rgb = np.concatenate([faces.corners, ego.corners]), np.concatenate([faces.rgb, ego.rgb])
    # The vehicle's middle is farther away than the ground before its wheels, which must not be drawn over them.
    distance = np.concatenate(
        [np.linalg.norm(faces.middle - eye, axis=1), np.linalg.norm(ego.middle - eye, axis=1) - _EGO_RADIUS_M]
    )
    seen = _in_camera(corners, view)
    kept = np.flatnonzero((seen[..., 2] > _NEAR_M).all(axis=1))
    kept = kept[np.argsort(-distance[kept], kind="stable")]
    focal = 0.5 * width / np.tan(0.5 * view.field_of_view)
    pixels = seen[kept, :, :2] / seen[kept, :, 2:] * focal + (0.5 * width, 0.5 * height)
    image = Image.new("RGB", (width, height), _SKY)
    draw = ImageDraw.Draw(image)
    fills = (255 * np.clip(rgb[kept], 0, 1)).astype(int)
    for polygon, fill in zip(pixels.reshape(-1, 8).tolist(), map(tuple, fills.tolist()), strict=True):
        draw.polygon(polygon, fill=fill)
    return np.asarray(image.resize(size, Image.Resampling.BOX))


class Faces(NamedTuple):
    """Squares, with the light that falls on them in their colour."""

    corners: Array  # (F,4,3)
    rgb: Array  # (F,3)
    middle: Array  # (F,3) of the cell

    def __getitem__(self, which):  # type: ignore[override]
        """The faces of a mask (F,) or of indices, in their order."""
        return Faces(*(column[which] for column in (self.corners, self.rgb, self.middle)))


def exposed_faces(labels: Voxels, colours: Palette, eye: Array | None = None) -> Faces:
    """Faces between an occupied cell and a free one; with an ``eye`` (3,) those that look towards it."""
    occupied = np.pad(labels != FREE, 1)
    parts = []
    for axis, direction, light in _FACES:
        cells = np.argwhere((occupied & ~np.roll(occupied, -direction, axis=axis))[1:-1, 1:-1, 1:-1])
        lower = cell_corner(cells)
        if eye is not None:
            plane = lower[:, axis] + (OCCUPANCY_CELL if direction > 0 else 0.0)
            towards = direction * (eye[axis] - plane) > 0
            cells, lower = cells[towards], lower[towards]
        corners = lower[:, None] + OCCUPANCY_CELL * _unit_face(axis, direction)
        height = cells[:, 2:] / (OCCUPANCY_SHAPE[2] - 1)
        rgb = _colour_table(colours)[labels[tuple(cells.T)]] * light * (0.85 + 0.15 * height)
        parts.append(Faces(corners, rgb, lower + 0.5 * OCCUPANCY_CELL))
    return Faces(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def cell_corner(cells: NDArray[np.intp]) -> Array:
    """The lower corners (V,3) of cells (V,3)."""
    return np.array(OCCUPANCY_LOWER) + OCCUPANCY_CELL * cells


def _ego_faces(eye: Array) -> Faces:
    """The faces of the vehicle that look towards the eye."""
    lower, upper = np.array(EGO_LOWER), np.array(EGO_UPPER)
    corners, lights = [], []
    for axis, direction, light in _FACES:
        if direction * (eye[axis] - (upper if direction > 0 else lower)[axis]) > 0:
            corners.append(lower + (upper - lower) * _unit_face(axis, direction))
            lights.append(light)
    middle = np.tile((lower + upper) / 2, (len(corners), 1))
    return Faces(np.array(corners), np.array(lights)[:, None] * _EGO_RGB, middle)


def _unit_face(axis: int, direction: int) -> Array:
    """Corners (4,3) of a face of the unit cube, counter-clockwise as seen from outside."""
    first, second = (other for other in range(3) if other != axis)
    corners = np.zeros((4, 3))
    corners[:, axis] = direction > 0
    corners[:, first], corners[:, second] = (0, 1, 1, 0), (0, 0, 1, 1)
    return corners[::-1] if (direction > 0) == (axis == 1) else corners


def _in_camera(points: Array, view: View) -> Array:
    """Points (...,3) of the ego frame in the frame of a camera at the eye, its x axis level."""
    return (points - view.eye) @ looking_at(np.array(view.eye), np.array(view.target)).T


def _colour_table(colours: Palette) -> Array:
    return np.array(colours.voxels)
