"""Occupancy ground truth in the format of Occ3D-nuScenes: labels.npz with semantics, mask_lidar and mask_camera.

Arrays are (X, Y, Z) = (200, 200, 16) uint8 in the ego frame of the LiDAR's time stamp; ``bev_nuscenes.occupancy`` has
their grid and their labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..occupancy import FREE, OCCUPANCY_CLASSES, OCCUPANCY_LOWER
from ..occupancy import OCCUPANCY_CELL as CELL
from ..occupancy import OCCUPANCY_SHAPE as SHAPE
from .calibration import IMAGE_SIZE, SensorCalibration, invert_transform
from .geometry import SceneGeometry
from .road import Surface

LOWER = np.array(OCCUPANCY_LOWER)
LABELS = {name: label for label, name in enumerate(OCCUPANCY_CLASSES)}
_GROUND_LABELS = {
    Surface.DRIVEABLE: LABELS["driveable_surface"],
    Surface.SIDEWALK: LABELS["sidewalk"],
    Surface.TERRAIN: LABELS["terrain"],
}
_TOP = LOWER[2] + CELL * (SHAPE[2] + 0.5)  # just above the grid, metres
_SAMPLE_STEP = 0.25  # metres between the points a face is sampled at
_RAY_STEP = np.float32(0.25)  # metres between the points at which a ray's cells are looked up
_GRID_REACH = 58.0  # metres from the sensor to a corner of the grid
_SLACK = 0.35  # metres a cell's centre may lie behind the surface that makes it occupied


@dataclass(frozen=True)
class Occupancy:
    """The three arrays of labels.npz, each (200, 200, 16) uint8; masks are 1 where a sensor observed the cell."""

    semantics: np.ndarray
    mask_lidar: np.ndarray
    mask_camera: np.ndarray

    def save(self, path: Path) -> None:
        """Write labels.npz; equal arrays give equal bytes."""
        np.savez_compressed(path, semantics=self.semantics, mask_lidar=self.mask_lidar, mask_camera=self.mask_camera)


@dataclass(frozen=True)
class CameraDepth:
    """A camera's depth image (H, W) and its pose at its own time stamp."""

    camera: SensorCalibration
    ego_to_global: np.ndarray
    depth: np.ndarray


def make_occupancy(
    geometry: SceneGeometry,
    ego_to_global: np.ndarray,
    time: float,
    lidar_to_ego: np.ndarray,
    lidar_points: np.ndarray,
    cameras: Sequence[CameraDepth],
) -> Occupancy:
    """Label every cell by what fills it, and mark the cells that LiDAR rays (N, 3) and camera pixels reached."""
    semantics = _label_cells(geometry, ego_to_global, time)
    origin = lidar_to_ego[:3, 3]
    hits = np.einsum("ij,nj->ni", lidar_to_ego[:3, :3], lidar_points) + origin
    return Occupancy(semantics, _lidar_mask(origin, hits), _camera_mask(ego_to_global, cameras))


