"""Sparse depth maps: LiDAR points projected into the augmented images.

Legend: P points, N cameras, H and W the network-input size.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .geometry import invert_pose

__all__ = ["lidar_depth_maps"]


def lidar_depth_maps(
    points: np.ndarray,  # (P, 3) metres, LiDAR frame
    lidar_to_global: np.ndarray,  # (4, 4)
    cam_to_global: np.ndarray,  # (N, 4, 4) at each camera's own time stamp
    intrinsics: np.ndarray,  # (N, 3, 3)
    image_aug: np.ndarray,  # (N, 3, 3)
    input_size: tuple[int, int],
    depth_range: tuple[float, float] = (1.0, 60.0),
) -> Tensor:
    """Depth maps (N, H, W) float32 in metres; 0 where no point falls, the nearest point where several do.

    A point counts when lower <= depth < upper of ``depth_range`` and its pixel, rounded half to even, lies in the
    image. Source: BEVDepth's depth supervision, as the published systems compute it; here in float64 and for all
    cameras at once.
    """
    num_cameras, (height, width) = len(intrinsics), input_size
    lidar_to_cam = invert_pose(cam_to_global) @ lidar_to_global
    lidar_to_image = intrinsics @ lidar_to_cam[:, :3]
    image = points.astype(np.float64) @ lidar_to_image[:, :, :3].swapaxes(1, 2) + lidar_to_image[:, None, :, 3]
    depth = image[..., 2]
    camera, point = np.nonzero((depth >= depth_range[0]) & (depth < depth_range[1]))
    depth = depth[camera, point]
    pixel = image[camera, point, :2] / depth[:, None]
    warp = image_aug[camera]
    pixel = np.rint((warp[:, :2, :2] @ pixel[..., None])[..., 0] + warp[:, :2, 2])
    inside = (pixel >= 0).all(axis=1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
    column, row = pixel[inside].astype(np.int64).T
    cell = torch.from_numpy((camera[inside] * height + row) * width + column)
    maps = torch.full((num_cameras * height * width,), torch.inf)
    maps.scatter_reduce_(0, cell, torch.from_numpy(depth[inside]).float(), "amin")
    return maps.masked_fill_(maps.isinf(), 0).view(num_cameras, height, width)
