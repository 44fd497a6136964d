"""From calibrations, poses and folders as KITTI has them.

    X_image = P_i @ R0_rect @ Tr_velo_to_cam @ X_velodyne           X_velodyne = Tr_imu_to_velo @ X_imu

The ego frame made here is the velodyne's, moved down to the ground: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DataError
from ..geometry import invert_pose
from .description import OwnCamera, OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .folders import files_by_stem
from .rectified import nearest_rotation, split_projection, translation

__all__ = ["LIDAR_HEIGHT", "KittiCalibration", "describe_kitti", "read_kitti_calibration", "read_oxts"]

LIDAR_HEIGHT = 1.73
"""Metres from the ground to the velodyne on KITTI's car."""

_EARTH_RADIUS = 6378137.0  # metres
_NAMES = {
    "R_rect": "R0_rect",
    "R_rect_00": "R0_rect",
    "Tr_velo_cam": "Tr_velo_to_cam",
    "Tr_imu_velo": "Tr_imu_to_velo",
} | {f"P_rect_0{n}": f"P{n}" for n in range(4)}


@dataclass(frozen=True, kw_only=True, eq=False)
class KittiCalibration:
    """A calibration file.

    Attributes:
        projections: camera number -> P_i (3, 4), from the rectified frame of camera 0 to its pixels.
        velo_to_rect: (4, 4), R0_rect Tr_velo_to_cam.
        imu_to_velo: (4, 4), None where the file has none.
    """

    projections: dict[int, np.ndarray]
    velo_to_rect: np.ndarray
    imu_to_velo: np.ndarray | None

    def camera(self, number: int, *, folder: str, size: tuple[int, int], velo_to_ego: np.ndarray) -> OwnCamera:
        """A camera of the car; ``size`` is (width, height) of its images."""
        if number not in self.projections:
            known = ", ".join(f"P{known}" for known in sorted(self.projections))
            raise DataError(f"the calibration has no P{number}, it has {known}; choose one of these cameras")
        intrinsics, centre = split_projection(self.projections[number], f"P{number}")
        cam_to_ego = velo_to_ego @ invert_pose(self.velo_to_rect) @ translation(centre)
        return OwnCamera(
            name=f"camera_{number}",
            folder=folder,
            size=size,
            intrinsics=intrinsics / intrinsics[2, 2],
            cam_to_ego=cam_to_ego,
        )


def read_kitti_calibration(path: str | Path) -> KittiCalibration:
    """Read a calibration of the object or tracking benchmark: lines of a name and its numbers.

    Raises:
        DataError: the file is missing, or lacks P, R0_rect or Tr_velo_to_cam, or they are no such matrices.
    """
    path = Path(path)
    entries = _entries(path)
    projections = {int(name[1]): _matrix(path, entries, name, 3, 4) for name in entries if name in _PROJECTIONS}
    if not projections:
        raise DataError(f"{path} has no projection P0 to P3; a calibration of rectified images is needed")
    rectify = np.eye(4)
    rectify[:3, :3] = nearest_rotation(_matrix(path, entries, "R0_rect", 3, 3), f"R0_rect of {path}")
    imu = _rigid(path, entries, "Tr_imu_to_velo") if "Tr_imu_to_velo" in entries else None
    return KittiCalibration(
        projections=projections, velo_to_rect=rectify @ _rigid(path, entries, "Tr_velo_to_cam"), imu_to_velo=imu
    )


def read_oxts(path: str | Path) -> np.ndarray:
    """Poses (K, 4, 4) of the IMU, relative to the first: a file with a line, or a folder with a file per frame.

    Latitude and longitude are laid out by the Mercator projection at the first latitude, as KITTI's own tools do.

    Raises:
        DataError: nothing to read, or lines of other than KITTI's numbers.
    """
    path = Path(path)
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    try:
        rows = [line.split() for file in files for line in file.read_text().splitlines() if line.strip()]
        numbers = np.array([[float(text) for text in row[:6]] for row in rows])
    except (OSError, ValueError) as error:
        raise DataError(f"OXTS data {path} cannot be read: {error}") from None
    if numbers.ndim != 2 or numbers.shape[1] != 6:
        raise DataError(f"OXTS data {path} needs lines of lat, lon, alt, roll, pitch, yaw …, got none")
    poses = np.stack([_imu_pose(row, numbers[0, 0]) for row in numbers])
    return invert_pose(poses[0]) @ poses


