"""What a picture shows: boxes, cameras and points of one moment."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bev_nuscenes.geometry import quaternion_to_matrix, yaw_to_quaternion

from .geometry import Array, box_corners, transform_points

EGO_LOWER, EGO_UPPER = (-0.95, -0.865, 0.0), (3.13, 0.865, 1.56)
"""Corners of the recording car (a Renault Zoe) in its frame, metres; the origin is the middle of its rear axle."""
_SLOWEST_ARROW_M_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """M boxes in a frame that their holder names. Metres and metres per second; unknown velocities are NaN."""

    center: Array  # (M,3)
    size: Array  # (M,3) length, width, height
    rotation: Array  # (M,3,3) box axes (x to the front) to the frame
    velocity: Array  # (M,3)
    label: NDArray[np.int64]  # (M,) position in bev_nuscenes.CLASSES
    score: Array  # (M,) 0 to 1; 1 for the ground truth
    attribute: NDArray[np.int64]  # (M,) position in bev_nuscenes.ATTRIBUTES, -1 for none

    @classmethod
    def from_ego(
        cls,
        boxes: Array,  # (M,9) x, y, z of the centre, length, width, height, yaw, vx, vy
        label: NDArray[np.int64],  # (M,)
        score: Array | None = None,  # (M,)
        attribute: NDArray[np.int64] | None = None,  # (M,)
    ) -> "Boxes":
        """From the rows that data sets and detectors use, in the same frame."""
        boxes = np.asarray(boxes, np.float64).reshape(-1, 9)
        return cls(
            center=boxes[:, :3],
            size=boxes[:, 3:6],
            rotation=quaternion_to_matrix(yaw_to_quaternion(boxes[:, 6])),
            velocity=np.concatenate([boxes[:, 7:], np.zeros((len(boxes), 1))], axis=1),
            label=np.asarray(label, np.int64),
            score=np.ones(len(boxes)) if score is None else np.asarray(score, np.float64),
            attribute=np.full(len(boxes), -1) if attribute is None else np.asarray(attribute, np.int64),
        )

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> "Boxes":
        """The boxes of a mask (M,) or of indices, in their order."""
        return Boxes(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    def transform(self, a_to_b: Array) -> "Boxes":
        """The same boxes, given in frame a, in frame b."""
        turn = a_to_b[:3, :3]
        return replace(
            self,
            center=transform_points(self.center, a_to_b),
            rotation=turn @ self.rotation,
            velocity=self.velocity @ turn.T,
        )

    def moving(self) -> NDArray[np.bool_]:
        """(M,) whether a box moves fast enough for an arrow; not where its velocity is unknown."""
        return np.linalg.norm(self.velocity[:, :2], axis=1) > _SLOWEST_ARROW_M_S  # false for NaN

    def corners(self) -> Array:
        """(M,8,3), see :func:`bev_vis.geometry.box_corners`."""
        return box_corners(self.center, self.size, self.rotation)


Voxels = NDArray[np.uint8]
"""(X,Y,Z) positions in bev_nuscenes.OCCUPANCY_CLASSES, on the occupancy grid of the ego frame."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One picture with its own calibration and the pose it was taken from."""

    name: str
    image: Path
    size: tuple[int, int]  # width, height in pixels
    intrinsics: Array  # (3,3)
    camera_to_global: Array  # (4,4)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One key frame: its cameras in the order of the picture's rows, the true boxes, and LiDAR points if there are."""

    token: str
    scene: str
    ego_to_global: Array  # (4,4) the frame of the bird's-eye view
    cameras: tuple[Camera, ...]
    truth: Boxes  # global
    points: Array | None  # (P,3) in the ego frame
