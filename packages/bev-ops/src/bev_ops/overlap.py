"""Overlap of rotated boxes in the bird's-eye view."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference
from ._library import define_op


def iou_rotated(
    boxes_a: Tensor,  # (M, 5) x, y, length, width, yaw: metres and radians, yaw counter-clockwise from x
    boxes_b: Tensor,  # (K, 5)
) -> Tensor:
    """Intersection over union of every pair of rotated boxes.

    The intersection is exact: no sampling, no tolerance, and no special case for touching or identical boxes. A box
    with a length or width that is not positive, or with a value that is not finite, overlaps nothing. Not
    differentiable.

    Returns:
        (M, K) in [0, 1]; float64 if a box is, else float32.

    Raises:
        ValueError: if a tensor is not floating (., 5), or the devices differ.
    """
    check_boxes("boxes_a", boxes_a, 5)
    check_boxes("boxes_b", boxes_b, 5)
    if boxes_a.device != boxes_b.device:
        raise ValueError(f"boxes must be on one device, got {boxes_a.device} and {boxes_b.device}")
    dtype = torch.promote_types(torch.promote_types(boxes_a.dtype, boxes_b.dtype), torch.float32)
    return _iou_rotated(boxes_a.to(dtype), boxes_b.to(dtype))


def check_boxes(name: str, boxes: Tensor, width: int) -> None:
    """Raises ValueError unless boxes are a floating (M, width) tensor."""
    if boxes.ndim != 2 or boxes.shape[1] != width:
        raise ValueError(f"{name} must be (M, {width}), got {tuple(boxes.shape)}")
    if not boxes.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {boxes.dtype}")


def _fake_iou_rotated(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    return boxes_a.new_empty(boxes_a.shape[0], boxes_b.shape[0])


_iou_rotated = define_op(
    "iou_rotated", "(Tensor boxes_a, Tensor boxes_b) -> Tensor", reference.iou_rotated, _fake_iou_rotated
)
