"""Occupancy ground truth of Occ3D-nuScenes (arXiv:2304.14365), the data of the CVPR 2023 occupancy challenge.

Legend: arrays are (X, Y, Z) = (200, 200, 16); cell (0, 0, 0) is at the lower bound of all three axes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .errors import DataError, UnreadableFileError
from .files import read_arrays
from .remote import DataPath, data_path

__all__ = [
    "FREE",
    "OCCUPANCY_CELL",
    "OCCUPANCY_CLASSES",
    "OCCUPANCY_LOWER",
    "OCCUPANCY_SHAPE",
    "OccupancyTruth",
    "check_occupancy",
    "read_occupancy",
]

OCCUPANCY_CLASSES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)
"""Names of the labels 0 to 17, as published; the last one is empty space."""

FREE = OCCUPANCY_CLASSES.index("free")

OCCUPANCY_SHAPE = (200, 200, 16)
OCCUPANCY_CELL = 0.4  # metres
OCCUPANCY_LOWER = (-40.0, -40.0, -1.0)  # metres


class OccupancyTruth(NamedTuple):
    """What fills the cells around the ego vehicle at one key frame.

    The cells stand in the ego frame at the LiDAR's time stamp. The published systems place their voxels in the ego
    frame of camera 0 instead, some 43 ms earlier (one cell at 9 m/s), and compare the two cell by cell; so does
    everything here.
    """

    semantics: np.ndarray  # (X, Y, Z) uint8, positions in OCCUPANCY_CLASSES
    mask_lidar: np.ndarray  # (X, Y, Z) bool, observed by LiDAR
    mask_camera: np.ndarray  # (X, Y, Z) bool, observed by a camera

    def flip(self, x: bool, y: bool) -> OccupancyTruth:
        """The same scene with the x axis, the y axis or both negated; cells are copied, none is interpolated."""
        axes = [axis for axis, flipped in enumerate((x, y)) if flipped]
        return OccupancyTruth(*(np.ascontiguousarray(np.flip(array, axes)) for array in self))


def read_occupancy(path: str | DataPath) -> OccupancyTruth:
    """Ground truth of one key frame, ``gts/SCENE/TOKEN/labels.npz``.

    Raises:
        UnreadableFileError: the file is missing or damaged, lacks an array, or has a wrong shape or an unknown label.
    """
    path = data_path(path)
    arrays = read_arrays(
        path,
        "occupancy file",
        "download the folder gts of Occ3D-nuScenes (CVPR 2023 occupancy challenge) and put it into the data root, "
        "beside samples",
    )
    try:
        return _truth(arrays, f"occupancy file {path}")
    except DataError as error:
        raise UnreadableFileError(str(error), str(path)) from None


def check_occupancy(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels of the cells as uint8, after checking their shape and values; ``where`` begins the message of an error.

    Raises:
        DataError: not integers of shape (200, 200, 16), or labels that are none of OCCUPANCY_CLASSES.
    """
    if labels.shape != OCCUPANCY_SHAPE or labels.dtype.kind not in "ui":
        raise DataError(f"{where} needs integers of shape {OCCUPANCY_SHAPE}, got {labels.dtype} {labels.shape}")
    if labels.dtype == np.uint8 and labels.max() <= FREE:
        return labels
    values, counts = np.unique(labels, return_counts=True)
    unknown = (values < 0) | (values > FREE)
    if unknown.any():
        found = ", ".join(f"{value} ({count}x)" for value, count in zip(values[unknown], counts[unknown], strict=True))
        raise DataError(f"{where} has unknown labels {found}; labels are 0 to {FREE}")
    return labels.astype(np.uint8)


def _truth(arrays: dict[str, np.ndarray], where: str) -> OccupancyTruth:
    missing = [name for name in OccupancyTruth._fields if name not in arrays]
    if missing:
        raise DataError(f"{where} lacks {', '.join(missing)}; fetch it again from Occ3D-nuScenes")
    masks = [arrays[name] for name in ("mask_lidar", "mask_camera")]
    for mask in masks:
        if mask.shape != OCCUPANCY_SHAPE:
            raise DataError(f"{where} has a mask of {mask.shape}, wanted {OCCUPANCY_SHAPE}")
    semantics = check_occupancy(arrays["semantics"], where)
    return OccupancyTruth(semantics, *(mask.astype(bool) for mask in masks))
