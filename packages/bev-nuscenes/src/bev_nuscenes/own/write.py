"""Writing a description; what was written reads as what it was, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..files import atomic_write
from .description import OwnBox, OwnCamera, OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .read import FORMAT

__all__ = ["write_description"]


def write_description(data: OwnData) -> Path:
    """Write a description to ``data.file``: JSON if it is called so, which reads much faster, else YAML."""
    content = _document(data)
    with atomic_write(data.file) as file:
        if data.file.suffix == ".json":
            json.dump(content, file, indent=1)
        else:
            yaml.dump(content, file, Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=120)
    return data.file


class _Dumper(yaml.SafeDumper):
    """Writes out what occurs twice instead of referring to it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _document(data: OwnData) -> dict[str, Any]:
    content: dict[str, Any] = {
        "format": FORMAT,
        "cameras": {camera.name: _camera(camera) for camera in data.cameras},
        "reference_camera": data.reference_camera,
        "lidar": _lidar(data.lidar),
        "classes": dict(data.classes) or None,
        "splits": {name: list(scenes) for name, scenes in data.splits.items() if name != "all"} or None,
        "rate_hz": None if data.posed else _rate(data),
        "scenes": list(map(_scene, data.scenes)) if data.posed else None,
    }
    return _given(content)


def _rate(data: OwnData) -> float | None:
    """Frames per second of frames that were found in folders: the first is at 0, the others follow evenly."""
    times = [frame.timestamp for scene in data.scenes for frame in scene.frames]
    return round(1 / times[1], 9) if len(times) > 1 else None


def _scene(scene: OwnScene) -> dict[str, Any]:
    return _given(
        {
            "name": scene.name,
            "cameras": None if scene.cameras is None else {camera.name: _camera(camera) for camera in scene.cameras},
            "lidar": _lidar(scene.lidar),
            "frames": list(map(_frame, scene.frames)),
        }
    )


def _lidar(lidar: OwnLidar | None) -> dict[str, Any] | None:
    return None if lidar is None else {"folder": lidar.folder, "lidar_to_ego": lidar.lidar_to_ego.tolist()}


def _camera(camera: OwnCamera) -> dict[str, Any]:
    return {
        "folder": camera.folder,
        "size": list(camera.size),
        "intrinsics": camera.intrinsics.tolist(),
        "cam_to_ego": camera.cam_to_ego.tolist(),
    }


def _frame(frame: OwnFrame) -> dict[str, Any]:
    return _given(
        {
            "timestamp": frame.timestamp,
            "ego_to_global": frame.ego_to_global.tolist(),
            "images": {name: _reading(reading) for name, reading in frame.images.items()},
            "lidar": None if frame.lidar is None else _reading(frame.lidar),
            "boxes": list(map(_box, frame.boxes)) or None,
        }
    )


def _reading(reading: OwnReading) -> str | dict[str, Any]:
    if reading.timestamp is None and reading.ego_to_global is None:
        return reading.file
    pose = None if reading.ego_to_global is None else np.asarray(reading.ego_to_global).tolist()
    return _given({"file": reading.file, "timestamp": reading.timestamp, "ego_to_global": pose})


def _box(box: OwnBox) -> dict[str, Any]:
    return _given(
        {
            "class": box.name,
            "centre": list(box.centre),
            "size": list(box.size),
            "yaw": box.yaw,
            "frame": box.frame,
            "velocity": None if box.velocity is None else list(box.velocity),
            "points": box.points,
            "track": box.track,
            "attribute": box.attribute,
        }
    )


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
