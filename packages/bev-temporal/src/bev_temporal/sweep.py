"""Where the pixels of a camera lie in its own previous view.

Shapes: M images, H x W feature pixels.

Written out in float32 in the order of the published code, like the positions that :func:`bev_ops.matching_cost` works
out of it: hundreds of compared channels turn the last bit of a position into a per mille of the matching.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_lss import pixel_positions, published_inverse
from bev_ops import SweepViews

__all__ = ["previous_views"]


def previous_views(
    camera_to_previous: Tensor,  # (M, 4, 4)
    intrinsics: Tensor,  # (M, 3, 3)
    image_aug: Tensor,  # (M, 3, 3)
    size: tuple[int, int],
    stride: int,
) -> SweepViews:
    """The way from the feature pixels of M cameras to those of the same cameras one frame earlier.

    Both frames are taken to have the same intrinsics and augmentation (published).

    Args:
        size: H, W of the feature maps.
        stride: network-input pixels per feature pixel.
    """
    height, width = size
    v = pixel_positions(height, stride).to(image_aug.device).repeat_interleave(width)
    u = pixel_positions(width, stride).to(image_aug.device).repeat(height)
    u, v = u - image_aug[:, 0, 2, None], v - image_aug[:, 1, 2, None]
    back = published_inverse(image_aug[:, :2, :2])[..., None]
    raw_pixels = torch.stack([back[:, i, 0] * u + back[:, i, 1] * v for i in range(2)], dim=1)
    pixel_to_previous = camera_to_previous[:, :3, :3].contiguous() @ published_inverse(intrinsics)
    return SweepViews(
        raw_pixels.unflatten(2, size), pixel_to_previous, camera_to_previous[:, :3, 3], intrinsics, image_aug
    )
