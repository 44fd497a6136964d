"""What compare_families.py measures beside the official metrics: depth, velocity, and occupancy without looking.

Shapes: B samples, N cameras, D depth bins, H x W network-input pixels, h x w feature pixels, M boxes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bev_heads import CenterOutput, Detections, encode_boxes
from bev_lss import CameraRig, DepthBins, camera_parameters, depth_labels
from bev_nuscenes import FREE, OCCUPANCY_CLASSES, DataOptions, OccupancyCounts, open_index, read_occupancy
from bev_ops import BevGrid
from bev_temporal import camera_to_previous
from bev_zoo import Detector
from bev_zoo.features import StereoReference

__all__ = [
    "FOUND_M",
    "MOVING_MPS",
    "NEAR_M",
    "DepthErrors",
    "VelocityErrors",
    "constant_occupancy",
    "depth_errors",
    "depth_figures",
    "depth_of_now",
    "joined",
    "velocity_errors",
    "velocity_figures",
]

MOVING_MPS = 0.5  # an object that is faster moves
FOUND_M = 2.0  # a detection of the right class this near has found an object, as in the official true-positive errors
NEAR_M = 20.0  # depths are also judged on what is nearer


class DepthErrors(NamedTuple):
    """Errors of P feature pixels that LiDAR hits."""

    truth_m: Tensor  # (P,)
    relative: Tensor  # (P,) error of the expected depth over the true depth
    near_bin: Tensor  # (P,) bool, the most likely bin is the right one or its neighbour


class VelocityErrors(NamedTuple):
    """Errors of M annotated objects in metres per second."""

    speed: Tensor  # (M,)
    at_centre: Tensor  # (M,) of the velocity that the head predicts in the cell of the true centre
    found: Tensor  # (M,) of the nearest detection of the right class, nan if there is none within FOUND_M


def depth_errors(depth: Tensor, truth: Tensor, bins: DepthBins, stride: int) -> DepthErrors:
    """Compare a distribution over depth bins with LiDAR; pixels without LiDAR inside the bins' range do not count.

    Bin i holds the depths from its own value up to that of the next, so its middle stands for it.

    Args:
        depth: (B, N, D, h, w).
        truth: (B, N, H, W) metres, 0 where no LiDAR point fell.
        bins: equally spaced.
        stride: network-input pixels per feature pixel, whose truth is the nearest point in it.
    """
    labels = depth_labels(truth, bins, stride)
    counts = labels >= 0
    nearest = -F.max_pool2d(-torch.where(truth == 0, torch.inf, truth).flatten(0, 1), stride).unflatten(
        0, truth.shape[:2]
    )
    distribution = depth.movedim(2, -1)[counts].float()
    expected = distribution @ (bins.values() + bins.step / 2)
    likely = distribution.argmax(dim=-1)
    truth_m = nearest[counts]
    return DepthErrors(truth_m, (expected - truth_m).abs() / truth_m, (likely - labels[counts]).abs() <= 1)


def velocity_errors(
    output: CenterOutput, found: Detections, boxes: Tensor, labels: Tensor, grid: BevGrid
) -> VelocityErrors:
    """Compare velocities of one sample with the annotated boxes (M, 9), labels (M,) whose centre is on the grid."""
    code = encode_boxes(boxes, grid)
    boxes, labels, (x, y) = boxes[code.inside], labels[code.inside], code.cell_xy[code.inside].T
    truth = boxes[:, 7:9]
    distance = torch.cdist(boxes[:, :2], found.boxes[:, :2])
    distance = torch.where(labels[:, None] == found.labels, distance, torch.inf)
    distance = torch.cat([distance.new_full((len(boxes), 1), FOUND_M), distance], dim=1)  # nothing, unless nearer
    nothing = found.boxes.new_full((1, 2), torch.nan)
    nearest = torch.cat([nothing, found.boxes[:, 7:9]])[distance.argmin(dim=1)]
    at_centre = output.velocity[0, :, y, x].T.float()
    return VelocityErrors(truth.norm(dim=1), (at_centre - truth).norm(dim=1), (nearest - truth).norm(dim=1))


def depth_figures(errors: DepthErrors) -> dict[str, float]:
    """Means over pixels."""
    near = errors.truth_m < NEAR_M
    return {
        "pixels": len(near),
        "relative": _mean(errors.relative),
        "relative_near": _mean(errors.relative[near]),
        "near_bin": _mean(errors.near_bin),
        "near_bin_near": _mean(errors.near_bin[near]),
    }


def velocity_figures(errors: VelocityErrors) -> dict[str, float]:
    """Means over moving objects, and over all; ``speed`` is the error of calling everything parked."""
    moving, found = errors.speed > MOVING_MPS, ~errors.found.isnan()
    return {
        "moving": int(moving.sum()),
        "speed": _mean(errors.speed[moving]),
        "at_centre": _mean(errors.at_centre[moving]),
        "at_centre_parked": _mean(errors.at_centre[~moving]),
        "moving_found": int((moving & found).sum()),
        "found": _mean(errors.found[moving & found]),
        "found_parked": _mean(errors.found[~moving & found]),
    }


@torch.no_grad()
def depth_of_now(model: Detector, images: Tensor, rig: CameraRig) -> Tensor:
    """What a detector in evaluation mode takes for the depth (B, N, D, h, w) of frame 0."""
    cameras = rig.frame_cameras(0)
    reference = None
    if model.recipe.stereo:
        reference = StereoReference(model.stereo_features(images[:, 1]), camera_to_previous(rig)[:, 0])
    return model.frame_map(model.image_features(images[:, 0]), cameras, camera_parameters(cameras), reference).depth


def joined(errors: list[DepthErrors] | list[VelocityErrors]) -> DepthErrors | VelocityErrors:
    """The errors of several samples as one."""
    return type(errors[0])(*(torch.cat(field) for field in zip(*errors, strict=True)))


def constant_occupancy(data: DataOptions, train_split: str, val_split: str) -> dict[str, object]:
    """mIoU on the unseen split of predicting one class everywhere: the most frequent, the most frequent that is not
    free space (both by the cells that cameras see in the training split), and the one that scores best."""
    seen, judged = _class_counts(data, train_split), _class_counts(data, val_split)
    score = [_constant_miou(judged, label) for label in range(len(OCCUPANCY_CLASSES))]
    chosen = {
        "most_frequent": int(seen.argmax()),
        "most_frequent_solid": int(seen[:FREE].argmax()),
        "best": int(np.argmax(score)),
    }
    return {name: {"class": OCCUPANCY_CLASSES[label], "mIoU": score[label]} for name, label in chosen.items()}


def _class_counts(data: DataOptions, split: str) -> np.ndarray:
    """How many cells that cameras see are of each class (18,)."""
    index, counts = open_index(data), OccupancyCounts()
    for position in index.split_positions(split):
        truth = read_occupancy(index.occupancy_path(position))
        counts.add(truth.semantics, truth.semantics, truth.mask_camera)
    return counts.matrix.sum(axis=1)


def _constant_miou(cells: np.ndarray, label: int) -> float:
    counts = OccupancyCounts()
    counts.matrix[:, label] = cells
    return counts.percent()["mIoU"]


def _mean(values: Tensor) -> float:
    return values.float().mean().item() if len(values) else math.nan
