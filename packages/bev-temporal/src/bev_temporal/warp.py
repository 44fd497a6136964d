"""Maps of earlier frames, brought to now.

Shapes: B maps, C channels, grid Z x Y x X.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_ops import BevGrid

__all__ = ["warp_bev"]


def warp_bev(
    bev: Tensor,  # (B, C, Y, X), or voxels (B, C, Z, Y, X)
    now_to_then: Tensor,  # (B, 4, 4)
    grid: BevGrid,
) -> Tensor:
    """A map of then as now's ego frame sees it: same shape, bilinear, zero where then saw nothing.

    Every cell of now looks up where its place was then. History of several frames goes through one call: let B run
    over samples and frames. Voxels are warped layer by layer, each like a map.

    Published rules (BEVDet4D): a cell stands for its *lower bound* (cell (0, 0) at ``grid.lower``), not for its centre;
    of the motion only the rows and columns of x, y and translation count, so a point is taken to have height 0, and
    what the motion does to heights falls away. Computed in float32; the map keeps its dtype. Differentiable in ``bev``.

    Raises:
        ValueError: shapes that do not fit the grid or each other.
    """
    _check(bev, now_to_then, grid)
    layers = bev.flatten(1, -3).float()  # voxels: the height joins the channels
    warped = F.grid_sample(layers, _positions(now_to_then, grid), align_corners=True)
    return warped.view(bev.shape).to(bev.dtype)


def _positions(now_to_then: Tensor, grid: BevGrid) -> Tensor:
    """Where each cell of now lies then, as grid_sample wants it: (B, Y, X, 2), -1 the first cell, 1 the last."""
    cells_now_to_then = _between_cells(now_to_then, grid)
    width, height, _ = grid.size
    x = torch.arange(width, device=now_to_then.device, dtype=torch.float32)
    y = torch.arange(height, device=now_to_then.device, dtype=torch.float32)[:, None]
    column, row = (
        cells_now_to_then[:, i, 0, None, None] * x
        + cells_now_to_then[:, i, 1, None, None] * y
        + cells_now_to_then[:, i, 2, None, None]
        for i in range(2)
    )
    return torch.stack((_normalised(column, width), _normalised(row, height)), dim=-1)


def _between_cells(now_to_then: Tensor, grid: BevGrid) -> Tensor:
    """now_to_then (B, 4, 4) in metres -> (B, 3, 3) between cell positions (x, y, 1)."""
    planar = now_to_then[:, [0, 1, 3]][:, :, [0, 1, 3]].double()
    (x_lower, y_lower, _), (x_step, y_step, _) = grid.lower, grid.step
    cell_to_metres = planar.new_tensor([[x_step, 0, x_lower], [0, y_step, y_lower], [0, 0, 1]])
    return (torch.linalg.inv(cell_to_metres) @ planar @ cell_to_metres).float()


def _normalised(cell: Tensor, count: int) -> Tensor:
    return cell / (count - 1) * 2 - 1


def _check(bev: Tensor, now_to_then: Tensor, grid: BevGrid) -> None:
    x, y, z = grid.size
    if bev.ndim not in (4, 5) or tuple(bev.shape[2:]) not in ((y, x), (z, y, x)):
        raise ValueError(
            f"warp_bev wants (B, C, {y}, {x}) or (B, C, {z}, {y}, {x}) for this grid, got {tuple(bev.shape)}"
        )
    if tuple(now_to_then.shape) != (len(bev), 4, 4):
        raise ValueError(
            f"warp_bev wants now_to_then ({len(bev)}, 4, 4) for these maps, got {tuple(now_to_then.shape)}"
        )
