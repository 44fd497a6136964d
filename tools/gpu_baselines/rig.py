"""A rig of the shape that nuScenes cars have: six cameras around a car, for benchmarks without the data set."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bev_lss import DepthBins, FrameCameras, frustum_points, points_to_ego

# Where the front, front left and right, back, back left and right cameras look: degrees, counter-clockwise from ahead.
_YAWS = (0.0, 55.0, -55.0, 180.0, 110.0, -110.0)
_FOCAL, _BACK_FOCAL = 1266.0, 809.0  # pixels of a 1600x900 image; the back camera sees wider


def nuscenes_cameras(batch: int, input_size: tuple[int, int], device: torch.device | str) -> FrameCameras:
    """Six cameras per sample, each sample with its own small differences of mounting; images (H, W) after resizing."""
    generator = torch.Generator().manual_seed(0)
    height, width = input_size
    scale = width / 1600
    cam_to_ego = torch.stack(
        [_camera(yaw, torch.randn(3, generator=generator) * 0.01) for _ in range(batch) for yaw in _YAWS]
    )
    focal = torch.tensor([_BACK_FOCAL if yaw == 180.0 else _FOCAL for yaw in _YAWS]).repeat(batch)
    intrinsics = torch.eye(3).repeat(batch * len(_YAWS), 1, 1)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = 816.0, 491.0
    image_aug = torch.eye(3).repeat(batch, len(_YAWS), 1, 1)
    image_aug[..., 0, 0] = image_aug[..., 1, 1] = scale
    image_aug[..., 1, 2] = height - 900 * scale  # the top is cut off, as published
    return FrameCameras(
        cam_to_ego.view(batch, -1, 4, 4).to(device),
        intrinsics.view(batch, -1, 3, 3).to(device),
        image_aug.to(device),
        torch.eye(3).repeat(batch, 1, 1).to(device),
    )


def nuscenes_points(
    batch: int, input_size: tuple[int, int], stride: int, bins: DepthBins, device: torch.device | str
) -> Tensor:
    """Frustum points of :func:`nuscenes_cameras`: (batch, 6, D, h, w, 3) metres, in the ego frame."""
    cameras = nuscenes_cameras(batch, input_size, device)
    frustum = frustum_points((input_size[0] // stride, input_size[1] // stride), stride, bins).to(device)
    return points_to_ego(frustum, *cameras.tensors())


def _camera(yaw_degrees: float, tilt: Tensor) -> Tensor:
    """(4, 4) camera to ego: looking along the yaw, level but for a tilt of roll, pitch and yaw in radians."""
    roll, pitch, yaw = (*tilt[:2].tolist(), math.radians(yaw_degrees) + tilt[2].item())
    level = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera right, down, ahead in ego axes
    turn = _rotation(2, yaw) @ _rotation(1, pitch) @ _rotation(0, roll)
    pose = torch.eye(4)
    pose[:3, :3] = turn @ level
    pose[:3, 3] = torch.tensor([1.7 * math.cos(yaw), 0.5 * math.sin(yaw), 1.5])
    return pose


def _rotation(axis: int, angle: float) -> Tensor:
    i, j = [k for k in range(3) if k != axis]
    matrix = torch.eye(3)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = (
        (-math.sin(angle), math.sin(angle)) if axis != 1 else (math.sin(angle), -math.sin(angle))
    )
    return matrix
