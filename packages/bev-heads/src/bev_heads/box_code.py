"""What the head predicts for a box, and the way from boxes to codes and back.

Shapes: B samples, K classes of a task, (Y, X) cells of the BEV grid, M boxes, N any number of boxes.
A cell is numbered y * X + x. A code has ten numbers: offset x, y of the centre in its cell, height z of the centre,
length, width, height (their logarithms if `log_dimensions`), sine and cosine of the yaw, vx, vy.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bev_ops import BevGrid

from ._constants import constant

__all__ = ["BoxCodes", "CenterOutput", "decode_boxes", "encode_boxes", "gather_codes"]


class CenterOutput(NamedTuple):
    """Raw predictions of one task."""

    heatmap: Tensor  # (B, K, Y, X) logits
    offset: Tensor  # (B, 2, Y, X) x, y of the centre minus the cell's number, in cells
    height: Tensor  # (B, 1, Y, X) z of the centre, metres
    size: Tensor  # (B, 3, Y, X) length, width, height: logarithm of metres, or metres
    yaw: Tensor  # (B, 2, Y, X) sine, cosine (any length)
    velocity: Tensor  # (B, 2, Y, X) vx, vy, metres per second


class BoxCodes(NamedTuple):
    """Codes of boxes and where they lie."""

    code: Tensor  # (N, 10)
    cell_xy: Tensor  # (N, 2) int64; meaningless where not inside
    inside: Tensor  # (N,) bool, the centre lies in a cell of the grid


def gather_codes(output: CenterOutput, cell: Tensor) -> Tensor:
    """The predicted codes of some cells, in float32.

    Args:
        output: predictions of one task.
        cell: (B, M) int64 cell numbers.

    Returns:
        (B, M, 10)
    """

    def at_cells(plane: Tensor) -> Tensor:  # (B, c, Y, X) -> (B, c, M)
        return plane.flatten(2).gather(2, cell.unsqueeze(1).expand(-1, plane.shape[1], -1)).float()

    planes = (output.offset, output.height, output.size, output.yaw, output.velocity)
    return torch.cat([at_cells(plane) for plane in planes], dim=1).transpose(1, 2)


def encode_boxes(boxes: Tensor, grid: BevGrid, *, log_dimensions: bool = True) -> BoxCodes:
    """Codes that decode to the given boxes.

    The cell of a centre is found by truncation toward zero, as in the published systems: a centre less than one cell
    below the lower bound of the grid lies in cell 0 (with a negative offset), one on the upper bound lies outside.

    Args:
        boxes: (N, 9) float32, key-ego frame.
    """
    # Tensors, because CUDA divides by a Python number through its reciprocal, which can end in another cell.
    lower, step = (constant(values[:2], boxes, boxes.dtype) for values in (grid.lower, grid.step))
    center = (boxes[:, :2] - lower) / step
    cell = center.trunc()
    inside = ((cell >= 0) & (cell < constant(grid.size[:2], boxes, boxes.dtype))).all(dim=1)
    size = boxes[:, 3:6].log() if log_dimensions else boxes[:, 3:6]
    yaw = boxes[:, 6:7]
    code = torch.cat([center - cell, boxes[:, 2:3], size, yaw.sin(), yaw.cos(), boxes[:, 7:9]], dim=1)
    return BoxCodes(code, cell.long(), inside)


def decode_boxes(code: Tensor, cell: Tensor, grid: BevGrid, *, log_dimensions: bool = True) -> Tensor:
    """Boxes (..., 9) in the key-ego frame from codes (..., 10) and their cell numbers (...) int64."""
    cells_x = grid.size[0]
    cell_xy = torch.stack([cell % cells_x, cell // cells_x], dim=-1)
    lower, step = constant(grid.lower[:2], code, code.dtype), constant(grid.step[:2], code, code.dtype)
    xy = (cell_xy + code[..., :2]) * step + lower
    size = code[..., 3:6].exp() if log_dimensions else code[..., 3:6]
    yaw = torch.atan2(code[..., 6:7], code[..., 7:8])
    return torch.cat([xy, code[..., 2:3], size, yaw, code[..., 8:10]], dim=-1)
