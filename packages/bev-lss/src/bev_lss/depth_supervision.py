"""Teaching depth with LiDAR (BEVDepth, arXiv:2206.10092): labels per feature pixel and the loss on them.

Shapes: B samples, N cameras, H x W network-input pixels, h x w feature pixels, D depth bins.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .frustum import DepthBins

__all__ = ["depth_labels", "depth_loss"]

_NOTHING = 1e5  # metres; what a pixel without LiDAR counts as when the nearest of a patch is taken


def depth_labels(
    depth_map: Tensor,  # (B, N, H, W) metres, 0 where no LiDAR point fell
    bins: DepthBins,
    stride: int,
) -> Tensor:
    """The depth bin of the nearest LiDAR point in the patch of every feature pixel: (B, N, h, w) int64, -1 without one.

    Published rule: bin i begins at its depth and the fraction is cut off; what lies beyond the last bin has no label.

    Raises:
        ValueError: the map's height or width is no multiple of the stride.
    """
    if depth_map.shape[-2] % stride or depth_map.shape[-1] % stride:
        raise ValueError(f"a depth map of multiples of {stride} pixels is wanted, got {tuple(depth_map.shape)}")
    far = torch.where(depth_map == 0, _NOTHING, depth_map)
    nearest = -F.max_pool2d(-far.flatten(0, 1), stride).unflatten(0, depth_map.shape[:2])
    number = _bin_number(nearest, bins)  # counted from 1, so that 0 is left for none
    return torch.where((number >= 0) & (number < bins.count + 1), number, 0).long() - 1


def depth_loss(
    depth: Tensor,  # (B, N, D, h, w) distribution over the bins
    labels: Tensor,  # (B, N, h, w) int64, -1 for none
) -> Tensor:
    """Binary cross-entropy of every bin against the label, summed over bins, averaged over labelled pixels: scalar.

    Computed in float32. Without any label it is zero.
    """
    labelled = labels >= 0
    predicted = depth.movedim(2, -1)[labelled].float()
    wanted = F.one_hot(labels[labelled], depth.shape[2]).float()
    with torch.autocast(depth.device.type, enabled=False):
        return F.binary_cross_entropy(predicted, wanted, reduction="sum") / labelled.sum().clamp(min=1)


def _bin_number(depth_m: Tensor, bins: DepthBins) -> Tensor:
    """Number of the bin that a depth falls into, counted from 1, with its fraction."""
    if not bins.log_spaced:
        return (depth_m - (bins.lower - bins.step)) / bins.step
    # In the published order of operations, so that depths on a border fall to the same side.
    lower, upper = torch.tensor(bins.lower), torch.tensor(bins.upper - 1.0)
    return (torch.log(depth_m) - torch.log(lower)) * (bins.count - 1) / torch.log(upper / lower) + 1
