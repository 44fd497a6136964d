"""Who records what when: scene names, time stamps, ego poses, file names. No rendering happens here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5

import numpy as np

from .calibration import (
    LIDAR,
    RENDERED_CAMERAS,
    SensorCalibration,
    euler_to_rotation,
    make_calibration,
    make_transform,
    trigger_times,
)
from .intersection import make_crossing_scene
from .layout import Scene, make_scene
from .shading import GroundTable, Lighting, make_ground_table, make_lighting
from .weather import MIXED, WEATHERS, Weather, draw_weather, light_up

MINI_TRAIN = (
    "scene-0061",
    "scene-0553",
    "scene-0655",
    "scene-0757",
    "scene-0796",
    "scene-1077",
    "scene-1094",
    "scene-1100",
)
MINI_VAL = ("scene-0103", "scene-0916")
KEY_INTERVAL_US = 500_000
_FIRST_TIME_US = 1_532_402_900_000_000


@dataclass(frozen=True, kw_only=True)
class WorldOptions:
    """What determines the bytes of a world."""

    scenes: int = 10
    samples_per_scene: int = 10
    seed: int = 0
    sweeps: int = 1  # LiDAR sweeps between two key frames
    camera_sweeps: int = 0  # images per camera between two key frames
    density: float = 1.0  # part of the optional actors that are placed; above 1 there are more, close together
    weather: str = "clear"  # a name of `weather.WEATHERS`, or "mixed"
    variety: float = 0.0  # part of the actors that have other than the plain shapes
    intersections: bool = False  # every scene at a junction of two roads
    sensor_noise: float = 0.0  # 0 perfect cameras … 1 as noisy as real ones

    def __post_init__(self) -> None:
        most = len(MINI_TRAIN) + len(MINI_VAL)
        _check("scenes", self.scenes, 1, most, f"v1.0-mini names {most} scenes")
        _check("samples_per_scene", self.samples_per_scene, 1, 80, "scenes last at most 40 s")
        _check("sweeps", self.sweeps, 0, 9, "the LiDAR turns 20 times a second")
        _check("camera_sweeps", self.camera_sweeps, 0, 5, "the cameras record 12 images a second")
        _check("seed", self.seed, 0, 2**32 - 1, "it seeds a random generator")
        _check("density", self.density, 0.0, 3.0, "it multiplies the actors, and the street is full at 3")
        _check("variety", self.variety, 0.0, 1.0, "it is a part of the actors")
        _check("sensor_noise", self.sensor_noise, 0.0, 1.0, "1 is as noisy as a real camera")
        if self.weather not in (*WEATHERS, MIXED):
            raise ValueError(f"weather must be one of {', '.join((*WEATHERS, MIXED))}, not {self.weather!r}")


@dataclass(frozen=True)
class Shot:
    """One recording of one sensor."""

    channel: str
    timestamp: int  # microseconds
    frame: int  # the key frame it is, or the one it leads up to
    is_key_frame: bool
    filename: str  # relative to the data set
    ego_to_global: np.ndarray  # (4, 4) at the time stamp


@dataclass(frozen=True)
class SceneRecord:
    """A scene with everything needed to record it; times are seconds since its first key frame."""

    name: str
    logfile: str
    scene: Scene
    calibration: dict[str, SensorCalibration]
    lighting: Lighting
    ground: GroundTable
    first_time: int  # LiDAR time stamp of the first key frame, microseconds
    shots: tuple[Shot, ...]  # by time stamp, then channel
    weather: Weather

    def seconds(self, timestamp: int) -> float:
        """Time since the first key frame."""
        return (timestamp - self.first_time) * 1e-6


def scene_names(count: int) -> list[str]:
    """Names of a world of `count` scenes: four fifths from mini_train, the rest, at least one of two, from mini_val."""
    val = 0 if count == 1 else min(len(MINI_VAL), max(1, round(count / 5)))
    val = max(val, count - len(MINI_TRAIN))
    return [*MINI_TRAIN[: count - val], *MINI_VAL[:val]]


def make_token(*parts: object) -> str:
    """A token of 32 hexadecimal digits that depends on nothing but its parts."""
    return md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


@lru_cache(maxsize=2)
def make_record(options: WorldOptions, name: str) -> SceneRecord:
    """The scene of this name; it depends on the seed, the length and the name, not on which other scenes there are."""
    index = (MINI_TRAIN + MINI_VAL).index(name)
    layout_rng, look_rng, car_rng = (np.random.default_rng([options.seed, index, stream]) for stream in range(3))
    weather = draw_weather(options.weather, options.seed, index)
    duration = 1e-6 * KEY_INTERVAL_US * (options.samples_per_scene - 1)
    make = make_crossing_scene if options.intersections else make_scene
    scene = make(layout_rng, duration, options.density, variety=options.variety, dark=weather.dark)
    first_time = _FIRST_TIME_US + index * 1_000_000_000
    logfile = f"synthetic-{options.seed}-{name[-4:]}"
    shots = _make_shots(options, scene, index, first_time, logfile)
    return SceneRecord(
        name,
        logfile,
        scene,
        make_calibration(car_rng),
        light_up(weather, make_lighting(look_rng), np.random.default_rng([options.seed, index, 4])),
        make_ground_table(look_rng),
        first_time,
        tuple(shots),
        weather,
    )


def ego_pose(scene: Scene, time: float) -> np.ndarray:
    """(4, 4) ego_to_global `time` seconds after the first key frame; the body sways by about a tenth of a degree."""
    x, y, yaw = scene.ego.pose(scene.road, time)
    pitch, roll = 0.002 * np.sin(2.1 * time + 0.4), 0.0015 * np.sin(1.7 * time)
    return make_transform(euler_to_rotation(float(yaw), pitch, roll), (float(x), float(y), 0.0))


def _make_shots(options: WorldOptions, scene: Scene, index: int, first_time: int, logfile: str) -> list[Shot]:
    shots = []
    for frame in range(options.samples_per_scene):
        key_time = first_time + frame * KEY_INTERVAL_US
        moments: list[tuple[int, bool, tuple[str, ...]]] = [(key_time, True, (LIDAR, *RENDERED_CAMERAS))]
        if frame:
            moments += [(time, False, (LIDAR,)) for time in _between(key_time, options.sweeps)]
            moments += [(time, False, RENDERED_CAMERAS) for time in _between(key_time, options.camera_sweeps)]
        for time, is_key, channels in moments:
            rng = np.random.default_rng([options.seed, index, 3, time - first_time])
            times = {LIDAR: time, **trigger_times(time, rng)}
            for channel in channels:
                shots.append(_make_shot(scene, channel, times[channel], frame, is_key, first_time, logfile))
    return sorted(shots, key=lambda shot: (shot.timestamp, shot.channel))


def _between(key_time: int, count: int) -> list[int]:
    """Evenly spread times between the key frame before and this one."""
    gap = KEY_INTERVAL_US // (count + 1)
    return [key_time - step * gap for step in range(1, count + 1)]


def _make_shot(scene: Scene, channel: str, time: int, frame: int, is_key: bool, first_time: int, logfile: str) -> Shot:
    folder, ending = ("samples" if is_key else "sweeps"), ("pcd.bin" if channel == LIDAR else "jpg")
    filename = f"{folder}/{channel}/{logfile}__{channel}__{time}.{ending}"
    return Shot(channel, time, frame, is_key, filename, ego_pose(scene, (time - first_time) * 1e-6))


def _check(name: str, value: float, least: float, most: float, reason: str) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most} ({reason}), not {value}")
