"""Maps of earlier frames, brought to now.

Shapes: B maps, C channels, grid Z x Y x X.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_ops import BevGrid, warp_affine

__all__ = ["cell_motion", "warp_bev"]


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
    layers = bev.flatten(1, -3)  # voxels: the height joins the channels
    return warp_affine(layers, cell_motion(now_to_then, grid)).view(bev.shape)


def cell_motion(now_to_then: Tensor, grid: BevGrid) -> Tensor:
    """Where the cells of now were then: now_to_then (B, 4, 4) in metres -> (B, 2, 3) float32.

    Takes cell position (x, y, 1) of now to cell position (x, y) of then, by the rules of :func:`warp_bev`.
    Written out, because a general inverse, and constants that are sent to it, make a GPU wait.
    """
    motion, lower, step = now_to_then.detach().double(), grid.lower, grid.step
    shift = motion[..., 0] * lower[0] + motion[..., 1] * lower[1] + motion[..., 3]
    metres = torch.stack([motion[..., 0] * step[0], motion[..., 1] * step[1], shift], dim=-1)  # (B, 4, 3) from cells
    rows = [metres[:, i] / step[i] - metres[:, 3] * (lower[i] / step[i]) for i in range(2)]
    return torch.stack(rows, dim=1).float()


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
