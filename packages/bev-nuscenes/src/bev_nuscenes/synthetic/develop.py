"""From a rendered picture to the image that a camera of this weather and quality would write."""

from __future__ import annotations

import numpy as np

from .calibration import SensorCalibration
from .camera import Picture
from .lens import (
    EXPOSURE,
    NIGHT_GAIN,
    add_glare,
    add_rain,
    add_reflections,
    add_sensor_noise,
    blur_by_motion,
)
from .road import Road, Surface
from .schedule import SceneRecord, Shot, WorldOptions, ego_pose

_MIRRORS = np.zeros(len(Surface), dtype=np.float32)  # how much of a mirror wet ground of each surface is
_MIRRORS[[Surface.DRIVEABLE, Surface.SIDEWALK]] = 1.0, 0.45


def develop(picture: Picture, record: SceneRecord, shot: Shot, options: WorldOptions) -> np.ndarray:
    """(H, W, 3) uint8 image; the draws depend on the seed, the camera and the time stamp alone."""
    channel = list(record.calibration).index(shot.channel)
    rng = np.random.default_rng([options.seed, 6, shot.timestamp, channel])
    camera, light, weather = record.calibration[shot.channel], record.lighting, record.weather
    image = picture.image.astype(np.float32)
    if light.wetness:
        _mirror_ground(image, picture, camera, shot, record.scene.road, light.wetness)
    if light.lamps:
        add_glare(image)
    if weather.rain:
        add_rain(image, weather.rain, rng)
    if options.sensor_noise:
        exposure = options.sensor_noise * EXPOSURE[weather.dark]
        velocity = _camera_velocity(record, shot, camera)
        blur_by_motion(image, picture.depth, velocity, camera.intrinsics, exposure)
        add_sensor_noise(image, options.sensor_noise, NIGHT_GAIN if weather.dark else 1.0, rng)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _mirror_ground(
    image: np.ndarray, picture: Picture, camera: SensorCalibration, shot: Shot, road: Road, wetness: float
) -> None:
    camera_to_global = shot.ego_to_global @ camera.sensor_to_ego
    ground = (picture.objects < 0) & np.isfinite(picture.depth)
    v, u = np.nonzero(ground)
    depth = picture.depth[ground]
    pixels = np.stack([u, v, np.ones_like(u)]).astype(np.float32)
    rays = (camera_to_global[:3, :3] @ np.linalg.inv(camera.intrinsics)).astype(np.float32) @ pixels
    x, y = (rays[axis] * depth + np.float32(camera_to_global[axis, 3]) for axis in (0, 1))
    slant, strength = (np.zeros(ground.shape, dtype=np.float32) for _ in range(2))
    slant[ground] = -rays[2] / np.sqrt((rays * rays).sum(axis=0))
    strength[ground] = np.float32(wetness) * _MIRRORS[road.surface(x, y)]
    add_reflections(image, ground, slant, strength)


def _camera_velocity(record: SceneRecord, shot: Shot, camera: SensorCalibration) -> np.ndarray:
    """(3,) velocity of the camera in its own frame, m/s."""
    time, step = record.seconds(shot.timestamp), 0.01
    before, after = (ego_pose(record.scene, time + sign * step) @ camera.sensor_to_ego for sign in (-1, 1))
    moved = (after[:3, 3] - before[:3, 3]) / (2 * step)
    return (shot.ego_to_global @ camera.sensor_to_ego)[:3, :3].T @ moved
