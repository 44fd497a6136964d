"""What calibrations of rectified cameras have in common."""

from __future__ import annotations

import numpy as np

from ..errors import DataError

__all__ = ["nearest_rotation", "split_projection", "translation"]

_FAR_FROM_ROTATION = 1e-2


def split_projection(projection: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics (3, 3), and the camera's place (3,) in the frame that a rectified projection (3, 4) starts from.

    The projection is ``K [I | -c]``: rectified cameras are parallel, so the one at c differs by a shift.

    Raises:
        DataError: there is no such K, as in the zeros of a camera that was not calibrated; ``what`` names it.
    """
    intrinsics = np.array(projection[:, :3], dtype=np.float64)
    if not min(intrinsics[0, 0], intrinsics[1, 1], intrinsics[2, 2]) > 0:
        raise DataError(f"{what} has no focal lengths, was the camera calibrated? got {intrinsics.tolist()}")
    return intrinsics, -np.linalg.solve(intrinsics, projection[:, 3])


def nearest_rotation(matrix: np.ndarray, what: str) -> np.ndarray:
    """The rotation (3, 3) next to a matrix that was printed with few digits.

    Raises:
        DataError: it is far from any rotation; ``what`` names it.
    """
    left, stretch, right = np.linalg.svd(matrix)
    rotation = left @ right
    if np.abs(stretch - 1).max() > _FAR_FROM_ROTATION or np.linalg.det(rotation) < 0:
        raise DataError(f"{what} is not a rotation: {np.asarray(matrix).tolist()}")
    return rotation


def translation(offset: np.ndarray) -> np.ndarray:
    """Transform (4, 4) that adds an offset (3,)."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix
