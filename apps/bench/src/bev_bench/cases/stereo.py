"""The stereo cost volume against a grouped grid_sample loop.

Shapes: M images, C channels, H x W feature pixels, D depths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_bench.cases.case import Case, Problem, check_close, random_generator
from bev_lss import DepthBins
from bev_temporal import StereoCostVolume, camera_to_previous
from bev_zoo import nuscenes_rig

__all__ = ["plain_cost_volume", "stereo_cases"]

_STRIDE = 4
_BIAS = 5.0
_GROUP = 4  # channels warped at a time, as published
_NEAREST_M = 1e-3
_OUTSIDE = -2.0

# Positions are rounded in different orders, and hundreds of channels add that up; on the border of an image it decides
# whether a pixel is seen at all.
_TOLERANCE, _ON_BORDERS = 0.02, 0.005


def stereo_cases(*, quick: bool, device: torch.device, seed: int) -> list[Problem]:
    """The sizes of a ResNet-50 system with stereo: stage of stride 4, 59 log-spaced depths."""
    input_size, channels = ((128, 352), 64) if quick else ((256, 704), 256)
    height, width = (side // _STRIDE for side in input_size)
    bins = DepthBins(1.0, 60.0, 1.0, log_spaced=True)
    size = f"6x{height}x{width} C={channels} D={bins.count}"
    return [Problem(size, lambda: [_case(input_size, channels, bins, device, seed)])]


def plain_cost_volume(
    current: Tensor,  # (M, C, H, W)
    previous: Tensor,  # (M, C, H, W)
    camera_to_previous: Tensor,  # (M, 4, 4)
    intrinsics: Tensor,  # (M, 3, 3)
    image_aug: Tensor,  # (M, 3, 3)
    depths: Tensor,  # (D,) metres
) -> Tensor:
    """Warp four channels at a time to all depths, add up absolute differences, softmax over depth: (M, D, H, W)."""
    images, channels, height, width = current.shape
    positions = _positions(camera_to_previous, intrinsics, image_aug, depths, (height, width))
    cost = current.new_zeros(images, len(depths), height, width)
    for begin in range(0, channels, _GROUP):
        group = slice(begin, begin + _GROUP)
        warped = F.grid_sample(previous[:, group], positions.flatten(1, 2), align_corners=True)
        warped = warped.view(images, -1, len(depths), height, width)
        cost += (warped - current[:, group, None]).abs().sum(dim=1)
    cost += _BIAS * (warped[:, 0] == 0)
    return (-cost).softmax(dim=1)


def _positions(
    camera_to_previous: Tensor, intrinsics: Tensor, image_aug: Tensor, depths: Tensor, size: tuple[int, int]
) -> Tensor:
    """Where every pixel lies in the previous view, per depth, as grid_sample wants it: (M, D, H, W, 2)."""
    height, width = size
    last = [count * _STRIDE - 1 for count in (width, height)]
    u = torch.linspace(0, last[0], width, device=depths.device)
    v = torch.linspace(0, last[1], height, device=depths.device)
    pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones(height, width, device=depths.device)], -1)
    rays = torch.einsum("mij,hwj->mhwi", torch.linalg.inv(intrinsics) @ torch.linalg.inv(image_aug), pixels)
    points = rays[:, None] * depths[:, None, None, None]  # (M, D, H, W, 3)
    moved = torch.einsum("mij,mdhwj->mdhwi", camera_to_previous[:, :3, :3], points)
    moved = moved + camera_to_previous[:, None, None, None, :3, 3]
    seen = torch.einsum("mij,mdhwj->mdhwi", image_aug @ intrinsics, moved / moved[..., 2:])[..., :2]
    positions = seen / seen.new_tensor(last) * 2 - 1
    return positions.masked_fill(moved[..., 2:] < _NEAREST_M, _OUTSIDE)


def _case(input_size: tuple[int, int], channels: int, bins: DepthBins, device: torch.device, seed: int) -> Case:
    rig = nuscenes_rig(input_size, frames=2).to(device)
    motion, cameras = camera_to_previous(rig)[:, 0], rig.frame_cameras(0)
    current, previous = _features(input_size, channels, device, seed)
    stereo = StereoCostVolume(bins, bias=_BIAS, stride=_STRIDE)
    depths = bins.values().to(device)
    per_image = [t.flatten(0, 1) for t in (current, previous, motion, cameras.intrinsics, cameras.image_aug)]

    def ours() -> Tensor:
        return stereo(current, previous, motion, cameras.intrinsics, cameras.image_aug)

    def plain() -> Tensor:
        return plain_cost_volume(*per_image, depths)

    return Case(
        "cost volume",
        "grid_sample, 4 channels at a time",
        plain,
        ours,
        lambda: check_close("cost volume", ours()[0], plain(), _TOLERANCE, exceptions=_ON_BORDERS),
    )


def _features(input_size: tuple[int, int], channels: int, device: torch.device, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth and positive, so that only what lies outside of an image is 0: two of (1, 6, C, H, W)."""
    height, width = (side // _STRIDE for side in input_size)
    generator = random_generator(seed)
    coarse = torch.rand(12, channels, height // 4, width // 4, generator=generator) + 0.1
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True) / channels**0.5
    current, previous = smooth.unflatten(0, (2, 1, 6)).to(device)
    return current, previous
