"""Quaternions (w, x, y, z) and rigid transforms as numpy arrays in float64."""

from __future__ import annotations

import numpy as np

__all__ = [
    "invert_pose",
    "matrix_to_quaternion",
    "pose_matrix",
    "quaternion_multiply",
    "quaternion_to_matrix",
    "quaternion_yaw",
    "yaw_to_quaternion",
]


def quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) of any norm but zero."""
    q = np.asarray(quaternion, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quaternion products a*b (..., 4): rotate by b first, then by a."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a, dtype=np.float64), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b, dtype=np.float64), -1, 0)
    product = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return np.stack(product, axis=-1)


def quaternion_yaw(quaternion: np.ndarray) -> np.ndarray:
    """Yaw (...,) in radians of unit quaternions (..., 4): heading of the rotated x axis, counter-clockwise from x.

    pyquaternion's ``yaw_pitch_roll`` has the other sign before x*y, which differs by about 2e-4 radians where the ego
    frame is tilted; the recorded labels of the published systems follow the heading.
    """
    w, x, y, z = np.moveaxis(np.asarray(quaternion, dtype=np.float64), -1, 0)
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def yaw_to_quaternion(yaw: np.ndarray) -> np.ndarray:
    """Quaternions (..., 4) that rotate by yaw (...,) radians about z."""
    half = np.asarray(yaw, dtype=np.float64) / 2
    zero = np.zeros_like(half)
    return np.stack([np.cos(half), zero, zero, np.sin(half)], axis=-1)


def matrix_to_quaternion(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (4,), w >= 0, of one rotation matrix (3, 3).

    The quaternion is the leading eigenvector of a symmetric 4x4 matrix, which stays accurate at every angle.
    """
    m = np.asarray(rotation, dtype=np.float64)
    lower = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], 0, 0, 0],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], 0, 0],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quaternion = np.linalg.eigh(lower, UPLO="L")[1][:, -1]
    return -quaternion if quaternion[0] < 0 else quaternion


def pose_matrix(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Transforms (..., 4, 4) from quaternions (..., 4) and translations (..., 3) in metres."""
    rotation = np.asarray(rotation, dtype=np.float64)
    matrix = np.zeros((*rotation.shape[:-1], 4, 4))
    matrix[..., :3, :3] = quaternion_to_matrix(rotation)
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1
    return matrix


def invert_pose(pose: np.ndarray) -> np.ndarray:
    """Inverses (..., 4, 4) of rigid transforms (..., 4, 4)."""
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    inverse = np.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse
