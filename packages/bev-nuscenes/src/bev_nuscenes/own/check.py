"""Is what a description says plausible, and are its files there?

Limits are wide: they find metres that are centimetres, seconds that are nanoseconds, matrices that are inverted; how
well a rig is calibrated they do not judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..files import DEEP_MODES, LIDAR_SUFFIXES
from ..taxonomy import CLASSES
from .description import OwnBox, OwnCamera, OwnData, OwnFrame, OwnLidar, OwnScene
from .problems import Problem
from .read import read_description

__all__ = ["check_data", "check_description", "check_files"]

_MAX_SPEED = 100.0  # m/s; faster than any car, slower than a car measured in centimetres or per nanosecond
_MAX_MOUNT = 50.0  # metres from the ego origin to a sensor
_USUAL_MOUNT = 8.0
_MAX_BOX = 100.0  # metres
_FAR = 500.0  # metres from the ego to a box
_UPRIGHT = 0.3  # cosine between "down in the image" and "down in the world" from which a camera counts as upright
_SHORTEST_STEP = 1e-3  # seconds between frames; no camera is as fast
_PAUSE = 3.0  # times the usual distance between frames


def check_data(root: str | Path, file: str | Path | None = None) -> tuple[OwnData, list[Problem]]:
    """Read a data set and check everything: fields, plausibility, files.

    Raises:
        DataError: there is no description, or it cannot be parsed at all.
    """
    data, problems = read_description(root, file)
    return data, [*problems, *check_description(data), *check_files(data)]


def check_description(data: OwnData) -> Iterator[Problem]:
    """What is implausible in a description."""
    yield from _check_rig(data, "", data.cameras, data.lidar)
    for scene in data.scenes:
        yield from _check_rig(data, f"scenes.{scene.name}.", scene.cameras or (), scene.lidar)
    if not any(data.is_complete(frame) for scene in data.scenes for frame in scene.frames):
        yield Problem("error", data.file, "scenes", "no frame has an image of every camera")
    names = [scene.name for scene in data.scenes]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("error", data.file, f"scenes.{name}", "two scenes have this name; rename one")
    for scene in data.scenes:
        yield from _check_times(data, scene)
        yield from _check_motion(data, scene)
        yield from _check_gaps(data, scene)
        if data.lidar_of(scene) is None and any(frame.lidar is not None for frame in scene.frames):
            message = "frames name LiDAR files that are not read: the field lidar (folder, lidar_to_ego) is missing"
            yield Problem("warning", data.file, f"scenes.{scene.name}", message)
        for frame in scene.frames:
            yield from _check_boxes(data, scene, frame)


def check_files(data: OwnData, *, progress: bool = False) -> Iterator[Problem]:
    """Files that are missing, not readable, or of another size than their calibration says."""
    frames = [(scene, frame) for scene in data.scenes for frame in scene.frames]
    for scene, frame in tqdm(frames, desc="checking files", unit="frame", disable=not progress):
        for camera in data.cameras_of(scene):
            if camera.name in frame.images:
                path = data.image_path(camera, frame.images[camera.name])
                message = _image_fault(path, camera)
                if message:
                    yield Problem("error", data.file, f"{_place(scene, frame)}.images.{camera.name}", message)
        lidar = data.lidar_of(scene)
        if frame.lidar is not None and lidar is not None:
            path = data.root / lidar.folder / frame.lidar.file
            if not path.name.endswith(LIDAR_SUFFIXES):
                message = f"LiDAR file {path} is neither .bin nor .npy; convert it"
                yield Problem("error", data.file, f"{_place(scene, frame)}.lidar", message)
            elif not path.is_file():
                yield Problem("error", data.file, f"{_place(scene, frame)}.lidar", f"LiDAR file {path} is missing")


def _check_rig(data: OwnData, place: str, cameras: tuple[OwnCamera, ...], lidar: OwnLidar | None) -> Iterator[Problem]:
    for camera in cameras:
        yield from _check_camera(data, camera, f"{place}cameras.{camera.name}")
    if lidar is not None:
        yield from _check_mount(data, f"{place}lidar.lidar_to_ego", lidar.lidar_to_ego)


def _check_camera(data: OwnData, camera: OwnCamera, place: str) -> Iterator[Problem]:
    yield from _check_mount(data, f"{place}.cam_to_ego", camera.cam_to_ego)
    down = camera.cam_to_ego[2, 1]  # z in the ego frame of "down in the image"; -1 for a level camera
    if down > -_UPRIGHT:
        inverted = camera.cam_to_ego[1, 2] < -_UPRIGHT
        hint = "this looks like ego_to_cam: invert it" if inverted else "is it mounted turned, or are axes mixed up?"
        yield Problem(
            "warning",
            data.file,
            f"{place}.cam_to_ego",
            f"down in the image (y) has z {down:+.2f} in the ego frame, where a level camera has -1; {hint}",
        )
    yield from _check_intrinsics(data, camera, f"{place}.intrinsics")


def _check_intrinsics(data: OwnData, camera: OwnCamera, place: str) -> Iterator[Problem]:
    (width, height), matrix = camera.size, camera.intrinsics
    if not (0 < matrix[0, 2] < width and 0 < matrix[1, 2] < height):
        yield Problem(
            "error",
            data.file,
            place,
            f"the principal point ({matrix[0, 2]:.0f}, {matrix[1, 2]:.0f}) lies outside the {width}x{height} image; "
            "do intrinsics and size belong to the same resolution?",
        )
    if not 0.5 < matrix[0, 0] / matrix[1, 1] < 2:
        yield Problem("warning", data.file, place, f"fx {matrix[0, 0]:.0f} is far from fy {matrix[1, 1]:.0f}")


def _check_mount(data: OwnData, place: str, sensor_to_ego: np.ndarray) -> Iterator[Problem]:
    distance = float(np.linalg.norm(sensor_to_ego[:3, 3]))
    if distance <= _USUAL_MOUNT:
        return
    level: Literal["error", "warning"] = "error" if distance > _MAX_MOUNT else "warning"
    yield Problem(
        level,
        data.file,
        place,
        f"the sensor stands {distance:.4g} m from the ego origin; is the translation in metres, "
        "and is it the sensor's place in the ego frame?",
    )


def _check_times(data: OwnData, scene: OwnScene) -> Iterator[Problem]:
    for before, after in zip(scene.frames, scene.frames[1:], strict=False):
        step = after.timestamp - before.timestamp
        if step <= 0:
            what = "the same time as" if step == 0 else f"{-step:.6g} s before"
            message = f"{after.timestamp:.6f} s is {what} frame {before.number}; frames must be in order of time"
            yield Problem("error", data.file, f"{_place(scene, after)}.timestamp", message)
    usual = _usual_step(scene)
    if usual > 1000:
        message = f"frames are {usual:.4g} s apart; time stamps are seconds, are these milli-, micro- or nanoseconds?"
        yield Problem("error", data.file, f"scenes.{scene.name}", message)
    if 0 < usual < _SHORTEST_STEP:
        message = f"frames are {usual:.4g} s apart; time stamps are seconds, were these divided by too much?"
        yield Problem("warning", data.file, f"scenes.{scene.name}", message)


def _check_gaps(data: OwnData, scene: OwnScene) -> Iterator[Problem]:
    lacking = [frame for frame in scene.frames if not data.is_complete(frame)]
    if lacking:
        first = lacking[0]
        names = ", ".join(camera.name for camera in data.cameras if camera.name not in first.images)
        message = (
            f"{len(lacking)} of {len(scene.frames)} frames lack an image and are left out, "
            f"the first is frame {first.number} (no {names})"
        )
        yield Problem("warning", data.file, f"scenes.{scene.name}", message)
    steps, usual = _steps(scene), _usual_step(scene)
    pauses = [step for step in steps if step > _PAUSE * usual]
    if pauses:
        message = f"{len(pauses)} pauses, the longest {max(pauses):.3g} s where frames are usually {usual:.3g} s apart"
        yield Problem("warning", data.file, f"scenes.{scene.name}", f"{message}; history reaches across them")


def _check_motion(data: OwnData, scene: OwnScene) -> Iterator[Problem]:
    fastest, at = 0.0, None
    for before, after in zip(scene.frames, scene.frames[1:], strict=False):
        step = after.timestamp - before.timestamp
        way = float(np.linalg.norm(after.ego_to_global[:3, 3] - before.ego_to_global[:3, 3]))
        if step > 0 and way / step > fastest:
            fastest, at = way / step, after
    if at is not None and fastest > _MAX_SPEED:
        message = f"the ego arrives at {fastest:.4g} m/s; are positions in metres and time stamps in seconds?"
        yield Problem("error", data.file, f"{_place(scene, at)}.ego_to_global", message)


def _check_boxes(data: OwnData, scene: OwnScene, frame: OwnFrame) -> Iterator[Problem]:
    for number, box in enumerate(frame.boxes):
        place = f"{_place(scene, frame)}.boxes[{number}]"
        for level, field, message in _box_faults(data, frame, box):
            yield Problem(level, data.file, f"{place}.{field}", message)


def _box_faults(data: OwnData, frame: OwnFrame, box: OwnBox) -> Iterator[tuple[Literal["error", "warning"], str, str]]:
    if box.name not in data.classes and box.name not in CLASSES:
        yield (
            "error",
            "class",
            f"{box.name!r} is none of {', '.join(CLASSES)}; translate it under classes, to null to ignore it",
        )
    if max(box.size) > _MAX_BOX:
        yield "error", "size", f"{max(box.size):.4g} m is too long; [length, width, height] in metres is needed"
    if abs(box.yaw) > 2 * math.pi + 0.01:
        yield "error", "yaw", f"{box.yaw:.4g} radians is more than a turn; is it in degrees?"
    if box.velocity is not None and math.hypot(*box.velocity) > _MAX_SPEED:
        yield "error", "velocity", f"{math.hypot(*box.velocity):.4g} m/s is faster than {_MAX_SPEED:.0f} m/s"
    origin = frame.ego_to_global[:3, 3] if box.frame == "global" else np.zeros(3)
    distance = float(np.linalg.norm(np.asarray(box.centre) - origin))
    if distance > _FAR:
        yield "warning", "centre", f"{distance:.4g} m from the ego; frame says {box.frame}, metres are needed"


def _image_fault(path: Path, camera: OwnCamera) -> str | None:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            found, mode = image.size, image.mode
    except FileNotFoundError:
        return f"image {path} is missing"
    except UnidentifiedImageError:
        return f"image {path} is neither JPEG nor PNG"
    except OSError as error:
        return f"image {path} cannot be read: {error.strerror or error}"
    if mode.startswith(DEEP_MODES):
        return (
            f"image {path} has more than 8 bits per pixel and channel ({mode}), which would be cut off; scale it to 8"
        )
    if found != camera.size:
        (width, height), (given, tall) = found, camera.size
        return (
            f"image {path} has {width}x{height} pixels, its calibration is for {given}x{tall}; "
            "use the original images, or scale intrinsics and size with them"
        )
    return None


def _place(scene: OwnScene, frame: OwnFrame) -> str:
    return f"scenes.{scene.name}.frames[{frame.number}]"


def _steps(scene: OwnScene) -> list[float]:
    return [b.timestamp - a.timestamp for a, b in zip(scene.frames, scene.frames[1:], strict=False)]


def _usual_step(scene: OwnScene) -> float:
    steps = _steps(scene)
    return float(np.median(steps)) if steps else 0.0
