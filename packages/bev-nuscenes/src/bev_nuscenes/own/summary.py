"""What a data set holds, in a few lines."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from .description import OwnCamera, OwnData

__all__ = ["field_of_view", "summary"]


def summary(data: OwnData) -> str:
    """Cameras, scenes, frames and boxes of a data set."""
    frames = [frame for scene in data.scenes for frame in scene.frames]
    complete = sum(data.is_complete(frame) for frame in frames)
    boxes = Counter(data.class_of(box.name) or "ignored" for frame in frames for box in frame.boxes)
    lines = [f"{data.file}: {len(data.cameras)} cameras, {len(data.scenes)} scenes, {len(frames)} frames"]
    lines += [f"  {_camera(camera)}" for camera in data.cameras]
    lines += [f"  scene {scene.name}: {len(scene.frames)} frames" for scene in data.scenes]
    if complete < len(frames):
        lines.append(f"  {len(frames) - complete} frames lack an image and are left out")
    lines.append(f"  poses: {'given' if data.posed else 'none, the ego stands still'}")
    scanned = [frame for scene in data.scenes if data.lidar_of(scene) for frame in scene.frames if frame.lidar]
    lines.append(f"  LiDAR: {len(scanned)} frames")
    lines.append("  boxes: " + (", ".join(f"{count} {name}" for name, count in boxes.most_common()) or "none"))
    lines.append("  splits: " + ", ".join(f"{name} ({len(scenes)} scenes)" for name, scenes in data.splits.items()))
    return "\n".join(lines)


def field_of_view(intrinsics: np.ndarray, width: int) -> float:
    """Horizontal field of view, radians, of an image ``width`` pixels wide with intrinsics (3, 3)."""
    focal, centre = intrinsics[0, 0], intrinsics[0, 2]
    return math.atan2(centre, focal) + math.atan2(width - centre, focal)


def _camera(camera: OwnCamera) -> str:
    x, y, z = camera.cam_to_ego[:3, 3]
    forward = camera.cam_to_ego[:3, 2]
    heading = np.rad2deg(math.atan2(forward[1], forward[0]))
    view = np.rad2deg(field_of_view(camera.intrinsics, camera.size[0]))
    return (
        f"camera {camera.name}: {camera.size[0]}x{camera.size[1]}, {view:.0f} degrees wide, at x {x:.2f} y {y:.2f} "
        f"z {z:.2f} m, looks {heading:+.0f} degrees from forward"
    )
