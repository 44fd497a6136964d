"""From the file to its description; what cannot be used is noted and left out, so that one reading finds everything."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..taxonomy import ATTRIBUTES, CLASSES
from .description import OwnBox, OwnCamera, OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .document import Field, open_document
from .folders import scene_of_folders
from .problems import Problem

__all__ = ["FILES", "description_file", "read_description"]

FILES = ("dataset.yaml", "dataset.yml", "dataset.json")
"""Names under which the description of a data set is looked for in its folder."""

FORMAT = 1
"""Version of the format; a file may say it as ``format``."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")


def description_file(root: str | Path) -> Path:
    """The file in a folder that describes the data.

    Raises:
        DataError: no such folder, or none of FILES in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder; give the folder that holds {FILES[0]}")
    found = next((root / name for name in FILES if (root / name).is_file()), None)
    if found is None:
        raise DataError(f"data root {root} has no {' or '.join(FILES)}; docs/own-data.md says what belongs in it")
    return found


def read_description(root: str | Path, file: str | Path | None = None) -> tuple[OwnData, list[Problem]]:
    """Read the description of a data set.

    Args:
        root: folder that the cameras' folders lie in.
        file: the description; None looks for FILES in the root.

    Returns:
        What could be read, and what could not. Neither images nor plausibility are looked at: see ``check``.

    Raises:
        DataError: the file is missing, not YAML or JSON, or has no usable camera.
    """
    path = description_file(root) if file is None else Path(file)
    problems: list[Problem] = []
    document = open_document(path, problems)
    data = document.attempt(lambda field: _data(field, Path(root)))
    if data is None or not data.cameras:
        first = str(problems[0]) if problems else f"{path}: cameras: at least one camera is needed"
        raise DataError(f"{first}; without a usable camera nothing else can be read")
    return data, problems


def _data(field: Field, root: Path) -> OwnData:
    field.expect_only("format", "cameras", "reference_camera", "lidar", "classes", "splits", "scenes", "rate_hz")
    version = field.get("format")
    if version is not None and version.number() != FORMAT:
        version.fail(f"this release reads format {FORMAT}, got {version.value}")
    cameras = tuple(camera for _, entry in field["cameras"].entries() if (camera := entry.attempt(_camera)) is not None)
    names = [camera.name for camera in cameras]
    lidar, reference = field.get("lidar"), field.get("reference_camera")
    scenes = _scenes(field, root, cameras)
    return OwnData(
        root=root,
        file=field.file,
        cameras=cameras,
        reference_camera=(reference and reference.attempt(lambda entry: entry.text(names))) or next(iter(names), ""),
        scenes=scenes,
        lidar=None if lidar is None else lidar.attempt(_lidar),
        classes=_classes(field),
        splits=_splits(field, [scene.name for scene in scenes]),
        posed=field.get("scenes") is not None,
    )


def _camera(field: Field) -> OwnCamera:
    field.expect_only("folder", "size", "intrinsics", "cam_to_ego")
    name = field.place.rpartition("cameras.")[2]
    folder, size = field["folder"].attempt(Field.text), field["size"].attempt(_size)
    intrinsics, pose = field["intrinsics"].attempt(_intrinsics), field["cam_to_ego"].attempt(Field.pose)
    if folder is None or size is None or intrinsics is None or pose is None:
        field.fail(f"camera {name} cannot be used as long as that is wrong")
    return OwnCamera(name=name, folder=folder, size=size, intrinsics=intrinsics, cam_to_ego=pose)


def _size(field: Field) -> tuple[int, int]:
    width, height = field.numbers(2)
    if min(width, height) < 1 or (width, height) != (int(width), int(height)):
        field.fail(f"[width, height] in whole pixels is needed, got {field.value}")
    return int(width), int(height)


def _intrinsics(field: Field) -> np.ndarray:
    matrix = field.numbers(3, 3)
    if not np.allclose(matrix[2], (0, 0, 1), atol=1e-9) or min(matrix[0, 0], matrix[1, 1]) <= 0:
        field.fail(f"[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0 is needed, got {field.value}")
    return matrix


def _lidar(field: Field) -> OwnLidar:
    field.expect_only("folder", "lidar_to_ego")
    return OwnLidar(folder=field["folder"].text(), lidar_to_ego=field["lidar_to_ego"].pose())


def _classes(field: Field) -> dict[str, str | None]:
    entry = field.get("classes")
    if entry is None:
        return {}
    classes: dict[str, str | None] = {}
    for name, target in entry.attempt(Field.entries) or []:
        known = target.value is None or target.attempt(lambda target: target.text(CLASSES)) is not None
        if known:
            classes[name] = target.value
    return classes


def _splits(field: Field, scenes: list[str]) -> dict[str, tuple[str, ...]]:
    splits = {"all": tuple(scenes)}
    entry = field.get("splits")
    for name, listed in (entry and entry.attempt(Field.entries)) or []:
        elements = listed.attempt(Field.elements) or []
        found = [element.attempt(lambda element: element.text(scenes)) for element in elements]
        if name == "all":
            listed.note("the split all holds every scene; choose another name")
        else:
            splits[name] = tuple(scene for scene in found if scene is not None)
    return splits


def _scenes(field: Field, root: Path, cameras: tuple[OwnCamera, ...]) -> tuple[OwnScene, ...]:
    listed, rate = field.get("scenes"), field.get("rate_hz")
    if listed is None:
        return scene_of_folders(field, root, cameras, 2.0 if rate is None else rate.number())
    if rate is not None:
        rate.note("rate_hz is for folders without scenes; frames of scenes have time stamps, leave it out")
    found = [entry.attempt(lambda entry: _scene(entry, cameras)) for entry in listed.elements(_scene_label)]
    scenes = tuple(scene for scene in found if scene is not None)
    _note_foreign_cameras(listed, scenes, {camera.name for camera in cameras})
    return scenes


def _scene_label(number: int, value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return f"[{number}]" if name is None else f".{name}"


def _scene(field: Field, cameras: tuple[OwnCamera, ...]) -> OwnScene:
    field.expect_only("name", "frames", "cameras", "lidar")
    name = field["name"].text()
    if not _SAFE_NAME.fullmatch(name):
        field["name"].fail(f"letters, digits and _ . - are needed (it becomes part of file names), got {name!r}")
    frames = [
        entry.attempt(lambda entry, number=number: _frame(entry, number))
        for number, entry in enumerate(field["frames"].elements())
    ]
    own, lidar = field.get("cameras"), field.get("lidar")
    return OwnScene(
        name=name,
        frames=tuple(frame for frame in frames if frame is not None),
        cameras=None if own is None else _replaced(own, cameras),
        lidar=None if lidar is None else lidar.attempt(_lidar),
    )


def _replaced(field: Field, cameras: tuple[OwnCamera, ...]) -> tuple[OwnCamera, ...]:
    """The data's cameras with those of a scene in their places."""
    field.expect_only(*(camera.name for camera in cameras))
    own = {name: entry.attempt(_camera) for name, entry in field.entries()}
    return tuple(own.get(camera.name) or camera for camera in cameras)


