"""Warping stored maps to now, against the same with plain grid_sample.

Shapes: B maps, C channels, Y x X cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_bench.cases.case import Case, Problem, check_close, random_generator
from bev_ops import BevGrid
from bev_temporal import now_to_then, warp_bev
from bev_zoo import nuscenes_rig

__all__ = ["plain_warp", "warp_cases"]

_TOLERANCE = 2e-3  # positions of 1e-4 of a cell, on maps of noise


def warp_cases(*, quick: bool, device: torch.device, seed: int) -> list[Problem]:
    """The history of a system with one past frame, or with eight."""
    history, channels = (1, 32) if quick else (8, 80)
    step = 1.6 if quick else 0.8
    grid = BevGrid(x=(-51.2, 51.2, step), y=(-51.2, 51.2, step), z=(-5.0, 3.0, 8.0))
    size = f"{history}x{channels}x{grid.size[1]}x{grid.size[0]}"
    return [Problem(size, lambda: [_case(history, channels, grid, device, seed)])]


def plain_warp(
    maps: Tensor,  # (B, C, Y, X)
    motion: Tensor,  # (B, 4, 4) now to then
    grid: BevGrid,
) -> Tensor:
    """Every cell as a point in metres, moved, and looked up: (B, C, Y, X)."""
    x = torch.arange(grid.size[0], device=maps.device) * grid.step[0] + grid.lower[0]
    y = torch.arange(grid.size[1], device=maps.device) * grid.step[1] + grid.lower[1]
    xs, ys = torch.meshgrid(x, y, indexing="xy")
    points = torch.stack([xs, ys, torch.zeros_like(xs), torch.ones_like(xs)], dim=-1)
    moved = torch.einsum("bij,yxj->byxi", motion, points)[..., :2]
    cells = (moved - moved.new_tensor(grid.lower[:2])) / moved.new_tensor(grid.step[:2])
    positions = cells / moved.new_tensor([grid.size[0] - 1, grid.size[1] - 1]) * 2 - 1
    return F.grid_sample(maps, positions, align_corners=True)


def _case(history: int, channels: int, grid: BevGrid, device: torch.device, seed: int) -> Case:
    rig = nuscenes_rig((256, 704), frames=1 + history).to(device)
    cameras = [frame.cam_to_key_ego[:, 0] for frame in rig.all_frame_cameras()]
    motion = torch.cat([now_to_then(cameras[0], then, rig.bev_aug) for then in cameras[1:]])
    x, y, _ = grid.size
    maps = torch.randn(history, channels, y, x, generator=random_generator(seed)).to(device)
    return Case(
        "warp_bev",
        "grid_sample",
        lambda: plain_warp(maps, motion, grid),
        lambda: warp_bev(maps, motion, grid),
        lambda: check_close("warp_bev", warp_bev(maps, motion, grid), plain_warp(maps, motion, grid), _TOLERANCE),
    )
