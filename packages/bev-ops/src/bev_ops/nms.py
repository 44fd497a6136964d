"""Greedy non-maximum suppression by rotated overlap and by centre distance.

The operators work on candidates in order, best first, and return a mask: their results have fixed shapes, so nothing
waits for the device until the kept indices are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import reference
from ._library import define_op
from .overlap import check_boxes


def nms_rotated(
    boxes: Tensor,  # (M, 5) x, y, length, width, yaw: metres and radians, yaw counter-clockwise from x
    scores: Tensor,  # (M,)
    threshold: float,
) -> Tensor:
    """Keeps a box unless its overlap with a better kept box is greater than the threshold.

    Equal scores are taken in order of their index. Boxes with a value that is not finite, and boxes whose score is NaN,
    are dropped: they are neither kept nor do they suppress another. Memory on a GPU: M * M / 8 bytes.

    Returns:
        (K,) int64 indices of the kept boxes, best first.

    Raises:
        ValueError: if shapes, types or devices do not fit, or the threshold is NaN.
    """
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN")
    return _suppress("boxes", boxes, 5, scores, lambda ordered: _nms_rotated(ordered, threshold))


def nms_circle(
    centers: Tensor,  # (M, 2) metres
    scores: Tensor,  # (M,)
    radius: float,
) -> Tensor:
    """Keeps a centre unless its squared distance to a better kept one is at most ``radius``.

    The published systems compare their threshold with the *squared* distance; so does this function, without a root.
    Ties, values that are not finite, and memory are treated as in ``nms_rotated``.

    Returns:
        (K,) int64 indices of the kept centres, best first.

    Raises:
        ValueError: if shapes, types or devices do not fit, or the radius is negative or NaN.
    """
    if not radius >= 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    return _suppress("centers", centers, 2, scores, lambda ordered: _nms_circle(ordered, radius))


def _suppress(name: str, boxes: Tensor, width: int, scores: Tensor, keep: Callable[[Tensor], Tensor]) -> Tensor:
    check_boxes(name, boxes, width)
    if scores.shape != boxes.shape[:1] or scores.device != boxes.device:
        raise ValueError(
            f"scores must be ({boxes.shape[0]},) on {boxes.device}, one per row of {name}, "
            f"got {tuple(scores.shape)} on {scores.device}"
        )
    boxes = boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))
    scores = scores.detach()
    valid = boxes.isfinite().all(1) & (scores == scores)
    # A NaN box overlaps nothing and is nowhere near anything, so a dropped one cannot suppress.
    boxes = boxes.masked_fill(~valid[:, None], math.nan)
    order = torch.argsort(scores.masked_fill(~valid, -math.inf), descending=True, stable=True)
    return order[keep(boxes[order]) & valid[order]]


def _fake_mask(boxes: Tensor, limit: float) -> Tensor:
    return boxes.new_empty(boxes.shape[:1], dtype=torch.bool)


_nms_rotated = define_op("nms_rotated", "(Tensor boxes, float threshold) -> Tensor", reference.nms_rotated, _fake_mask)
_nms_circle = define_op("nms_circle", "(Tensor centers, float radius) -> Tensor", reference.nms_circle, _fake_mask)