def _note_foreign_cameras(field: Field, scenes: tuple[OwnScene, ...], known: set[str]) -> None:
    for scene in scenes:
        foreign = {name for frame in scene.frames for name in frame.images} - known
        if foreign:
            names = ", ".join(sorted(foreign))
            field.note(f"scene {scene.name} has images of {names}, which is no usable camera; cameras must list it")


def _frame(field: Field, number: int) -> OwnFrame:
    field.expect_only("timestamp", "ego_to_global", "images", "lidar", "boxes")
    timestamp, pose = field["timestamp"].number(), field["ego_to_global"].pose()
    images = {
        name: reading
        for name, entry in field["images"].entries()
        if entry.value is not None and (reading := entry.attempt(_reading)) is not None
    }
    lidar, boxes = field.get("lidar"), field.get("boxes")
    listed = [] if boxes is None else [entry.attempt(_box) for entry in boxes.elements()]
    return OwnFrame(
        number=number,
        timestamp=timestamp,
        ego_to_global=pose,
        images=images,
        lidar=None if lidar is None else lidar.attempt(_reading),
        boxes=tuple(box for box in listed if box is not None),
    )


def _reading(field: Field) -> OwnReading:
    """A file name, or one with the time and pose at which it was taken."""
    if not isinstance(field.value, dict):
        return OwnReading(file=field.text())
    field.expect_only("file", "timestamp", "ego_to_global")
    timestamp, pose = field.get("timestamp"), field.get("ego_to_global")
    return OwnReading(
        file=field["file"].text(),
        timestamp=None if timestamp is None else timestamp.number(),
        ego_to_global=None if pose is None else pose.pose(),
    )


def _box(field: Field) -> OwnBox:
    field.expect_only("class", "centre", "size", "yaw", "frame", "velocity", "points", "track", "attribute")
    velocity, points, track, attribute = (field.get(name) for name in ("velocity", "points", "track", "attribute"))
    size = field["size"].numbers(3)
    if size.min() <= 0:
        field["size"].fail(f"[length, width, height] above 0 is needed, got {field['size'].value}")
    return OwnBox(
        name=field["class"].text(),
        centre=tuple(field["centre"].numbers(3).tolist()),
        size=tuple(size.tolist()),
        yaw=field["yaw"].number(),
        frame=field["frame"].text(("ego", "global")),
        velocity=None if velocity is None else tuple(velocity.numbers(2).tolist()),
        points=None if points is None else int(points.number()),
        track=None if track is None else track.text(),
        attribute=None if attribute is None else attribute.text(ATTRIBUTES),
    )
