"""Where the sensors of the synthetic car sit: intrinsics, extrinsics and trigger times close to those of nuScenes.

Frames: the ego frame is x forward, y left, z up; a camera frame is x right, y down, z forward; the LiDAR frame is
x right, y forward, z up. Pixel (i, j) is the ray through image coordinates (i, j): pixel centres are integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = (1600, 900)  # width, height in pixels

RENDERED_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
)  # in the order in which they trigger, following the turning LiDAR
LIDAR = "LIDAR_TOP"


@dataclass(frozen=True)
class _CameraMount:
    """A camera's nominal place: focal length and centre in pixels, degrees for the angles, metres in the ego frame."""

    focal: float
    center: tuple[float, float]
    yaw: float
    pitch: float
    translation: tuple[float, float, float]
    offset: int  # trigger time before the LiDAR's time stamp, microseconds


_MOUNTS = {
    "CAM_FRONT_LEFT": _CameraMount(1272.6, (826.6, 479.8), 55.2, 0.1, (1.52, 0.495, 1.51), 43_100),
    "CAM_FRONT": _CameraMount(1266.4, (816.3, 491.5), 0.3, -0.3, (1.70, 0.016, 1.51), 35_500),
    "CAM_FRONT_RIGHT": _CameraMount(1260.8, (808.0, 495.3), -56.4, -0.8, (1.55, -0.493, 1.50), 27_600),
    "CAM_BACK_RIGHT": _CameraMount(1259.5, (807.3, 501.2), -110.8, -0.9, (1.01, -0.481, 1.56), 20_100),
    "CAM_BACK": _CameraMount(809.2, (829.2, 481.8), 179.9, 1.0, (0.03, 0.003, 1.58), 10_400),
    "CAM_BACK_LEFT": _CameraMount(1256.7, (792.1, 492.8), 108.6, -0.9, (1.04, 0.485, 1.59), 600),
}
_LIDAR_TRANSLATION = (0.944, 0.0, 1.840)
_LIDAR_YAW = -89.9

_BODY_TO_CAMERA_AXES = np.array(
    [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
)  # camera axes as seen from a body


@dataclass(frozen=True)
class SensorCalibration:
    """One sensor of one car. `sensor_to_ego` is (4, 4); `intrinsics` is (3, 3) in pixels, or None for the LiDAR."""

    channel: str
    sensor_to_ego: np.ndarray
    intrinsics: np.ndarray | None


def make_calibration(rng: np.random.Generator) -> dict[str, SensorCalibration]:
    """Calibration of one car by channel: nominal mounts, moved by about a centimetre, a quarter degree and 0.3 %."""
    sensors = {name: _make_camera(name, mount, rng) for name, mount in _MOUNTS.items()}
    angles = np.radians(np.array([_LIDAR_YAW, 0.0, 0.0]) + rng.normal(0.0, 0.1, 3))
    sensors[LIDAR] = SensorCalibration(LIDAR, make_transform(euler_to_rotation(*angles), _LIDAR_TRANSLATION), None)
    return sensors


def trigger_times(lidar_time_us: int, rng: np.random.Generator) -> dict[str, int]:
    """Time stamps in microseconds of the six cameras for a LiDAR time stamp; they jitter by up to 0.7 ms."""
    jitter = rng.integers(-700, 701, len(RENDERED_CAMERAS))
    return {
        name: lidar_time_us - max(0, _MOUNTS[name].offset + int(extra))
        for name, extra in zip(RENDERED_CAMERAS, jitter, strict=True)
    }


def euler_to_rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """(3, 3) rotation of a body turned by yaw (left), then pitched (nose up), then rolled (left side up), radians."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    tilt = np.array([[cp, 0.0, -sp], [0.0, 1.0, 0.0], [sp, 0.0, cp]])
    lean = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    return turn @ tilt @ lean


def make_transform(rotation: np.ndarray, translation: object) -> np.ndarray:
    """(4, 4) transform from a (3, 3) rotation and a translation of three metres."""
    transform = np.eye(4)
    transform[:3, :3] = rotation
    transform[:3, 3] = np.asarray(translation, dtype=np.float64)
    return transform


def invert_transform(transform: np.ndarray) -> np.ndarray:
    """Inverse of a rigid (4, 4) transform."""
    rotation = transform[:3, :3].T
    return make_transform(rotation, -rotation @ transform[:3, 3])


def rotation_to_quaternion(rotation: np.ndarray) -> list[float]:
    """Quaternion (w, x, y, z) of a (3, 3) rotation, w not negative; the tables store rotations so."""
    symmetric = np.array(
        [
            [rotation[0, 0] - rotation[1, 1] - rotation[2, 2], 0.0, 0.0, 0.0],
            [rotation[0, 1] + rotation[1, 0], rotation[1, 1] - rotation[0, 0] - rotation[2, 2], 0.0, 0.0],
            [rotation[0, 2] + rotation[2, 0], rotation[1, 2] + rotation[2, 1], 0.0, 0.0],
            [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1], 0.0],
        ]
    )
    symmetric[2, 2] = rotation[2, 2] - rotation[0, 0] - rotation[1, 1]
    symmetric[3, 3] = np.trace(rotation)
    _, vectors = np.linalg.eigh(symmetric)  # reads the lower triangle; the top eigenvector is (x, y, z, w)
    x, y, z, w = vectors[:, -1]
    sign = -1.0 if w < 0 else 1.0
    return [float(sign * value) for value in (w, x, y, z)]


def _make_camera(name: str, mount: _CameraMount, rng: np.random.Generator) -> SensorCalibration:
    focal = mount.focal * (1.0 + rng.normal(0.0, 0.002))
    cx, cy = np.asarray(mount.center) + rng.normal(0.0, 3.0, 2)
    yaw, pitch, roll = np.radians(np.array([mount.yaw, mount.pitch, 0.0]) + rng.normal(0.0, 0.25, 3))
    rotation = euler_to_rotation(yaw, pitch, roll) @ _BODY_TO_CAMERA_AXES
    translation = np.asarray(mount.translation) + rng.normal(0.0, 0.008, 3)
    intrinsics = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    return SensorCalibration(name, make_transform(rotation, translation), intrinsics)
