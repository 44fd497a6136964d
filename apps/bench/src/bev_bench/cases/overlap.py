"""Overlap of one rotated box with many, in plain PyTorch.

Shapes: M boxes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["plain_iou"]

_NEXT = (1, 2, 3, 0)  # corner after corner
_EDGE = 1e-9  # metres; corners on an edge count as inside


def plain_iou(
    box: Tensor,  # (5,) x, y, length, width, yaw
    others: Tensor,  # (M, 5)
) -> Tensor:
    """Intersection over union with each: (M,) float64.

    The corners of the intersection are the corners of each box inside of the other and the crossings of their edges,
    put in order around their mean.
    """
    if len(others) == 0:
        return others.new_zeros(0, dtype=torch.float64)
    box, others = box.double(), others.double()
    ours, theirs = _corners(box[None]).expand(len(others), 4, 2), _corners(others)
    crossings, crosses = _crossings(ours, theirs)
    points = torch.cat([ours, theirs, crossings], dim=1)  # (M, 24, 2)
    valid = torch.cat([_inside(ours, others), _inside(theirs, box.expand(len(others), 5)), crosses], dim=1)
    shared = _area(points, valid)
    return shared / (box[2] * box[3] + others[:, 2] * others[:, 3] - shared)


def _corners(boxes: Tensor) -> Tensor:
    """(M, 4, 2), counter-clockwise."""
    signs = boxes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    x, y = (signs * boxes[:, None, 2:4]).unbind(-1)
    sin, cos = boxes[:, 4:].sin(), boxes[:, 4:].cos()
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1) + boxes[:, None, :2]


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which of the points (M, 4, 2) lie in the box (M, 5) of their row: (M, 4)."""
    x, y = (points - boxes[:, None, :2]).unbind(-1)
    sin, cos = boxes[:, 4:].sin(), boxes[:, 4:].cos()
    along, across = x * cos + y * sin, y * cos - x * sin
    return (along.abs() <= boxes[:, 2:3] / 2 + _EDGE) & (across.abs() <= boxes[:, 3:4] / 2 + _EDGE)


def _crossings(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Where the edges of (M, 4, 2) and (M, 4, 2) cross: (M, 16, 2), and whether they do (M, 16)."""
    a, b = ours[:, :, None], theirs[:, None]
    edge_a, edge_b = (ours[:, _NEXT] - ours)[:, :, None], (theirs[:, _NEXT] - theirs)[:, None]
    turn = _cross(edge_a, edge_b)
    parallel = turn.abs() < 1e-12
    turn = turn.masked_fill(parallel, 1)
    along_a, along_b = _cross(b - a, edge_b) / turn, _cross(b - a, edge_a) / turn
    crosses = ~parallel & (along_a >= 0) & (along_a <= 1) & (along_b >= 0) & (along_b <= 1)
    return (a + along_a[..., None] * edge_a).flatten(1, 2), crosses.flatten(1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _area(points: Tensor, valid: Tensor) -> Tensor:
    """Area of the convex polygons whose corners are the valid ones of (M, 24, 2): (M,)."""
    weight = valid[..., None].double()
    centre = (points * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1)
    spokes = (points - centre) * weight
    angle = torch.atan2(spokes[..., 1], spokes[..., 0]).masked_fill(~valid, torch.inf)
    order = angle.argsort(dim=1)
    spokes = spokes.gather(1, order[..., None].expand_as(spokes))
    # Behind the last corner stands the first one again, wherever the valid ones end.
    valid = valid.gather(1, order)
    spokes = torch.where(valid[..., None], spokes, spokes[:, :1])
    following = spokes.roll(-1, dims=1)
    return _cross(spokes, following).sum(dim=1).abs() / 2
