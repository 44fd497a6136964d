"""Building the index from the tables of nuScenes, through the devkit, and caching it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from .devkit import VELOCITIES, devkit_version, open_tables, table_fingerprint, version_splits
from .errors import DataError
from .files import exclusive, user_cache
from .geometry import pose_matrix, quaternion_multiply, quaternion_to_matrix, quaternion_yaw
from .index import BoxTable, CameraTable, FrameTable, IndexInfo, LidarTable, NuscenesIndex, SceneTable
from .options import DataOptions
from .own import OWN, build_own_index, own_fingerprint
from .remote import DataPath, data_path, is_url
from .taxonomy import ATTRIBUTES, CAMERAS, LIDAR, category_to_label

if TYPE_CHECKING:
    from nuscenes import NuScenes

__all__ = ["build_index", "default_index_path", "open_index"]


def open_index(options: DataOptions, *, progress: bool = True) -> NuscenesIndex:
    """The index of a data set, from its file if that is up to date, else built and written there.

    A file in the cache that cannot be used is replaced; a file that ``options.index`` names is replaced only if it is a
    readable index whose tables have changed. Several processes may call this at once: one builds, the others wait.

    Raises:
        DataError: wrong root, version, table or index file.
        ImportError: the index has to be built and the devkit is not installed.
    """
    own, root = options.version == OWN, data_path(options.root, options.access)
    if own and is_url(options.root):
        raise DataError(f"own data is read from folders of this machine: copy {options.root}")
    fingerprint = own_fingerprint(options.root) if own else table_fingerprint(root, options.version)
    path = options.index or default_index_path(options.root, options.version)
    index = _load_current(path, options, fingerprint)
    if index is not None:
        return index
    with exclusive(path):
        # Another process may have built it while this one waited.
        index = _load_current(path, options, fingerprint)
        if index is None:
            built = (
                build_own_index(options.root, progress=progress)
                if own
                else build_index(root, options.version, progress=progress)
            )
            built.save(path)
            index = NuscenesIndex.load(path, options.root, options.access)
    return index


def default_index_path(root: str | Path, version: str) -> Path:
    """Where the index of a root and version is cached: under $XDG_CACHE_HOME/bevkit, by default ~/.cache/bevkit."""
    place = str(root) if is_url(root) else str(Path(root).resolve())
    return user_cache() / f"{version}-{hashlib.sha256(place.encode()).hexdigest()[:12]}.npz"


def build_index(root: str | DataPath, version: str, *, progress: bool = True) -> NuscenesIndex:
    """Read the tables of a nuScenes version into an index.

    Boxes are those of the ten detection classes, in CAM_FRONT's ego frame. A velocity is the devkit's; where that is
    undefined, the one ``velocities.json`` in the root gives; else 0.

    Args:
        root: folder of the data set.
        version: v1.0-mini, v1.0-trainval or v1.0-test.
        progress: show a progress bar.

    Raises:
        DataError: wrong root or version, unusable tables, calibration that is not finite or singular.
        ImportError: the devkit is not installed.
    """
    fingerprint = table_fingerprint(root, version)
    nusc = open_tables(root, version)
    samples = sorted(nusc.sample, key=lambda sample: sample["timestamp"])
    if not samples:
        raise DataError(f"the tables of {version} under {root} have no samples; fetch the metadata again")
    try:
        readings, boxes = _read_samples(nusc, samples, _load_velocities(Path(nusc.dataroot)), progress)
        scenes, frames = _scene_and_frame_tables(nusc, samples)
    except KeyError as error:
        raise DataError(f"tables of {version} under {root} do not fit together: no record {error}") from None
    return NuscenesIndex(
        info=IndexInfo(
            version=version,
            root=str(root),
            devkit=devkit_version(),
            fingerprint=fingerprint,
            splits=version_splits(version),
        ),
        scenes=scenes,
        frames=frames,
        cameras=_camera_table([reading[:-1] for reading in readings]),
        lidar=_lidar_table([reading[-1] for reading in readings]),
        boxes=boxes,
    )


class _Reading(NamedTuple):
    """One sensor at one key frame."""

    file: str
    timestamp: int
    size: tuple[int, int]
    intrinsics: np.ndarray  # (3, 3)
    sensor_to_ego: np.ndarray  # (4, 4)
    ego_to_global: np.ndarray  # (4, 4)


class _Boxes(NamedTuple):
    """Boxes of one key frame, columns as in BoxTable."""

    boxes: np.ndarray
    labels: list[int]
    valid: list[bool]
    instances: list[str]
    attributes: list[int]
    visibility: list[int]


def _read_samples(
    nusc: NuScenes, samples: list[dict], velocities: dict[str, list[float]], progress: bool
) -> tuple[list[list[_Reading]], BoxTable]:
    """Readings per sample, the cameras in order and then the LiDAR, and the boxes of all samples."""
    attributes = {record["token"]: _attribute_number(record["name"]) for record in nusc.attribute}
    readings, boxes = [], []
    for sample in tqdm(samples, desc=f"index {nusc.version}", unit="frame", disable=not progress):
        readings.append([_reading(nusc, sample, channel) for channel in (*CAMERAS, LIDAR)])
        boxes.append(_sample_boxes(nusc, sample, attributes, velocities))
    return readings, _box_table(boxes)


def _reading(nusc: NuScenes, sample: dict, channel: str) -> _Reading:
    if channel not in sample["data"]:
        if channel == LIDAR:
            return _Reading("", 0, (0, 0), np.eye(3), np.eye(4), np.eye(4))
        raise DataError(f"sample {sample['token']} has no {channel} image; the tables are incomplete, fetch them again")
    data = nusc.get("sample_data", sample["data"][channel])
    calibration = nusc.get("calibrated_sensor", data["calibrated_sensor_token"])
    ego_pose = nusc.get("ego_pose", data["ego_pose_token"])
    where = f"sample {sample['token']}, {channel}"
    return _Reading(
        data["filename"],
        data["timestamp"],
        (data["width"], data["height"]),
        np.eye(3) if channel == LIDAR else _checked_intrinsics(calibration, where),
        _checked_pose(calibration, f"calibrated_sensor of {where}"),
        _checked_pose(ego_pose, f"ego_pose of {where}"),
    )


def _checked_intrinsics(calibration: dict, where: str) -> np.ndarray:
    matrix = np.array(calibration["camera_intrinsic"], dtype=np.float64)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-6:
        raise DataError(
            f"camera_intrinsic of {where} must be 3x3, finite and invertible, got {matrix.tolist()}; "
            f"correct record {calibration['token']} of calibrated_sensor.json"
        )
    return matrix


def _checked_pose(record: dict, where: str) -> np.ndarray:
    rotation, translation = np.array(record["rotation"], np.float64), np.array(record["translation"], np.float64)
    finite = np.isfinite(rotation).all() and np.isfinite(translation).all()
    if rotation.shape != (4,) or translation.shape != (3,) or not finite or np.linalg.norm(rotation) < 1e-6:
        raise DataError(
            f"{where} needs a finite quaternion that is not 0 and a finite translation, got "
            f"{rotation.tolist()} and {translation.tolist()}; correct record {record['token']}"
        )
    return pose_matrix(rotation, translation)


def _sample_boxes(
    nusc: NuScenes, sample: dict, attributes: dict[str, int], velocities: dict[str, list[float]]
) -> _Boxes:
    annotations = [nusc.get("sample_annotation", token) for token in sample["anns"]]
    labelled = [(record, category_to_label(record["category_name"])) for record in annotations]
    records = [record for record, label in labelled if label >= 0]
    data = nusc.get("sample_data", sample["data"]["CAM_FRONT"])
    boxes = _boxes_in_ego(
        np.array([record["translation"] for record in records]).reshape(-1, 3),
        np.array([record["size"] for record in records]).reshape(-1, 3),
        np.array([record["rotation"] for record in records]).reshape(-1, 4),
        np.array([_velocity(nusc, record["token"], velocities) for record in records]).reshape(-1, 3),
        nusc.get("ego_pose", data["ego_pose_token"]),
    )
    for record, box in zip(records, boxes, strict=True):
        if not np.isfinite(box).all():
            raise DataError(f"annotation {record['token']} is not finite; correct it in sample_annotation.json")
    return _Boxes(
        boxes,
        [label for _, label in labelled if label >= 0],
        [record["num_lidar_pts"] + record["num_radar_pts"] > 0 for record in records],
        [record["instance_token"] for record in records],
        [attributes[record["attribute_tokens"][0]] if record["attribute_tokens"] else -1 for record in records],
        [int(record["visibility_token"] or 0) for record in records],
    )


def _boxes_in_ego(
    centre: np.ndarray, size: np.ndarray, rotation: np.ndarray, velocity: np.ndarray, ego_pose: dict
) -> np.ndarray:
    """Boxes (M, 9) float32 in the ego frame; everything comes in the global frame, sizes as width, length, height."""
    quaternion = np.array(ego_pose["rotation"], dtype=np.float64)
    quaternion /= np.linalg.norm(quaternion)
    ego_to_global = quaternion_to_matrix(quaternion)
    global_to_ego = quaternion * (1, -1, -1, -1)
    unit = rotation / np.linalg.norm(rotation, axis=1, keepdims=True)
    columns = [
        (centre - ego_pose["translation"]) @ ego_to_global,
        size[:, [1, 0, 2]],
        quaternion_yaw(quaternion_multiply(global_to_ego, unit))[:, None],
        (velocity @ ego_to_global)[:, :2],
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _velocity(nusc: NuScenes, token: str, velocities: dict[str, list[float]]) -> np.ndarray:
    """Velocity (3,) in the global frame, m/s."""
    velocity = nusc.box_velocity(token)
    if not np.isnan(velocity).any():
        return velocity
    return np.array([*velocities.get(token, (0.0, 0.0)), 0.0])


def _load_velocities(root: Path) -> dict[str, list[float]]:
    path = root / VELOCITIES
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise DataError(f"{path} is not valid JSON; it maps annotation tokens to [vx, vy], or remove it") from None


def _attribute_number(name: str) -> int:
    return ATTRIBUTES.index(name) if name in ATTRIBUTES else -1


def _scene_and_frame_tables(nusc: NuScenes, samples: list[dict]) -> tuple[SceneTable, FrameTable]:
    scene_positions = {scene["token"]: position for position, scene in enumerate(nusc.scene)}
    positions = {sample["token"]: position for position, sample in enumerate(samples)} | {"": -1}
    scenes = SceneTable(_ascii([scene["name"] for scene in nusc.scene]), _ascii(list(scene_positions)))
    frames = FrameTable(
        _ascii([sample["token"] for sample in samples]),
        np.array([sample["timestamp"] for sample in samples], dtype=np.int64),
        np.array([scene_positions[sample["scene_token"]] for sample in samples], dtype=np.int32),
        np.array([positions[sample["prev"]] for sample in samples], dtype=np.int32),
        np.array([positions[sample["next"]] for sample in samples], dtype=np.int32),
    )
    return scenes, frames


def _camera_table(readings: list[list[_Reading]]) -> CameraTable:
    return CameraTable(
        _ascii([[reading.file for reading in row] for row in readings]),
        np.array([[reading.timestamp for reading in row] for row in readings], dtype=np.int64),
        np.array([[reading.size for reading in row] for row in readings], dtype=np.int32),
        np.array([[reading.intrinsics for reading in row] for row in readings]),
        np.array([[reading.sensor_to_ego for reading in row] for row in readings]),
        np.array([[reading.ego_to_global for reading in row] for row in readings]),
    )


def _lidar_table(readings: list[_Reading]) -> LidarTable:
    return LidarTable(
        _ascii([reading.file for reading in readings]),
        np.array([reading.timestamp for reading in readings], dtype=np.int64),
        np.array([reading.sensor_to_ego for reading in readings]),
        np.array([reading.ego_to_global for reading in readings]),
    )


def _box_table(rows: list[_Boxes]) -> BoxTable:
    tokens, instances = np.unique(_ascii([token for row in rows for token in row.instances]), return_inverse=True)
    return BoxTable(
        np.cumsum([0] + [len(row.labels) for row in rows]),
        np.concatenate([row.boxes for row in rows]),
        np.array([label for row in rows for label in row.labels], dtype=np.int8),
        np.array([valid for row in rows for valid in row.valid], dtype=bool),
        instances.reshape(-1).astype(np.int32),
        np.array([attribute for row in rows for attribute in row.attributes], dtype=np.int8),
        np.array([visibility for row in rows for visibility in row.visibility], dtype=np.int8),
        tokens,
    )


def _ascii(strings: list) -> np.ndarray:
    return np.array(strings, dtype=np.bytes_)


def _load_current(path: Path, options: DataOptions, fingerprint: str) -> NuscenesIndex | None:
    """The index in a file, or None if it has to be built."""
    if not path.exists():
        return None
    try:
        index = NuscenesIndex.load(path, options.root, options.access)
    except DataError:
        if options.index is not None:
            raise
        return None
    if index.info.version != options.version and options.index is not None:
        raise DataError(f"index {path} is of {index.info.version}, not of {options.version}; name another file")
    current = index.info.fingerprint == fingerprint and index.info.version == options.version
    return index if current else None
