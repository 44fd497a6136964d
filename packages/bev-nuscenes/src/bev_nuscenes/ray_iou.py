"""RayIoU of SparseOcc (arXiv:2312.17118): occupancy judged by what rays like those of a LiDAR meet first.

Rays leave places that the LiDAR passed during the scene. Each ends in the first cell that is not free. A prediction is
right at a threshold where class and depth agree with the ground truth, and the IoU of a class is counted over rays.

The rules below follow the description and the behaviour of the published evaluation as far as they are known here; its
code needs a GPU and the results could not be compared with it.

Legend: R rays, O origins, (X, Y, Z) cells of the occupancy grid. Points in metres in the ego frame of the LiDAR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .errors import DataError
from .geometry import invert_pose
from .index import NuscenesIndex
from .occupancy import FREE, OCCUPANCY_CELL, OCCUPANCY_CLASSES, OCCUPANCY_LOWER, OCCUPANCY_SHAPE, check_occupancy

__all__ = ["DEPTH_THRESHOLDS", "RayHits", "RayIou", "RayIouCounts", "cast_rays", "lidar_rays", "ray_origins"]

DEPTH_THRESHOLDS = (1.0, 2.0, 4.0)
"""Metres of depth error below which a ray of the right class counts; RayIoU is the mean over them (published)."""

# Elevations, from the published evaluation: the ten lowest meet level ground at distances of 1, 2, ... 10 times the
# height of the sensor, the others go on by the last of those steps until the upper end of the LiDAR's field of view.
_GROUND_RINGS = 10
_HIGHEST_ELEVATION = 0.21  # radians; nuScenes' LiDAR sees from -0.54 to 0.21
_AZIMUTHS = 360  # one ray per degree, published

_MAX_ORIGINS = 8  # published
_ORIGIN_REACH = 39.0  # metres along x and along y within which an origin is used, published: one less than the grid

_OUTSIDE = 255  # label of the layer of cells around the grid
_CHUNK = 16384  # rays that march together: their arrays stay in the processor's cache
_BLOCK = 16  # cells a chunk goes through before the rays that have ended are taken out


class RayHits(NamedTuple):
    """Where rays end. Depth is that at which a ray leaves the cell it hits (published), or the grid if it hits none."""

    labels: np.ndarray  # (R,) uint8; FREE where a ray leaves the grid
    depth: np.ndarray  # (R,) float64 metres


@dataclass(frozen=True, kw_only=True)
class RayIou:
    """Figures in percent, rounded to two digits.

    Attributes:
        mean: mean over thresholds and classes; nan without any ray.
        by_threshold: depth threshold in metres -> mean over the classes that occur.
        by_class: class -> IoU at each of DEPTH_THRESHOLDS; nan for a class that does not occur.
    """

    mean: float
    by_threshold: dict[float, float]
    by_class: dict[str, tuple[float, ...]]


class RayIouCounts:
    """Counts of rays, added up sample by sample."""

    def __init__(self) -> None:
        self.truth = np.zeros(len(OCCUPANCY_CLASSES), dtype=np.int64)
        self.predicted = np.zeros(len(OCCUPANCY_CLASSES), dtype=np.int64)
        self.right = np.zeros((len(DEPTH_THRESHOLDS), len(OCCUPANCY_CLASSES)), dtype=np.int64)
        self._rays = lidar_rays()

    def add(
        self,
        prediction: np.ndarray,  # (X, Y, Z) integers
        semantics: np.ndarray,  # (X, Y, Z) integers
        origins: np.ndarray,  # (O, 3)
    ) -> None:
        """Count one sample. Rays that meet nothing in the ground truth do not count; masks play no part (published).

        Raises:
            DataError: a wrong shape, or labels that are none.
        """
        prediction = check_occupancy(prediction, "the prediction")
        semantics = check_occupancy(semantics, "the ground truth")
        for origin in origins:
            truth = cast_rays(semantics, origin, self._rays)
            occupied = truth.labels != FREE
            self._count(cast_rays(prediction, origin, self._rays[occupied]), RayHits(*(a[occupied] for a in truth)))

    def figures(self) -> RayIou:
        """IoU of everything added so far."""
        with np.errstate(invalid="ignore"):
            iou = 100 * (self.right / (self.truth + self.predicted - self.right))[:, :FREE]
        seen = ~np.isnan(iou[0])  # the union is empty at one threshold where it is at all
        means = [float(row[seen].mean()) if seen.any() else float("nan") for row in iou]
        return RayIou(
            mean=round(float(np.mean(means)), 2),
            by_threshold={threshold: round(mean, 2) for threshold, mean in zip(DEPTH_THRESHOLDS, means, strict=True)},
            by_class={
                name: tuple(round(float(value), 2) for value in iou[:, label])
                for label, name in enumerate(OCCUPANCY_CLASSES[:FREE])
            },
        )

    def _count(self, found: RayHits, truth: RayHits) -> None:
        classes = len(OCCUPANCY_CLASSES)
        self.truth += np.bincount(truth.labels, minlength=classes)
        self.predicted += np.bincount(found.labels, minlength=classes)
        error = np.where(found.labels == truth.labels, np.abs(found.depth - truth.depth), np.inf)
        for row, threshold in zip(self.right, DEPTH_THRESHOLDS, strict=True):
            row += np.bincount(truth.labels[error < threshold], minlength=classes)


def lidar_rays() -> np.ndarray:
    """Unit directions (R, 3) float64 of 39 elevations by 360 azimuths."""
    elevations = [-(np.pi / 2 - np.arctan(ring)) for ring in range(1, _GROUND_RINGS + 1)]
    while elevations[-1] < _HIGHEST_ELEVATION:
        elevations.append(2 * elevations[-1] - elevations[-2])
    elevation, azimuth = np.meshgrid(elevations, np.deg2rad(np.arange(_AZIMUTHS) * (360 / _AZIMUTHS)), indexing="ij")
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)


def ray_origins(index: NuscenesIndex, position: int) -> np.ndarray:
    """Where rays start at a key frame: (O, 3), O from 1 to 8.

    Every key frame of the scene offers the place of its LiDAR; those within 39 m along both axes stay, and of more than
    eight, eight evenly spread over time are taken.

    Raises:
        DataError: a key frame of the scene has no LiDAR.
    """
    frames = np.flatnonzero(index.frames.scenes == index.frames.scenes[position])
    without = frames[index.lidar.files[frames] == b""]
    if len(without):
        raise DataError(f"sample {index.token(without[0])} has no LiDAR pose; RayIoU needs one at every key frame")
    lidar_to_global = index.lidar.ego_to_global[frames] @ index.lidar.lidar_to_ego[frames]
    global_to_ego = invert_pose(np.asarray(index.lidar.ego_to_global[position]))
    origins = lidar_to_global[:, :3, 3] @ global_to_ego[:3, :3].T + global_to_ego[:3, 3]
    near = origins[(np.abs(origins[:, :2]) < _ORIGIN_REACH).all(axis=1)]
    if len(near) <= _MAX_ORIGINS:
        return near
    return near[np.round(np.linspace(0, len(near) - 1, _MAX_ORIGINS)).astype(np.int64)]


def cast_rays(semantics: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> RayHits:
    """Follow rays cell by cell to the first that is not free.

    Exact traversal (Amanatides and Woo, 1987). The cell that holds the origin is the first one looked at. An origin
    above or below the grid meets nothing.

    Args:
        semantics: (X, Y, Z) uint8.
        origin: (3,).
        directions: (R, 3) of unit length.
    """
    start = (np.asarray(origin, dtype=np.float64) - OCCUPANCY_LOWER) / OCCUPANCY_CELL
    hits = RayHits(np.full(len(directions), FREE, dtype=np.uint8), np.zeros(len(directions)))
    if ((start < 0) | (start >= OCCUPANCY_SHAPE)).any():
        return hits
    grid = np.pad(semantics, 1, constant_values=_OUTSIDE)
    for first in range(0, len(directions), _CHUNK):
        rows = slice(first, first + _CHUNK)
        _march(grid, start, directions[rows].T, hits.labels[rows], hits.depth[rows])
    return hits


def _march(
    grid: np.ndarray,  # (X + 2, Y + 2, Z + 2) uint8
    start: np.ndarray,  # (3,) in cells
    directions: np.ndarray,  # (3, R)
    labels: np.ndarray,  # (R,) written
    depth: np.ndarray,  # (R,) written
) -> None:
    cell = np.floor(start).astype(np.int64)
    forward = directions >= 0
    per_cell = 1 / np.maximum(np.abs(directions), 1e-12)  # finite, so that 0 times it is 0
    border = np.where(forward, (cell + 1 - start)[:, None], (start - cell)[:, None]) * per_cell
    strides = np.array(grid.strides)[:, None] * np.where(forward, 1, -1)
    place = np.full(directions.shape[1], np.ravel_multi_index(tuple(cell + 1), grid.shape))
    rays = np.arange(directions.shape[1])
    left = np.zeros(len(rays))  # where the ray left the cell before this one
    while len(rays):
        seen, exits = _walk(grid.reshape(-1), place, border, per_cell, strides)
        exits = np.concatenate([left[None], exits])
        first = (seen != FREE).argmax(axis=0)
        column = np.arange(len(rays))
        label = seen[first, column]
        ended = label != FREE
        outside = label == _OUTSIDE
        labels[rays[ended]] = np.where(outside, FREE, label)[ended]
        depth[rays[ended]] = OCCUPANCY_CELL * exits[np.where(outside, first, first + 1), column][ended]
        going = ~ended
        rays, place, left = rays[going], place[going], exits[-1, going]
        border, per_cell, strides = border[:, going], per_cell[:, going], strides[:, going]


def _walk(
    cells: np.ndarray, place: np.ndarray, border: np.ndarray, per_cell: np.ndarray, strides: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the next _BLOCK cells (_BLOCK, R) and where each is left; moves ``place`` and ``border`` along.

    A ray goes on through cells that have ended it: what it sees there is not looked at.
    """
    seen = np.empty((_BLOCK, len(place)), dtype=np.uint8)
    exits = np.empty((_BLOCK, len(place)))
    for step in range(_BLOCK):
        cells.take(place, out=seen[step], mode="clip")
        x_before_y = border[0] < border[1]
        nearer = np.where(x_before_y, border[0], border[1])
        z_next = border[2] <= nearer
        np.minimum(nearer, border[2], out=exits[step])
        crossed = (x_before_y & ~z_next, ~(x_before_y | z_next), z_next)
        for axis, crosses in enumerate(crossed):
            border[axis] += per_cell[axis] * crosses
            place += strides[axis] * crosses
    return seen, exits
