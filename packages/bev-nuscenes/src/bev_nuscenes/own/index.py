"""Own data as the index that data sets, samplers, training and prediction read."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ..geometry import invert_pose
from ..index import BoxTable, CameraTable, FrameTable, IndexInfo, LidarTable, NuscenesIndex, SceneTable
from ..taxonomy import ATTRIBUTES, CLASSES
from .check import check_description, check_files
from .description import OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .folders import frames_are_found
from .problems import raise_errors
from .read import description_file, read_description
from .tracks import track_velocities

__all__ = ["OWN", "build_own_index", "index_of", "own_fingerprint"]

OWN = "own"
"""The ``version`` by which options name own data."""


def build_own_index(root: str | Path, file: str | Path | None = None, *, progress: bool = False) -> NuscenesIndex:
    """Read and check own data, and index it.

    Frames come scene by scene, in order of time within each; those without an image of every camera are left out.
    Boxes stand in the ego frame of the reference camera's image. What is strange but usable is warned about.

    Args:
        root: folder that the cameras' folders lie in.
        file: the description; None looks for ``dataset.yaml`` or ``dataset.json`` in the root.
        progress: show a progress bar while files are checked.

    Raises:
        DataError: something is wrong; ``python -m bev_nuscenes.own check`` lists everything.
    """
    fingerprint = own_fingerprint(root) if file is None else ""  # before reading: what changes meanwhile is read again
    data, problems = read_description(root, file)
    problems = [*problems, *check_description(data), *check_files(data, progress=progress)]
    raise_errors(problems)
    for problem in problems:
        warnings.warn(str(problem), stacklevel=2)
    return index_of(data, fingerprint)


def own_fingerprint(root: str | Path) -> str:
    """Digest of the description, and of the names of the images where they are found instead of listed.

    Raises:
        DataError: no description in the root.
    """
    path = description_file(root)
    content = path.read_bytes()
    digest = hashlib.sha256(path.name.encode() + content)
    if frames_are_found(content):
        data, _ = read_description(root)
        names = [reading.file for scene in data.scenes for frame in scene.frames for reading in frame.images.values()]
        digest.update("\n".join(names).encode())
    return digest.hexdigest()


def index_of(data: OwnData, fingerprint: str = "", *, unknown_velocity: float = 0.0) -> NuscenesIndex:
    """The index of a description that was checked.

    Args:
        data: the description.
        fingerprint: kept in the index.
        unknown_velocity: what stands for a velocity that neither the box nor its track tells, m/s.
    """
    frames = [_Placed(number, scene, frame) for number, scene in enumerate(data.scenes) for frame in scene.frames]
    frames = [placed for placed in frames if data.is_complete(placed.frame)]
    names = _texts([scene.name for scene in data.scenes])
    cameras = _camera_table(data, frames)
    velocities = [_Velocities(track_velocities(scene), unknown_velocity) for scene in data.scenes]
    camera_names = tuple(camera.name for camera in data.cameras)
    info = IndexInfo(
        version=OWN,
        root=str(data.root),
        devkit="",
        fingerprint=fingerprint,
        splits={name: list(scenes) for name, scenes in data.splits.items()},
        cameras=camera_names,
        box_camera=data.reference_camera,
    )
    return NuscenesIndex(
        info=info,
        scenes=SceneTable(names, names),
        frames=_frame_table(frames),
        cameras=cameras,
        lidar=_lidar_table(data, frames),
        boxes=_box_table(data, frames, cameras.ego_to_global[:, camera_names.index(data.reference_camera)], velocities),
    )


class _Placed(NamedTuple):
    """A frame that has every image, and where it belongs."""

    number: int  # of the scene
    scene: OwnScene
    frame: OwnFrame


def _frame_table(frames: list[_Placed]) -> FrameTable:
    scenes = np.array([placed.number for placed in frames], dtype=np.int32)
    places = np.arange(len(frames), dtype=np.int32)
    goes_on = scenes[1:] == scenes[:-1]
    return FrameTable(
        _texts([placed.scene.token(placed.frame) for placed in frames]),
        np.array([_microseconds(placed.frame.timestamp) for placed in frames], dtype=np.int64),
        scenes,
        np.concatenate([[-1], np.where(goes_on, places[:-1], -1)]).astype(np.int32),
        np.concatenate([np.where(goes_on, places[1:], -1), [-1]]).astype(np.int32),
    )


def _camera_table(data: OwnData, frames: list[_Placed]) -> CameraTable:
    images = [
        [(camera, placed.frame, placed.frame.images[camera.name]) for camera in data.cameras_of(placed.scene)]
        for placed in frames
    ]
    shape = (len(frames), len(data.cameras))
    return CameraTable(
        _texts([_file(camera.folder, reading) for row in images for camera, _, reading in row]).reshape(shape),
        np.array([[_reading_time(frame, reading) for _, frame, reading in row] for row in images], dtype=np.int64),
        np.array([[camera.size for camera, *_ in row] for row in images], dtype=np.int32),
        np.array([[camera.intrinsics for camera, *_ in row] for row in images]),
        np.array([[camera.cam_to_ego for camera, *_ in row] for row in images]),
        np.array([[_reading_pose(frame, reading) for _, frame, reading in row] for row in images]),
    )


def _lidar_table(data: OwnData, frames: list[_Placed]) -> LidarTable:
    rows = [_lidar_row(data.lidar_of(placed.scene), placed.frame) for placed in frames]
    return LidarTable(
        _texts([file for file, *_ in rows]),
        np.array([time for _, time, *_ in rows], dtype=np.int64),
        np.array([mount for *_, mount, _ in rows]),
        np.array([pose for *_, pose in rows]),
    )


def _lidar_row(lidar: OwnLidar | None, frame: OwnFrame) -> tuple[str, int, np.ndarray, np.ndarray]:
    """File, time, lidar_to_ego and ego_to_global of a frame; no file where there is no LiDAR."""
    if lidar is None or frame.lidar is None:
        return "", 0, np.eye(4), frame.ego_to_global
    pose = _reading_pose(frame, frame.lidar)
    return _file(lidar.folder, frame.lidar), _reading_time(frame, frame.lidar), lidar.lidar_to_ego, pose


class _Velocities(NamedTuple):
    """Velocities of a scene's boxes that do not say it themselves."""

    by_box: dict[tuple[int, int], np.ndarray]  # (frame, box) -> (3,) in the global frame
    unknown: float


