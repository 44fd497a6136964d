"""One stereo operator from features and cameras to matching probabilities.

Shapes: M images, C channels, H x W feature pixels, D depths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_ops import matching_probability

from .sweep import previous_views

__all__ = ["matching"]


def matching(
    current: Tensor,  # (M, C, H, W) float16, bfloat16 or float32
    previous: Tensor,  # (M, C, H, W)
    camera_to_previous: Tensor,  # (M, 4, 4) float32
    intrinsics: Tensor,  # (M, 3, 3) float32
    image_aug: Tensor,  # (M, 3, 3) float32
    depths: Tensor,  # (D,) float32, metres
    stride: int,
    bias: float,
) -> Tensor:
    """Softmax over the depths of minus :func:`bev_ops.matching_cost`: (M, D, H, W) float32, without gradient.

    The camera matrices are combined inside. An operator of its own, so that a compiler neither unrolls that nor lets
    it round otherwise.
    """
    return torch.ops.bev_temporal.matching_cost.default(
        current, previous, camera_to_previous, intrinsics, image_aug, depths, stride, bias
    )


def _matching(
    current: Tensor,
    previous: Tensor,
    camera_to_previous: Tensor,
    intrinsics: Tensor,
    image_aug: Tensor,
    depths: Tensor,
    stride: int,
    bias: float,
) -> Tensor:
    size = (current.shape[2], current.shape[3])
    with torch.autocast(current.device.type, enabled=False):  # a camera matrix in half precision is off by pixels
        views = previous_views(camera_to_previous, intrinsics, image_aug, size, stride)
        return matching_probability(current, previous, views, depths, stride, bias)


def _fake_matching(
    current: Tensor,
    previous: Tensor,
    camera_to_previous: Tensor,
    intrinsics: Tensor,
    image_aug: Tensor,
    depths: Tensor,
    stride: int,
    bias: float,
) -> Tensor:
    images, _, height, width = current.shape
    return current.new_empty(images, len(depths), height, width, dtype=torch.float32)


_library = torch.library.Library("bev_temporal", "DEF")
_library.define(
    "matching_cost(Tensor current, Tensor previous, Tensor camera_to_previous, Tensor intrinsics, Tensor image_aug, "
    "Tensor depths, int stride, float bias) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("matching_cost", _matching, "CompositeExplicitAutograd")
torch.library.register_fake("bev_temporal::matching_cost", _fake_matching, lib=_library)
