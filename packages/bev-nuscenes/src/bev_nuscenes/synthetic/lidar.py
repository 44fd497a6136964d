"""LiDAR sweeps by casting rays at the scene's polygons.

The rays form a grid of rings and azimuths. Every polygon is tested only against the rays inside its angular bounds,
for all polygons at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import invert_transform
from .geometry import FaceSet, SceneGeometry
from .weather import Weather

RINGS = 32
LOWEST, HIGHEST = np.radians(-30.67), np.radians(10.67)  # elevation of the outer rings
AZIMUTHS = 1084
NEAREST, FARTHEST = 1.0, 80.0  # metres
RANGE_NOISE = 0.01  # metres, standard deviation
DROPOUT = 0.02  # part of the returns that get lost

_ELEVATION_STEP = (HIGHEST - LOWEST) / (RINGS - 1)
_AZIMUTH_STEP = 2 * np.pi / AZIMUTHS
_CANDIDATES_PER_BATCH = 300_000


@dataclass(frozen=True)
class Sweep:
    """N returns in firing order."""

    points: np.ndarray  # (N, 5) float32: x, y, z in the LiDAR frame (metres), intensity 0 to 255, ring
    owners: np.ndarray  # (N,) object that was hit (actors first, then props), -1 for the ground and drops in the air


def cast_sweep(
    geometry: SceneGeometry,
    lidar_to_global: np.ndarray,
    time: float,
    rng: np.random.Generator,
    weather: Weather | None = None,
) -> Sweep:
    """All returns at one instant, `time` seconds after the first key frame; clear weather by default."""
    rays = ray_directions()
    offset = geometry.poses(time)[:, :2] - lidar_to_global[:2, 3]
    near = np.hypot(*offset.T) < FARTHEST + geometry.radii
    faces = geometry.faces_in(invert_transform(lidar_to_global), time, near)
    toward = np.einsum("fi,fi->f", faces.corners[:, 0], faces.normals)
    faces = faces.select((toward < -1e-6) | (geometry.mesh.two_sided[faces.faces] & (np.abs(toward) > 1e-6)))
    distance, face = _nearest_hits(faces, rays)
    ground = _ground_distance(lidar_to_global, rays)
    on_ground = ground < distance
    distance = np.minimum(distance, ground)
    owner = np.where(on_ground, -1, faces.owners[face])
    brightness = np.where(on_ground, 0.25, geometry.mesh.colors[faces.faces, 0].mean(axis=1)[face])
    intensity = np.clip(rng.gamma(2.0, 0.5, len(rays)) * 60.0 * brightness, 0.0, 255.0).round()
    measured = distance + rng.normal(0.0, RANGE_NOISE, len(rays))
    kept = (distance < FARTHEST) & (distance > NEAREST) & (rng.random(len(rays)) > DROPOUT)
    if weather is not None and weather.lidar_loss:
        kept &= rng.random(len(rays)) < np.exp(-weather.lidar_loss * np.minimum(distance, FARTHEST))
        drop = NEAREST + rng.exponential(weather.backscatter_reach, len(rays))
        scattered = (drop < distance) & (rng.random(len(rays)) < weather.backscatter)
        measured, owner = np.where(scattered, drop, measured), np.where(scattered, -1, owner)
        intensity = np.where(scattered, np.minimum(intensity, 3.0), intensity)
        kept |= scattered
    points = np.column_stack([rays * np.where(kept, measured, 0.0)[:, None], intensity, np.arange(len(rays)) % RINGS])
    return Sweep(points[kept].astype(np.float32), owner[kept])


def ray_directions() -> np.ndarray:
    """(AZIMUTHS * RINGS, 3) unit vectors in the LiDAR frame, all rings of one azimuth after the other."""
    elevation = LOWEST + _ELEVATION_STEP * np.arange(RINGS)
    azimuth = _AZIMUTH_STEP * np.arange(AZIMUTHS)[:, None]
    level = np.cos(elevation)
    parts = level * np.cos(azimuth), level * np.sin(azimuth), np.broadcast_to(np.sin(elevation), (AZIMUTHS, RINGS))
    return np.stack(parts, axis=-1).reshape(-1, 3)


def _nearest_hits(faces: FaceSet, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (infinite for a miss) and face of the nearest hit of every ray."""
    keys = np.full(len(rays), np.uint64(0xFFFFFFFF) << np.uint64(32), dtype=np.uint64)
    first_azimuth, last_azimuth, first_ring, last_ring = _angular_bounds(faces.corners)
    width, height = np.maximum(last_azimuth - first_azimuth + 1, 0), np.maximum(last_ring - first_ring + 1, 0)
    count = width * height
    chosen = np.flatnonzero(count)
    total = np.cumsum(count[chosen])
    edges = np.roll(faces.corners, -1, axis=1) - faces.corners
    inward = np.cross(faces.normals[:, None], edges)
    limits = np.einsum("fvi,fvi->fv", inward, faces.corners)
    distance = np.einsum("fi,fi->f", faces.corners[:, 0], faces.normals)
    begin = 0
    while begin < len(chosen):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _CANDIDATES_PER_BATCH)))
        face = np.repeat(chosen[begin:end], count[chosen[begin:end]])
        place = np.arange(len(face)) - np.repeat(
            total[begin:end] - count[chosen[begin:end]] - done, count[chosen[begin:end]]
        )
        azimuth = (first_azimuth[face] + place // height[face]) % AZIMUTHS
        ray = azimuth * RINGS + first_ring[face] + place % height[face]
        direction = rays[ray]
        with np.errstate(divide="ignore", invalid="ignore"):
            reach = distance[face] / np.einsum("ni,ni->n", faces.normals[face], direction)
            inside = (reach > 0.0) & (reach < FARTHEST)
            for edge in range(faces.corners.shape[1]):
                across = np.einsum("ni,ni->n", inward[:, edge][face], direction) * reach
                inside &= across >= limits[:, edge][face] - 1e-9
        hit = np.flatnonzero(inside)
        key = (reach[hit].astype("<f4").view("<u4").astype(np.uint64) << np.uint64(32)) | face[hit].astype(np.uint64)
        np.minimum.at(keys, ray[hit], key)
        begin = end
    missed = keys == np.uint64(0xFFFFFFFF) << np.uint64(32)
    reach = (keys >> np.uint64(32)).astype("<u4").view("<f4").astype(np.float64)
    return np.where(missed, np.inf, reach), np.where(missed, 0, keys & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _angular_bounds(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """First and last azimuth (may run past a full turn) and ring that faces (F, V, 3) can meet."""
    middle = corners.mean(axis=1)
    center = np.arctan2(middle[:, 1], middle[:, 0])
    turn = np.arctan2(corners[..., 1], corners[..., 0]) - center[:, None]
    turn = (turn + np.pi) % (2 * np.pi) - np.pi
    first_azimuth = np.ceil((center + turn.min(axis=1)) / _AZIMUTH_STEP).astype(np.int64)
    last_azimuth = np.floor((center + turn.max(axis=1)) / _AZIMUTH_STEP).astype(np.int64)
    nearest, farthest = _level_range(corners[..., :2])
    low, high = corners[..., 2].min(axis=1), corners[..., 2].max(axis=1)
    # A point above the sensor is seen steepest where it is nearest, one below where it is farthest, and the reverse.
    lowest = np.arctan2(low, np.where(low < 0, nearest, farthest))
    highest = np.arctan2(high, np.where(high < 0, farthest, nearest))
    first_ring = np.ceil((lowest - LOWEST) / _ELEVATION_STEP - 1e-9).clip(0, RINGS).astype(np.int64)
    last_ring = np.floor((highest - LOWEST) / _ELEVATION_STEP + 1e-9).clip(-1, RINGS - 1).astype(np.int64)
    return first_azimuth, last_azimuth, first_ring, last_ring


def _level_range(outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest level distance of the sensor from polygons (F, V, 2) that do not stand over it."""
    edge = np.roll(outline, -1, axis=1) - outline
    length = np.maximum((edge**2).sum(axis=-1), 1e-12)
    along = np.clip(-(outline * edge).sum(axis=-1) / length, 0.0, 1.0)
    nearest = np.linalg.norm(outline + along[..., None] * edge, axis=-1).min(axis=1)
    return nearest, np.linalg.norm(outline, axis=-1).max(axis=1)


def _ground_distance(lidar_to_global: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Distance to the plane z = 0 along every ray, infinite for rays that rise."""
    fall = -np.einsum("i,ni->n", lidar_to_global[2, :3], rays)
    with np.errstate(divide="ignore"):
        return np.where(fall > 1e-6, lidar_to_global[2, 3] / fall, np.inf)
