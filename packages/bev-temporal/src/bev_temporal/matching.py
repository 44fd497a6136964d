"""The inner loop of stereo: how far the features of now are from those of the frame before, for every depth.

Shapes: M images, C channels, H x W feature pixels, D depths.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .sweep import PreviousViews

__all__ = ["matching_cost"]

_GROUP = 4  # channels that the published code warps together

# Zeros left, right, above, below the previous map: positions clamped to just outside of it need no mask.
_BORDER = (1, 2, 1, 2)

# Samples whose positions are worked out together, and warped values that exist at one time: what fits the caches of a
# CPU core; on a GPU as much as fills it.
_POSITIONS = {"cpu": 1 << 15, "cuda": 1 << 20}
_WARPED = {"cpu": 1 << 19, "cuda": 1 << 25}


def matching_cost(
    current: Tensor,  # (M, C, H, W) float32
    previous: Tensor,  # (M, C, H, W) float32
    camera_to_previous: Tensor,  # (M, 4, 4)
    intrinsics: Tensor,  # (M, 3, 3)
    image_aug: Tensor,  # (M, 3, 3)
    depths: Tensor,  # (D,) metres
    stride: int,
    bias: float,
) -> Tensor:
    """Sum over channels of abs(current - previous where depth d puts the pixel), plus bias where nothing is there.

    Values of the previous features are bilinear, zero outside of the map and behind the camera.

    Published quirk: "nothing is there" is read off one channel, the first of the last four: ``bias`` is added wherever
    that channel's warped value is exactly 0, seen or not. Features after a ReLU are 0 in places, and get it there too.

    An operator of its own, so that torch.compile and torch.export do not unroll its loop.

    Returns:
        (M, H, W, D) float32, without gradient.
    """
    return torch.ops.bev_temporal.matching_cost.default(
        current, previous, camera_to_previous, intrinsics, image_aug, depths, stride, bias
    )


def _matching_cost(
    current: Tensor,
    previous: Tensor,
    camera_to_previous: Tensor,
    intrinsics: Tensor,
    image_aug: Tensor,
    depths: Tensor,
    stride: int,
    bias: float,
) -> Tensor:
    images, channels, height, width = current.shape
    with torch.autocast(current.device.type, enabled=False):  # a camera matrix in half precision is off by pixels
        views = PreviousViews.of(camera_to_previous, intrinsics, image_aug, (height, width), stride)
    device = "cpu" if current.device.type == "cpu" else "cuda"
    costs = current.new_empty(images, height * width, len(depths))
    for image in range(images):
        own, rows = _channels_last(current[image]), _channels_last(F.pad(previous[image], _BORDER))
        for pixels in _slices(height * width, _POSITIONS[device] // len(depths)):
            corners, weights = _corners(*views.positions(image, pixels, depths), (height, width))
            for part in _slices(len(corners), _WARPED[device] // (channels * len(depths))):
                costs[image, pixels][part] = _cost(own[pixels][part], rows, corners[part], weights[part], bias)
    return costs.view(images, height, width, len(depths))


def _fake_matching_cost(
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
    return current.new_empty(images, height, width, len(depths))


def _cost(
    own: Tensor,  # (P, C)
    rows: Tensor,  # (pixels of the bordered map, C)
    corners: Tensor,  # (P, D, 4) int
    weights: Tensor,  # (P, D, 4)
    bias: float,
) -> Tensor:
    """Cost of P pixels: (P, D)."""
    # A bag is the weighted sum of a few rows of a table: with channels last, that is bilinear sampling.
    warped = F.embedding_bag(corners.flatten(0, 1), rows, per_sample_weights=weights.flatten(0, 1), mode="sum")
    warped = warped.view(*corners.shape[:2], -1)
    channels = own.shape[-1]
    nothing = warped[..., channels - _GROUP - channels % _GROUP] == 0
    return warped.sub_(own[:, None]).abs_().sum(dim=-1).add_(nothing, alpha=bias)


def _channels_last(image: Tensor) -> Tensor:
    """(C, H, W) -> (H*W, C), each row in one piece of memory."""
    return image.permute(1, 2, 0).contiguous().flatten(0, 1)


def _corners(x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The four pixels around positions (P, D), as rows of the bordered map, and their weights: both (P, D, 4)."""
    height, width = size
    left, right_weight = _floor(x, width)
    top, bottom_weight = _floor(y, height)
    left_weight, top_weight = 1 - right_weight, 1 - bottom_weight
    first = (top + 1) * (width + 3) + left + 1
    corners = torch.stack((first, first + 1, first + width + 3, first + width + 4), dim=-1)
    upper = (left_weight * top_weight, right_weight * top_weight)
    lower = (left_weight * bottom_weight, right_weight * bottom_weight)
    return corners, torch.stack((*upper, *lower), dim=-1)


def _floor(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The pixel at or before each position, and the fraction beyond it; outside positions go just outside the map."""
    position = position.clamp(-1, count)
    before = position.floor()
    return before.int(), position.sub_(before)


def _slices(count: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(start, start + size) for start in range(0, count, size))


_library = torch.library.Library("bev_temporal", "DEF")
_library.define(
    "matching_cost(Tensor current, Tensor previous, Tensor camera_to_previous, Tensor intrinsics, Tensor image_aug, "
    "Tensor depths, int stride, float bias) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("matching_cost", _matching_cost, "CompositeExplicitAutograd")
torch.library.register_fake("bev_temporal::matching_cost", _fake_matching_cost, lib=_library)
