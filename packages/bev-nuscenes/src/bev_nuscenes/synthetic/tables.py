"""The thirteen tables of a nuScenes data set, and its map masks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .actors import Path as RoadPath
from .calibration import IMAGE_SIZE, LIDAR, RENDERED_CAMERAS, euler_to_rotation, rotation_to_quaternion
from .recorder import Sightings, actor_center, sample_token
from .road import Surface
from .schedule import SceneRecord, Shot, WorldOptions, make_token

VERSION = "v1.0-mini"
ANNOTATED_RANGE = 60.0  # metres from the ego car
SEEN_PIXELS = 60  # an actor without LiDAR points is annotated where at least so many pixels of it show
MAP_STEP = 0.1  # metres per pixel, fixed by the devkit

Row = dict[str, Any]

_VISIBILITY_LIMITS = (0.4, 0.6, 0.8)
_VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)
_CATEGORIES = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)
_RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")


@dataclass
class Tables:
    """Rows of the thirteen tables, each named as its file."""

    attribute: list[Row] = field(default_factory=list)
    calibrated_sensor: list[Row] = field(default_factory=list)
    category: list[Row] = field(default_factory=list)
    ego_pose: list[Row] = field(default_factory=list)
    instance: list[Row] = field(default_factory=list)
    log: list[Row] = field(default_factory=list)
    map: list[Row] = field(default_factory=list)
    sample: list[Row] = field(default_factory=list)
    sample_annotation: list[Row] = field(default_factory=list)
    sample_data: list[Row] = field(default_factory=list)
    scene: list[Row] = field(default_factory=list)
    sensor: list[Row] = field(default_factory=list)
    visibility: list[Row] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write one JSON file per table into an existing folder."""
        for name, rows in vars(self).items():
            (folder / f"{name}.json").write_text(json.dumps(rows, indent=0) + "\n")


def make_tables(options: WorldOptions, recorded: Iterable[tuple[SceneRecord, Sequence[Sightings]]]) -> Tables:
    """All tables for scenes and what was seen in each of their key frames."""
    tables = Tables()
    tables.attribute += [
        {"token": make_token("attribute", n), "name": n, "description": n.replace(".", " ")} for n in _ATTRIBUTES
    ]
    tables.category += [
        {"token": make_token("category", n), "name": n, "description": n.replace(".", " ")} for n in _CATEGORIES
    ]
    channels = ((RENDERED_CAMERAS, "camera"), ((LIDAR,), "lidar"), (_RADARS, "radar"))
    for names, modality in channels:
        tables.sensor += [{"token": make_token("sensor", n), "channel": n, "modality": modality} for n in names]
    for number, level in enumerate(_VISIBILITIES, start=1):
        tables.visibility.append(
            {"description": f"visible part in percent: {level[1:]}", "token": str(number), "level": level}
        )
    for record, sightings in recorded:
        writer = _SceneWriter(tables, options, record)
        writer.add_scene()
        writer.add_shots()
        writer.add_annotations(sightings)
    return tables


def write_map_mask(path: Path, record: SceneRecord) -> None:
    """A mask PNG, 255 on the road and its sidewalks; y grows upwards from the last row, as the devkit wants it."""
    edge = round(record.scene.extent / MAP_STEP)
    center = (np.arange(edge, dtype=np.float32) + 0.5) * np.float32(MAP_STEP)
    surface = record.scene.road.surface(center[None, :], center[::-1, None])
    Image.fromarray((surface != Surface.TERRAIN).astype(np.uint8) * 255).save(path)


