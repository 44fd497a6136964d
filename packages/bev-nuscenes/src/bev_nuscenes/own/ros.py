"""From ROS: camera_info of each camera, static transforms, poses in a text file.

A camera_info holds K and D of the raw images, and R and P of the rectified ones:

    X_rectified = R @ X_optical         pixel = P @ (X_rectified, 1)

The optical frame (REP 103) has this package's camera axes, base_link its ego axes; base_link must stand on the ground.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import DataError
from ..geometry import invert_pose, pose_matrix
from .description import OwnCamera
from .document import Field, open_document
from .problems import Problem, raise_errors
from .rectified import split_projection, translation

__all__ = [
    "CameraInfo",
    "StaticTransforms",
    "interpolate_poses",
    "read_camera_info",
    "read_tum",
    "rectify_image",
    "ros_camera",
    "undistorted",
]

_TOLERANCE = 1e-2  # of the length of a quaternion that was printed with two digits


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraInfo:
    """A sensor_msgs/CameraInfo.

    Attributes:
        size: (width, height) pixels.
        frame: name of the optical frame, "" where the file does not say it.
        model: distortion model, such as plumb_bob, rational_polynomial or equidistant.
        distortion: D (n,).
        intrinsics: K (3, 3) of the raw images.
        rectification: R (3, 3).
        projection: P (3, 4) of the rectified images.
    """

    size: tuple[int, int]
    frame: str
    model: str
    distortion: np.ndarray
    intrinsics: np.ndarray
    rectification: np.ndarray
    projection: np.ndarray

    @property
    def is_distorted(self) -> bool:
        """Whether raw images must be rectified before use."""
        return bool(np.any(self.distortion != 0))


class StaticTransforms:
    """A tree of frames; every pose is ``child_to_parent`` (4, 4)."""

    def __init__(self, parents: dict[str, tuple[str, np.ndarray]]) -> None:
        """Keep a tree: child -> (parent, child_to_parent)."""
        self.parents = parents

    @classmethod
    def read(cls, path: str | Path) -> StaticTransforms:
        """Read ``/tf_static`` as YAML: a list of geometry_msgs/TransformStamped, alone or under ``transforms``.

        Raises:
            DataError: the file is missing or not of that kind.
        """
        problems: list[Problem] = []
        document = open_document(Path(path), problems)
        listed = document.get("transforms") if isinstance(document.value, dict) else document
        found = [] if listed is None else listed.attempt(Field.elements) or []
        entries = [entry.attempt(_transform) for entry in found]
        raise_errors(problems)
        return cls({child: (parent, pose) for child, parent, pose in entries if child})

    def between(self, child: str, ancestor: str) -> np.ndarray:
        """Transform (4, 4) from a frame to one above it.

        Raises:
            DataError: the tree does not lead there.
        """
        pose, frame = np.eye(4), child
        for _ in range(len(self.parents) + 1):
            if frame == ancestor:
                return pose
            if frame not in self.parents:
                break
            frame, step = self.parents[frame]
            pose = step @ pose
        known = ", ".join(sorted({*self.parents, *(parent for parent, _ in self.parents.values())}))
        raise DataError(f"the transforms do not lead from {child!r} to {ancestor!r}; they know {known}")


def read_camera_info(path: str | Path) -> CameraInfo:
    """Read a camera_info: a calibration file of ``camera_calibration``, or the printed message (``rostopic echo``).

    Raises:
        DataError: the file is missing or lacks a field.
    """
    problems: list[Problem] = []
    info = open_document(Path(path), problems).attempt(_camera_info)
    raise_errors(problems)
    assert info is not None, "a reading without errors has a result"
    return info


def ros_camera(name: str, info: CameraInfo, optical_to_ego: np.ndarray, *, folder: str, rectified: bool) -> OwnCamera:
    """The camera behind a camera_info.

    Args:
        name: what to call it.
        info: its calibration.
        optical_to_ego: (4, 4) from the optical frame.
        folder: of its images.
        rectified: whether the images are rectified ones (``image_rect``): P and R hold instead of K.

    Raises:
        DataError: raw images with distortion, which must be rectified first; P of a camera without calibration.
    """
    if not rectified and info.is_distorted:
        raise DataError(
            f"camera {name} has distortion {info.distortion.tolist()}, and networks need images without: record "
            "image_rect and say --rectified, or let --undistort write rectified copies"
        )
    if not rectified:
        return OwnCamera(
            name=name, folder=folder, size=info.size, intrinsics=info.intrinsics, cam_to_ego=np.array(optical_to_ego)
        )
    intrinsics, centre = split_projection(info.projection, f"the projection matrix P of camera {name}")
    turn = np.eye(4)
    turn[:3, :3] = info.rectification.T
    pose = optical_to_ego @ turn @ translation(centre)
    return OwnCamera(name=name, folder=folder, size=info.size, intrinsics=intrinsics, cam_to_ego=pose)


def rectify_image(info: CameraInfo, image: Image.Image) -> Image.Image:
    """A raw image without its distortion, for a camera with K and no rotation (see ``undistorted``).

    Raises:
        DataError: the distortion model is unknown, or the image of another size than the calibration.
    """
    import cv2  # here, so that everything else needs no OpenCV

    if image.size != info.size:
        raise DataError(
            f"image {getattr(image, 'filename', '')} has {image.width}x{image.height} pixels, its camera_info is for "
            f"{info.size[0]}x{info.size[1]}; use the original images"
        )
    size, straight = info.size, np.eye(3)
    if info.model in ("plumb_bob", "rational_polynomial", ""):
        maps = cv2.initUndistortRectifyMap(
            info.intrinsics, info.distortion, straight, info.intrinsics, size, cv2.CV_32FC1
        )
    elif info.model in ("equidistant", "fisheye"):
        maps = cv2.fisheye.initUndistortRectifyMap(
            info.intrinsics, info.distortion[:4], straight, info.intrinsics, size, cv2.CV_32FC1
        )
    else:
        raise DataError(f"distortion model {info.model!r} is unknown; rectify the images with ROS's image_proc")
    pixels = np.asarray(image.convert("RGB"))
    return Image.fromarray(cv2.remap(pixels, *maps, interpolation=cv2.INTER_LINEAR))


def undistorted(info: CameraInfo) -> CameraInfo:
    """The calibration of the images that ``rectify_image`` makes: K without distortion."""
    return replace(info, distortion=np.zeros(0))


def read_tum(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Times (P,) in seconds and poses (P, 4, 4) of a trajectory: lines of ``time x y z qx qy qz qw`` (TUM's format).

    Raises:
        DataError: the file is missing, empty, or has lines of another kind.
    """
    try:
        rows = np.loadtxt(path, comments="#", ndmin=2, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise DataError(f"poses {path} cannot be read: {error}") from None
    if rows.ndim != 2 or rows.shape[1:] != (8,) or (np.diff(rows[:, 0]) <= 0).any():
        raise DataError(f"poses {path} need lines of time x y z qx qy qz qw in order of time, got {rows.shape}")
    wrong = ~(np.abs(np.linalg.norm(rows[:, 4:], axis=1) - 1) < _TOLERANCE) | ~np.isfinite(rows).all(axis=1)
    if wrong.any():
        raise DataError(f"poses {path} need finite numbers and unit quaternions, got {rows[wrong][0].tolist()}")
    return rows[:, 0], pose_matrix(rows[:, [7, 4, 5, 6]], rows[:, 1:4])


def interpolate_poses(times: np.ndarray, poses: np.ndarray, wanted: Iterable[float]) -> np.ndarray:
    """Poses (K, 4, 4) at wanted times: places by straight lines, rotations by the shortest turn.

    Raises:
        DataError: a wanted time lies outside the trajectory.
    """
    return np.stack([_pose_at(times, poses, time) for time in wanted])


def _pose_at(times: np.ndarray, poses: np.ndarray, time: float) -> np.ndarray:
    if not times[0] <= time <= times[-1]:
        raise DataError(f"no pose at {time:.6f} s: the trajectory lasts from {times[0]:.6f} to {times[-1]:.6f} s")
    after = min(int(np.searchsorted(times, time)), len(times) - 1)
    before = max(after - 1, 0)
    span = times[after] - times[before]
    share = (time - times[before]) / span if span else 0.0
    change = invert_pose(poses[before]) @ poses[after]
    pose = poses[before].copy()
    pose[:3, :3] = pose[:3, :3] @ _part_of_turn(change[:3, :3], share)
    pose[:3, 3] += share * (poses[after, :3, 3] - poses[before, :3, 3])
    return pose


def _part_of_turn(rotation: np.ndarray, share: float) -> np.ndarray:
    """Rotation (3, 3) about the same axis by a share of the angle."""
    axis = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    length = np.linalg.norm(axis)
    if length < 1e-12:
        return np.eye(3)
    angle = share * np.arctan2(length / 2, (np.trace(rotation) - 1) / 2)
    x, y, z = axis / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _camera_info(field: Field) -> CameraInfo:
    width, height = _either(field, "image_width", "width").number(), _either(field, "image_height", "height").number()
    header, model = field.get("header"), field.get("distortion_model")
    frame = None if header is None else header.get("frame_id")
    return CameraInfo(
        size=(int(width), int(height)),
        frame="" if frame is None else frame.text(),
        model="" if model is None else model.text(),
        distortion=np.array(_values(field, "distortion_coefficients", "D", "d"), dtype=np.float64),
        intrinsics=_matrix(field, (3, 3), "camera_matrix", "K", "k"),
        rectification=_matrix(field, (3, 3), "rectification_matrix", "R", "r"),
        projection=_matrix(field, (3, 4), "projection_matrix", "P", "p"),
    )


def _either(field: Field, *names: str) -> Field:
    return next((found for name in names if (found := field.get(name)) is not None), None) or field[names[0]]


def _values(field: Field, *names: str) -> list[Any]:
    found = _either(field, *names)
    data = found["data"] if isinstance(found.value, dict) else found
    return data.numbers(len(data.elements())).tolist()


def _matrix(field: Field, shape: tuple[int, int], *names: str) -> np.ndarray:
    values = _values(field, *names)
    if len(values) != shape[0] * shape[1]:
        _either(field, *names).fail(f"{shape[0] * shape[1]} numbers are needed, got {len(values)}")
    return np.array(values).reshape(shape)


def _transform(field: Field) -> tuple[str, str, np.ndarray]:
    """Child, parent and child_to_parent of a geometry_msgs/TransformStamped."""
    transform = field["transform"]
    place, turn = transform["translation"], transform["rotation"]
    quaternion = np.array([turn[name].number() for name in "wxyz"])
    if abs(np.linalg.norm(quaternion) - 1) > 1e-3:
        turn.fail(f"a unit quaternion is needed, got one of length {np.linalg.norm(quaternion):.4g}")
    pose = pose_matrix(quaternion, np.array([place[name].number() for name in "xyz"]))
    return field["child_frame_id"].text().lstrip("/"), field["header"]["frame_id"].text().lstrip("/"), pose
