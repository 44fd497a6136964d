"""Record one key frame of a scene to disk: images, sweeps, occupancy; and count what the sensors saw of every actor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from .calibration import LIDAR, euler_to_rotation
from .camera import Picture, take_picture
from .develop import develop
from .geometry import SceneGeometry
from .lidar import Sweep, cast_sweep
from .occupancy import CameraDepth, make_occupancy
from .schedule import SceneRecord, Shot, WorldOptions, make_record, make_token

JPEG_QUALITY = 90


@dataclass(frozen=True)
class Sightings:
    """What a key frame's sensors saw of the scene's A actors."""

    lidar_points: np.ndarray  # (A,) returns of the actor inside its box
    footprints: np.ndarray  # (A,) pixels it would cover in all cameras if nothing hid it
    visible: np.ndarray  # (A,) pixels of it that show


def record_frame(root: Path, options: WorldOptions, scene_name: str, frame: int) -> Sightings:
    """Write all files of a key frame, and of the sweeps that lead up to it, below `root`."""
    record, geometry = make_record(options, scene_name), _make_geometry(options, scene_name)
    pictures, sweep = [], None
    for shot in (shot for shot in record.shots if shot.frame == frame):
        if shot.channel == LIDAR:
            cast = shoot_lidar(record, geometry, shot, options.seed)
            cast.points.tofile(root / shot.filename)
            sweep = (shot, cast) if shot.is_key_frame else sweep
        else:
            picture = shoot_camera(record, geometry, shot, options)
            Image.fromarray(picture.image).save(root / shot.filename, quality=JPEG_QUALITY)
            if shot.is_key_frame:
                pictures.append((shot, picture))
    assert sweep is not None, "every key frame has a LiDAR sweep"
    folder = root / "gts" / record.name / sample_token(options, record.name, frame)
    folder.mkdir(parents=True)
    _save_occupancy(folder / "labels.npz", record, geometry, sweep, pictures)
    return Sightings(
        count_actor_points(record, sweep[0], sweep[1]),
        np.sum([picture.footprints for _, picture in pictures], axis=0),
        np.sum([picture.visible for _, picture in pictures], axis=0),
    )


def shoot_camera(
    record: SceneRecord, geometry: SceneGeometry, shot: Shot, options: WorldOptions | None = None
) -> Picture:
    """Render one image; with `options`, what weather and sensor do to it is added."""
    camera, time = record.calibration[shot.channel], record.seconds(shot.timestamp)
    picture = take_picture(geometry, camera, shot.ego_to_global, time, record.lighting, record.ground)
    if options is None or (record.weather.name == "clear" and options.sensor_noise == 0):
        return picture
    return replace(picture, image=develop(picture, record, shot, options))


def shoot_lidar(record: SceneRecord, geometry: SceneGeometry, shot: Shot, seed: int) -> Sweep:
    """Cast one sweep."""
    rng = np.random.default_rng([seed, 4, shot.timestamp])
    lidar_to_global = shot.ego_to_global @ record.calibration[LIDAR].sensor_to_ego
    return cast_sweep(geometry, lidar_to_global, record.seconds(shot.timestamp), rng, record.weather)


def count_actor_points(record: SceneRecord, shot: Shot, sweep: Sweep) -> np.ndarray:
    """(A,) returns of every actor that lie in its box; the ground below it does not count."""
    lidar_to_global = shot.ego_to_global @ record.calibration[LIDAR].sensor_to_ego
    points = (
        np.einsum("ij,nj->ni", lidar_to_global[:3, :3], sweep.points[:, :3].astype(np.float64)) + lidar_to_global[:3, 3]
    )
    time = record.seconds(shot.timestamp)
    counts = np.zeros(len(record.scene.actors), dtype=np.int64)
    for index in np.unique(sweep.owners[(sweep.owners >= 0) & (sweep.owners < len(counts))]):
        actor = record.scene.actors[index]
        own = points[sweep.owners == index] - actor_center(record, index, time)
        local = own @ euler_to_rotation(float(actor.path.pose(record.scene.road, time)[2]))
        width, length, height = actor.size
        counts[index] = (np.abs(local) <= np.array([length, width, height]) / 2).all(axis=1).sum()
    return counts


def actor_center(record: SceneRecord, index: int, time: float) -> np.ndarray:
    """Centre of an actor's box, global, metres."""
    actor = record.scene.actors[index]
    x, y, _ = actor.path.pose(record.scene.road, time)
    return np.array([float(x), float(y), actor.size[2] / 2])


def sample_token(options: WorldOptions, scene_name: str, frame: int) -> str:
    """Token of a key frame."""
    return make_token(options.seed, scene_name, "sample", frame)


@lru_cache(maxsize=2)
def _make_geometry(options: WorldOptions, scene_name: str) -> SceneGeometry:
    return SceneGeometry(make_record(options, scene_name).scene)


def _save_occupancy(
    path: Path,
    record: SceneRecord,
    geometry: SceneGeometry,
    sweep: tuple[Shot, Sweep],
    pictures: list[tuple[Shot, Picture]],
) -> None:
    shot, cast = sweep
    cameras = [
        CameraDepth(record.calibration[taken.channel], taken.ego_to_global, picture.depth)
        for taken, picture in pictures
    ]
    lidar_to_ego = record.calibration[LIDAR].sensor_to_ego
    points = cast.points[:, :3].astype(np.float64)
    make_occupancy(geometry, shot.ego_to_global, record.seconds(shot.timestamp), lidar_to_ego, points, cameras).save(
        path
    )