def describe_kitti(
    root: str | Path,
    calibration: KittiCalibration,
    *,
    images: dict[int, str],
    velodyne: str | None = None,
    oxts: str | Path | None = None,
    rate_hz: float = 10.0,
    lidar_height: float = LIDAR_HEIGHT,
    scene: str = "kitti",
) -> OwnData:
    """Describe a drive: frames are the images of equal name, in its order.

    Args:
        root: folder that the other folders lie in; the description belongs there as ``dataset.yaml``.
        calibration: the calibration of the drive.
        images: camera number -> folder of its images, relative to the root, such as {2: "image_2"}.
        velodyne: folder of LiDAR files, relative to the root.
        oxts: poses, see ``read_oxts``, a line per frame; None: an ego that stands still.
        rate_hz: frames per second.
        lidar_height: metres from the ground to the velodyne.
        scene: name of the drive.

    Raises:
        DataError: no images, not as many poses as frames, or a rate that makes no sense.
    """
    if rate_hz <= 0:
        raise DataError(f"frames per second above 0 are needed, got {rate_hz}")
    root = Path(root)
    velo_to_ego = translation(np.array([0, 0, lidar_height]))
    listed = {number: _listing(root / folder, (".png", ".jpg")) for number, folder in images.items()}
    cameras = tuple(
        calibration.camera(number, folder=folder, size=_size(root / folder, listed[number]), velo_to_ego=velo_to_ego)
        for number, folder in images.items()
    )
    names = sorted({stem for found in listed.values() for stem in found})
    poses = _ego_poses(calibration, oxts, velo_to_ego, len(names))
    points = {} if velodyne is None else _listing(root / velodyne, (".bin", ".npy"))
    frames = tuple(
        OwnFrame(
            number=number,
            timestamp=number / rate_hz,
            ego_to_global=poses[number],
            images={f"camera_{n}": OwnReading(file=found[name]) for n, found in listed.items() if name in found},
            lidar=OwnReading(file=points[name]) if name in points else None,
        )
        for number, name in enumerate(names)
    )
    return OwnData(
        root=root,
        file=root / "dataset.yaml",
        cameras=cameras,
        reference_camera=cameras[0].name,
        scenes=(OwnScene(name=scene, frames=frames),),
        splits={"all": (scene,)},
        lidar=None if velodyne is None else OwnLidar(folder=velodyne, lidar_to_ego=velo_to_ego),
    )


_PROJECTIONS = ("P0", "P1", "P2", "P3")


def _entries(path: Path) -> dict[str, list[float]]:
    try:
        lines = [line.partition(":") if ":" in line else line.partition(" ") for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"calibration {path} cannot be read: {error}") from None
    entries: dict[str, list[float]] = {}
    for name, _, values in lines:
        try:
            entries[_NAMES.get(name.strip(), name.strip())] = [float(text) for text in values.split()]
        except ValueError:
            continue  # calib_time and the like
    return entries


def _matrix(path: Path, entries: dict[str, list[float]], name: str, rows: int, columns: int) -> np.ndarray:
    values = entries.get(name, [])
    if len(values) != rows * columns:
        raise DataError(f"calibration {path} needs {name} with {rows * columns} numbers, got {len(values)}")
    return np.array(values).reshape(rows, columns)


def _rigid(path: Path, entries: dict[str, list[float]], name: str) -> np.ndarray:
    given = _matrix(path, entries, name, 3, 4)
    pose = translation(given[:, 3])
    pose[:3, :3] = nearest_rotation(given[:, :3], f"{name} of {path}")
    return pose


def _imu_pose(row: np.ndarray, first_latitude: float) -> np.ndarray:
    latitude, longitude, altitude, roll, pitch, yaw = row
    scale = np.cos(np.deg2rad(first_latitude))
    east = scale * _EARTH_RADIUS * np.deg2rad(longitude)
    north = scale * _EARTH_RADIUS * np.log(np.tan(np.deg2rad(90 + latitude) / 2))
    pose = translation(np.array([east, north, altitude]))
    pose[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    return pose


def _turn(axis: int, angle: float) -> np.ndarray:
    """Rotation (3, 3) by an angle about axis 0, 1 or 2."""
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first], matrix[first, second] = cos, -sin
    matrix[second, first], matrix[second, second] = sin, cos
    return matrix


def _ego_poses(
    calibration: KittiCalibration, oxts: str | Path | None, velo_to_ego: np.ndarray, count: int
) -> np.ndarray:
    if oxts is None:
        return np.broadcast_to(np.eye(4), (count, 4, 4))
    if calibration.imu_to_velo is None:
        raise DataError("OXTS poses are those of the IMU, and the calibration has no Tr_imu_to_velo; add it")
    imu = read_oxts(oxts)
    if len(imu) != count:
        raise DataError(f"OXTS data {oxts} has {len(imu)} poses for {count} frames; they must be as many")
    ego_to_imu = invert_pose(velo_to_ego @ calibration.imu_to_velo)
    poses = imu @ ego_to_imu
    return invert_pose(poses[0]) @ poses


def _listing(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Stem -> name of the files of a folder."""
    found = files_by_stem(folder, suffixes)
    if not found:
        raise DataError(f"{folder} has no {' or '.join(suffixes)} files")
    return found


def _size(folder: Path, listed: dict[str, str]) -> tuple[int, int]:
    with Image.open(folder / next(iter(listed.values()))) as image:
        return image.size
