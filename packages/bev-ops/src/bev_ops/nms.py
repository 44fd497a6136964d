"""Greedy non-maximum suppression by rotated overlap and by centre distance.

The operator works on groups of candidates in order, best first, and returns a mask: its result has a fixed shape, so
nothing waits for the device until kept indices are gathered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from . import reference
from ._library import define_op
from .overlap import check_boxes

# What the kernels take along with the arguments of one launch.
_MOST_RULES = 64
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class NmsRule:
    """What removes a candidate from its group. The defaults remove none."""

    overlap: float = math.inf
    """A box whose overlap (IoU) with a better kept one is greater than this goes."""
    squared_radius: float = -math.inf
    """A box whose squared distance to a better kept one is at most this goes: no root is taken, as published."""
    most: int = _NO_LIMIT
    """At most this many best boxes are kept."""

    def __post_init__(self) -> None:
        if math.isnan(self.overlap) or math.isnan(self.squared_radius):
            raise ValueError(
                f"overlap and squared_radius must be numbers, got {self.overlap} and {self.squared_radius}"
            )
        if self.most < 0:
            raise ValueError(f"most must not be negative, got {self.most}")


def nms_batched(
    boxes: Tensor,  # (B, T, M, 5) x, y, length, width, yaw, best first: metres, radians counter-clockwise from x
    valid: Tensor,  # (B, T, M) bool
    rules: Sequence[NmsRule],  # T
) -> Tensor:
    """Suppression within every group of boxes at once: group (b, t) follows rule t, such as task t of sample b.

    Boxes that are not valid, or have a value that is not finite, are neither kept nor do they remove another. The shape
    of the result does not depend on the values and nothing waits for the device: it can be captured in a CUDA graph.
    Memory on a GPU: B * T * M * M / 8 bytes.

    Returns:
        (B, T, M) bool, the kept boxes.

    Raises:
        ValueError: if shapes, types or devices do not fit, or there are more than 64 rules.
    """
    _check_groups(boxes, valid, len(rules))
    boxes = _wide(boxes)
    overlaps, radii = [float(rule.overlap) for rule in rules], [float(rule.squared_radius) for rule in rules]
    most = [min(rule.most, _NO_LIMIT) for rule in rules]
    return _nms_batched(boxes, valid & boxes.isfinite().all(-1), overlaps, radii, most)


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
    _check_single("boxes", boxes, 5, scores)
    return _suppress(boxes, scores, NmsRule(overlap=threshold))


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
    _check_single("centers", centers, 2, scores)
    return _suppress(functional.pad(centers, (0, 3)), scores, NmsRule(squared_radius=radius))


def _suppress(boxes: Tensor, scores: Tensor, rule: NmsRule) -> Tensor:
    """Kept indices, best first, of boxes (M, 5) in any order."""
    boxes, scores = _wide(boxes), scores.detach()
    valid = boxes.isfinite().all(1) & (scores == scores)
    order = torch.argsort(scores.masked_fill(~valid, -math.inf), descending=True, stable=True)
    return order[nms_batched(boxes[order][None, None], valid[order][None, None], [rule])[0, 0]]


def _wide(boxes: Tensor) -> Tensor:
    return boxes.detach().to(torch.promote_types(boxes.dtype, torch.float32))


def _check_single(name: str, boxes: Tensor, width: int, scores: Tensor) -> None:
    check_boxes(name, boxes, width)
    if scores.shape != boxes.shape[:1] or scores.device != boxes.device:
        raise ValueError(
            f"scores must be ({boxes.shape[0]},) on {boxes.device}, one per row of {name}, "
            f"got {tuple(scores.shape)} on {scores.device}"
        )


def _check_groups(boxes: Tensor, valid: Tensor, num_rules: int) -> None:
    if boxes.ndim != 4 or boxes.shape[3] != 5 or not boxes.is_floating_point():
        raise ValueError(f"boxes must be floating (B, T, M, 5), got {boxes.dtype} {tuple(boxes.shape)}")
    if valid.shape != boxes.shape[:3] or valid.dtype != torch.bool or valid.device != boxes.device:
        raise ValueError(
            f"valid must be bool {tuple(boxes.shape[:3])} on {boxes.device}, one per box, "
            f"got {valid.dtype} {tuple(valid.shape)} on {valid.device}"
        )
    if num_rules != boxes.shape[1] or num_rules > _MOST_RULES:
        raise ValueError(
            f"rules must be one per index of the second dimension of boxes, here {boxes.shape[1]}, and at most "
            f"{_MOST_RULES}; got {num_rules}"
        )


def _fake_nms_batched(
    boxes: Tensor, valid: Tensor, overlaps: Sequence[float], radii: Sequence[float], most: Sequence[int]
) -> Tensor:
    return boxes.new_empty(boxes.shape[:3], dtype=torch.bool)


_nms_batched = define_op(
    "nms_batched",
    "(Tensor boxes, Tensor valid, float[] overlaps, float[] radii, int[] most) -> Tensor",
    reference.nms_batched,
    _fake_nms_batched,
)