class _Row(NamedTuple):
    """One box, its fields as in BoxTable."""

    box: np.ndarray  # (9,)
    label: int
    valid: bool
    instance: str
    attribute: int


def _box_table(data: OwnData, frames: list[_Placed], box_poses: np.ndarray, velocities: list[_Velocities]) -> BoxTable:
    rows = [
        _box_rows(data, placed, pose, velocities[placed.number]) for placed, pose in zip(frames, box_poses, strict=True)
    ]
    flat = [row for frame in rows for row in frame]
    tokens, instances = np.unique(_texts([row.instance for row in flat]), return_inverse=True)
    return BoxTable(
        np.cumsum([0] + [len(frame) for frame in rows]),
        np.array([row.box for row in flat], dtype=np.float32).reshape(-1, 9),
        np.array([row.label for row in flat], dtype=np.int8),
        np.array([row.valid for row in flat], dtype=bool),
        instances.reshape(-1).astype(np.int32),
        np.array([row.attribute for row in flat], dtype=np.int8),
        np.zeros(len(flat), dtype=np.int8),
        tokens,
    )


def _box_rows(data: OwnData, placed: _Placed, box_pose: np.ndarray, velocities: _Velocities) -> list[_Row]:
    scene, frame, rows = placed.scene, placed.frame, []
    for number, box in enumerate(frame.boxes):
        name = data.class_of(box.name)
        if name is None:
            continue
        track = f"{frame.number}-{number}" if box.track is None else box.track
        rows.append(
            _Row(
                _in_box_frame(frame, number, box_pose, velocities),
                CLASSES.index(name),
                box.points != 0,
                f"{scene.name}/{'box' if box.track is None else 'track'}/{track}",
                -1 if box.attribute is None else ATTRIBUTES.index(box.attribute),
            )
        )
    return rows


def _in_box_frame(frame: OwnFrame, number: int, box_pose: np.ndarray, velocities: _Velocities) -> np.ndarray:
    """Box (9,) of a frame in the ego frame of the reference camera."""
    box = frame.boxes[number]
    from_frame = np.eye(4) if box.frame == "global" else frame.ego_to_global
    same = np.array_equal(from_frame, box_pose)  # then the numbers stay what they are, to the last bit
    change = np.eye(4) if same else invert_pose(box_pose) @ from_frame
    turn = change[:3, :3]
    heading = turn @ (np.cos(box.yaw), np.sin(box.yaw), 0.0)
    yaw = box.yaw if same else np.arctan2(heading[1], heading[0])
    tracked = velocities.by_box.get((frame.number, number))
    if box.velocity is not None:
        velocity = turn @ (*box.velocity, 0.0)
    elif tracked is not None:
        velocity = tracked @ box_pose[:3, :3]
    else:
        velocity = np.full(3, velocities.unknown)
    return np.concatenate([turn @ box.centre + change[:3, 3], box.size, [yaw], velocity[:2]])


def _file(folder: str, reading: OwnReading) -> str:
    """Name of a file in the root, spelt as its path is: ``faults`` finds it by that."""
    return PurePosixPath(folder, reading.file).as_posix()


def _reading_time(frame: OwnFrame, reading: OwnReading) -> int:
    return _microseconds(frame.timestamp if reading.timestamp is None else reading.timestamp)


def _reading_pose(frame: OwnFrame, reading: OwnReading) -> np.ndarray:
    return frame.ego_to_global if reading.ego_to_global is None else reading.ego_to_global


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)


def _texts(strings: list[str]) -> np.ndarray:
    return np.array([text.encode() for text in strings], dtype=np.bytes_)