class _SceneWriter:
    """Adds the rows of one scene."""

    def __init__(self, tables: Tables, options: WorldOptions, record: SceneRecord) -> None:
        self.tables, self.options, self.record = tables, options, record
        self.frames = range(options.samples_per_scene)
        self.samples = [sample_token(options, record.name, frame) for frame in self.frames]

    def add_scene(self) -> None:
        record, log, scene = self.record, self._token("log"), self._token("scene")
        ends = {"first_sample_token": self.samples[0], "last_sample_token": self.samples[-1]}
        about = {"name": record.name, "description": _describe(record)}
        self.tables.scene.append({"token": scene, "log_token": log, "nbr_samples": len(self.samples), **ends, **about})
        place = {"date_captured": "2018-07-24", "location": "synthetic"}
        self.tables.log.append({"token": log, "logfile": record.logfile, "vehicle": "synthetic", **place})
        token = self._token("map")
        self.tables.map.append(
            {"category": "semantic_prior", "token": token, "filename": f"maps/{token}.png", "log_tokens": [log]}
        )
        key_times = [shot.timestamp for shot in record.shots if shot.channel == LIDAR and shot.is_key_frame]
        for token, time, (before, after) in zip(self.samples, key_times, _neighbours(self.samples), strict=True):
            self.tables.sample.append(
                {"token": token, "timestamp": time, "prev": before, "next": after, "scene_token": scene}
            )

    def add_shots(self) -> None:
        for sensor in self.record.calibration.values():
            self.tables.calibrated_sensor.append(
                {
                    "token": self._token("calibrated_sensor", sensor.channel),
                    "sensor_token": make_token("sensor", sensor.channel),
                    "translation": sensor.sensor_to_ego[:3, 3].tolist(),
                    "rotation": rotation_to_quaternion(sensor.sensor_to_ego[:3, :3]),
                    "camera_intrinsic": [] if sensor.intrinsics is None else sensor.intrinsics.tolist(),
                }
            )
            shots = [shot for shot in self.record.shots if shot.channel == sensor.channel]
            tokens = [self._token("sample_data", shot.channel, shot.timestamp) for shot in shots]
            for shot, token, neighbours in zip(shots, tokens, _neighbours(tokens), strict=True):
                self._add_shot(shot, token, neighbours)

    def _add_shot(self, shot: Shot, token: str, neighbours: tuple[str, str]) -> None:
        pose = shot.ego_to_global
        rotation, translation = rotation_to_quaternion(pose[:3, :3]), pose[:3, 3].tolist()
        self.tables.ego_pose.append(
            {"token": token, "timestamp": shot.timestamp, "rotation": rotation, "translation": translation}
        )
        width, height = (0, 0) if shot.channel == LIDAR else IMAGE_SIZE
        self.tables.sample_data.append(
            {
                "token": token,
                "sample_token": self.samples[shot.frame],
                "ego_pose_token": token,
                "calibrated_sensor_token": self._token("calibrated_sensor", shot.channel),
                "timestamp": shot.timestamp,
                "fileformat": "pcd" if shot.channel == LIDAR else "jpg",
                "is_key_frame": shot.is_key_frame,
                "height": height,
                "width": width,
                "filename": shot.filename,
                "prev": neighbours[0],
                "next": neighbours[1],
            }
        )

    def add_annotations(self, sightings: Sequence[Sightings]) -> None:
        times = [1e-6 * frame * 500_000 for frame in self.frames]
        egos = [
            np.array(self.record.scene.ego.pose(self.record.scene.road, time)[:2], dtype=np.float64) for time in times
        ]
        for index in range(len(self.record.scene.actors)):
            centers = [actor_center(self.record, index, time) for time in times]
            seen = [
                frame
                for frame in self.frames
                if np.hypot(*(centers[frame][:2] - egos[frame])) < ANNOTATED_RANGE
                and (sightings[frame].lidar_points[index] > 0 or sightings[frame].visible[index] >= SEEN_PIXELS)
            ]
            if seen:
                self._add_instance(index, range(seen[0], seen[-1] + 1), centers, times, sightings)

    def _add_instance(
        self, index: int, frames: range, centers: list[np.ndarray], times: list[float], sightings: Sequence[Sightings]
    ) -> None:
        """Annotate an actor from the first to the last key frame it is seen in, without a gap."""
        actor, instance = self.record.scene.actors[index], self._token("instance", index)
        tokens = [self._token("sample_annotation", index, frame) for frame in frames]
        ends = {"first_annotation_token": tokens[0], "last_annotation_token": tokens[-1]}
        category = make_token("category", actor.category)
        self.tables.instance.append(
            {"token": instance, "category_token": category, "nbr_annotations": len(tokens), **ends}
        )
        for frame, token, (before, after) in zip(frames, tokens, _neighbours(tokens), strict=True):
            yaw = float(actor.path.pose(self.record.scene.road, times[frame])[2])
            attribute = actor.attribute_at(times[frame])
            self.tables.sample_annotation.append(
                {
                    "token": token,
                    "sample_token": self.samples[frame],
                    "instance_token": instance,
                    "visibility_token": _visibility(sightings[frame], index),
                    "attribute_tokens": [make_token("attribute", attribute)] if attribute else [],
                    "translation": centers[frame].tolist(),
                    "size": [float(extent) for extent in actor.size],
                    "rotation": rotation_to_quaternion(euler_to_rotation(yaw)),
                    "prev": before,
                    "next": after,
                    "num_lidar_pts": int(sightings[frame].lidar_points[index]),
                    "num_radar_pts": 0,
                }
            )

    def _token(self, *parts: object) -> str:
        return make_token(self.options.seed, self.record.name, *parts)


def _neighbours(tokens: Sequence[str]) -> list[tuple[str, str]]:
    """Token before and after each, empty at the ends."""
    return list(zip(["", *tokens[:-1]], [*tokens[1:], ""], strict=True))


def _visibility(sightings: Sightings, index: int) -> str:
    """Visibility token, "1" to "4", of the part of an actor's pixels that show."""
    part = sightings.visible[index] / max(1, sightings.footprints[index])
    return str(1 + int(np.searchsorted(_VISIBILITY_LIMITS, part, side="right")))


def _describe(record: SceneRecord) -> str:
    scene = record.scene
    sky = f"{record.weather.described}, synthetic" if record.weather.described else "Synthetic"
    if not isinstance(scene.ego, RoadPath):
        return f"{sky} {scene.about}, {len(scene.actors)} objects"
    turn = "left" if scene.road.curvature > 0 else "right"
    return f"{sky} street, gentle {turn} curve, {scene.ego.s_rate:.0f} m/s, {len(scene.actors)} objects"
