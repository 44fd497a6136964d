"""Stereo matching in operators that every runtime has: GridSample of a few channels at a time.

Letters: M images, C channels, H x W feature pixels, D depths.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_ops import SweepViews

__all__ = ["matching_by_sampling"]

_GROUP = 4  # channels whose last group says whether anything was seen (published)
_BEHIND = 1e-3  # metres; see bev_temporal.StereoCostVolume
_OUTSIDE = -2.0  # a position beyond every map
_WARPED = 1 << 26  # values of a warped group at one time


def matching_by_sampling(
    current: Tensor,  # (M, C, H, W) float32
    previous: Tensor,  # (M, C, H, W) float32
    views: SweepViews,
    depths: Tensor,  # (D,) metres
    stride: int,
    bias: float,
) -> Tensor:
    """What :func:`bev_ops.matching_probability` gives, to rounding: (M, D, H, W), sums to 1 over D."""
    images, channels, height, width = current.shape
    count = len(depths)
    places = _places(views, depths, (height, width), stride).reshape(images, count * height, width, 2)
    size = max(_GROUP, _WARPED // (images * count * height * width) // _GROUP * _GROUP)
    starts = [*range(0, channels, size)]
    cost: Tensor | None = None
    for first in starts:
        part = slice(first, min(first + size, channels))
        warped = F.grid_sample(previous[:, part], places, align_corners=True)
        warped = warped.reshape(images, -1, count, height, width)
        difference = (warped - current[:, part, None]).abs().sum(1)
        cost = difference if cost is None else cost + difference
        seen_by = warped[:, -_GROUP]
    return F.softmax(-(cost + torch.where(seen_by == 0, bias, 0.0)), dim=1)


def _places(views: SweepViews, depths: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Where every pixel at every depth lies in the previous view, from -1 to 1: (M, D, H, W, 2).

    Operation by operation in the order of :mod:`bev_ops.reference_sweep`.
    """
    matrix, camera, aug = (
        m[:, :, :, None, None, None] for m in (views.pixel_to_previous, views.intrinsics, views.image_aug)
    )
    translation = views.translation[:, :, None, None, None]
    depth = depths[:, None, None]
    u, v = views.pixels[:, 0, None] * depth, views.pixels[:, 1, None] * depth  # (M, D, H, W)
    x, y, z = (
        matrix[:, i, 0] * u + matrix[:, i, 1] * v + matrix[:, i, 2] * depth + translation[:, i] for i in range(3)
    )
    u = (camera[:, 0, 0] * x + camera[:, 0, 1] * y + camera[:, 0, 2] * z) / z
    v = (camera[:, 1, 0] * x + camera[:, 1, 1] * y + camera[:, 1, 2] * z) / z
    seen = [aug[:, i, 0] * u + aug[:, i, 1] * v + aug[:, i, 2] for i in range(2)]
    spans = [count * stride - 1 for count in reversed(size)]
    placed = (position / span * 2 - 1 for position, span in zip(seen, spans, strict=True))
    return torch.stack([torch.where(z < _BEHIND, _OUTSIDE, position) for position in placed], dim=-1)