def cell_centers() -> np.ndarray:
    """(X, Y, Z, 3) centres of the cells in the ego frame, metres."""
    axes = [LOWER[axis] + CELL * (np.arange(SHAPE[axis]) + 0.5) for axis in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _label_cells(geometry: SceneGeometry, ego_to_global: np.ndarray, time: float) -> np.ndarray:
    """Ground at z = 0, then scenery, then actors, filled from lowest to highest face in each column."""
    semantics = np.full(SHAPE, FREE, dtype=np.uint8)
    ahead, left = np.moveaxis(cell_centers()[:, :, 0, :2], -1, 0)
    x, y = (row[0] * ahead + row[1] * left + row[3] for row in ego_to_global[:2])
    surface = geometry.scene.road.surface(x, y)
    height = -(ego_to_global[2, 0] * ahead + ego_to_global[2, 1] * left + ego_to_global[2, 3]) / ego_to_global[2, 2]
    layer = np.floor((height - LOWER[2]) / CELL).astype(np.int64)
    ground = np.array([_GROUND_LABELS[kind] for kind in Surface], dtype=np.uint8)[surface]
    column = np.indices(layer.shape)
    semantics[column[0], column[1], layer.clip(0, SHAPE[2] - 1)] = ground
    lowest, highest = _column_extents(geometry, ego_to_global, time)
    level = np.arange(SHAPE[2])
    for label in (LABELS["manmade"], LABELS["vegetation"], *range(11)):
        x, y = np.nonzero(highest[label] >= 0)
        filled = (level >= lowest[label, x, y, None]) & (level <= highest[label, x, y, None])
        semantics[x, y] = np.where(filled, np.uint8(label), semantics[x, y])
    return semantics


def _column_extents(geometry: SceneGeometry, ego_to_global: np.ndarray, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest cell of every label in every column, (18, X, Y) int64; highest is -1 where there is none."""
    offset = geometry.poses(time)[:, :2] - ego_to_global[:2, 3]
    near = np.hypot(*offset.T) < 60.0 + geometry.radii
    faces = geometry.faces_in(invert_transform(ego_to_global), time, near)
    kinds = [actor.kind for actor in geometry.scene.actors] + [prop.kind for prop in geometry.scene.props]
    level = faces.corners[..., :2]
    faces = faces.select(((level.max(axis=1) > LOWER[:2]) & (level.min(axis=1) < -LOWER[:2])).all(axis=1))
    labels = np.array([LABELS[kind] for kind in kinds], dtype=np.int64)[faces.owners]
    lowest = np.full((FREE + 1, *SHAPE[:2]), SHAPE[2], dtype=np.int64)
    highest = np.full((FREE + 1, *SHAPE[:2]), -1, dtype=np.int64)
    face, points = _sample_faces(faces.corners, faces.normals)
    cell = np.floor((points - LOWER) / CELL).astype(np.int64)
    cell[:, 2] = cell[:, 2].clip(0, SHAPE[2])  # what is higher fills its column up to the top
    inside = ((cell[:, :2] >= 0) & (cell[:, :2] < SHAPE[:2])).all(axis=1)
    place = np.ravel_multi_index((labels[face[inside]], cell[inside, 0], cell[inside, 1]), lowest.shape)
    np.minimum.at(lowest.ravel(), place, cell[inside, 2])
    np.maximum.at(highest.ravel(), place, cell[inside, 2])
    return lowest, highest


def _sample_faces(corners: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points spread over faces (F, V, 3), no farther apart than _SAMPLE_STEP: their faces (P,) and places (P, 3)."""
    u = np.cross(np.where(np.abs(normals[:, 2:]) > 0.9, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), normals)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(normals, u)
    reach = [np.einsum("fvi,fi->fv", corners, axis) for axis in (u, v)]
    low, extent = [r.min(axis=1) for r in reach], [np.ptp(r, axis=1) for r in reach]
    walls = v[:, 2] > 0.99  # what rises above the grid need not be sampled: it fills its columns to the top anyway
    extent[1] = np.where(walls, np.minimum(extent[1], np.maximum(_TOP - low[1], 0.0)), extent[1])
    steps = [np.maximum(np.ceil(e / _SAMPLE_STEP).astype(np.int64), 1) for e in extent]
    count = (steps[0] + 1) * (steps[1] + 1)
    face = np.repeat(np.arange(len(corners)), count)
    place = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
    part_u, part_v = place // (steps[1] + 1)[face] / steps[0][face], place % (steps[1] + 1)[face] / steps[1][face]
    along_n = np.einsum("fi,fi->f", corners[:, 0], normals)
    points = u[face] * (low[0][face] + part_u * extent[0][face])[:, None]
    points += v[face] * (low[1][face] + part_v * extent[1][face])[:, None]
    points += normals[face] * along_n[face, None]
    inward = np.cross(normals[:, None], np.roll(corners, -1, axis=1) - corners)
    limit = np.einsum("fvi,fvi->fv", inward, corners)
    inside = np.ones(len(face), dtype=bool)
    for edge in range(corners.shape[1]):
        inside &= np.einsum("pi,pi->p", inward[:, edge][face], points) >= limit[:, edge][face] - 1e-6
    return face[inside], points[inside]


def _lidar_mask(origin: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Cells that the rays from the sensor to its hits (N, 3) pass through or end in, ego frame."""
    mask = np.zeros(math.prod(SHAPE), dtype=np.uint8)
    reach = np.linalg.norm(hits - origin, axis=1).astype(np.float32)
    order = np.argsort(-reach, kind="stable")  # so that the rays which get as far as a step come first
    reach, rays = reach[order], ((hits - origin)[order] / (CELL * reach[order, None])).astype(np.float32).T
    start = ((origin - LOWER) / CELL).astype(np.float32)
    steps = np.arange(0.0, _GRID_REACH, _RAY_STEP, dtype=np.float32)
    for step, far_enough in zip(steps, np.searchsorted(-reach, -steps, side="right"), strict=True):
        _mark(mask, start, rays[:, :far_enough], np.minimum(step + _RAY_STEP, reach[:far_enough]))
    return mask.reshape(SHAPE)


def _mark(mask: np.ndarray, start: np.ndarray, rays: np.ndarray, distance: np.ndarray) -> None:
    """Set the cells that rays (3, N), in cells per metre, are in at a distance (N,)."""
    x, y, z = (np.floor(start[axis] + rays[axis] * distance).astype(np.int32) for axis in range(3))
    inside = (x >= 0) & (x < SHAPE[0]) & (y >= 0) & (y < SHAPE[1]) & (z >= 0) & (z < SHAPE[2])
    mask[((x * SHAPE[1] + y) * SHAPE[2] + z)[inside]] = 1


def _camera_mask(ego_to_global: np.ndarray, cameras: Sequence[CameraDepth]) -> np.ndarray:
    """Cells whose centre is in a camera's image and not behind what the pixel shows."""
    centers = np.ascontiguousarray(cell_centers().reshape(-1, 3).T.astype(np.float32))
    mask = np.zeros(centers.shape[1], dtype=bool)
    width, height = IMAGE_SIZE
    for view in cameras:
        ego_to_camera = invert_transform(view.ego_to_global @ view.camera.sensor_to_ego) @ ego_to_global
        projection = (view.camera.intrinsics @ ego_to_camera[:3]).astype(np.float32)
        candidates = np.flatnonzero(_row(projection[2], centers) > 0.5)
        points = centers[:, candidates]
        depth = _row(projection[2], points)
        u, v = (np.rint(_row(projection[axis], points) / depth) for axis in (0, 1))
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
        candidates, depth = candidates[inside], depth[inside]
        shown = view.depth[v[inside].astype(np.int32), u[inside].astype(np.int32)]
        mask[candidates[shown > depth - _SLACK]] = True
    return mask.reshape(SHAPE).astype(np.uint8)


def _row(coefficients: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One row of an affine map (4,) applied to points (3, N)."""
    return coefficients[0] * points[0] + coefficients[1] * points[1] + coefficients[2] * points[2] + coefficients[3]
