"""The definition of stereo matching in plain PyTorch, and the oracle of its tests; see ``sweep.py``.

Shapes: M images, C channels, H x W feature pixels, P some of them, D depths.

Positions are written out in float32, one operation after the other and without fused multiply-add, in the order of the
published code: hundreds of compared channels turn the last bit of a position into a per mille of the matching, and a
position that falls exactly on a pixel must do so here too.

Absolute differences a_c are summed in the order of the published code as well, which compares four channels at a time:
each group ((a_0 + a_1) + a_2) + a_3, and group after group to the cost, the first one first. The softmax over depths is
so sharp that the rounding of another order is a per mille of gradients.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_GROUP = 4  # channels that the published code warps and compares together
_BEHIND = 1e-3  # metres in front of the previous camera that a point must at least have to be seen (published)

# Zeros left, right, above, below the previous map: positions clamped to just outside of it need no mask.
_BORDER = (1, 2, 1, 2)

# Samples whose positions are worked out together, and warped values that exist at one time: what fits the caches of a
# CPU core; on other devices as much as fills them.
_POSITIONS = {True: 1 << 15, False: 1 << 20}
_WARPED = {True: 1 << 19, False: 1 << 25}


def matching_cost(
    current: Tensor,  # (M, C, H, W)
    previous: Tensor,  # (M, C, H, W)
    pixels: Tensor,  # (M, 2, H, W)
    pixel_to_previous: Tensor,  # (M, 3, 3)
    translation: Tensor,  # (M, 3)
    intrinsics: Tensor,  # (M, 3, 3)
    image_aug: Tensor,  # (M, 3, 3)
    depths: Tensor,  # (D,)
    stride: int,
    bias: float,
    probability: bool,
) -> Tensor:
    """Costs (M, D, H, W) float32, or the softmax of minus the costs over D."""
    images, channels, height, width = current.shape
    on_cpu = current.device.type == "cpu"
    costs = torch.empty(images, height * width, len(depths), device=current.device)
    for image in range(images if costs.numel() else 0):
        own, rows = _channels_last(current[image]), _channels_last(F.pad(previous[image], _BORDER))
        camera = (pixel_to_previous[image], translation[image], intrinsics[image], image_aug[image])
        for part in _slices(height * width, _POSITIONS[on_cpu] // len(depths)):
            raw = pixels[image].flatten(1)[:, part]
            corners, weights = _corners(*positions(raw, *camera, depths, (height, width), stride), (height, width))
            for few in _slices(len(corners), _WARPED[on_cpu] // (channels * len(depths))):
                costs[image, part][few] = _cost(own[part][few], rows, corners[few], weights[few], bias)
    if probability:
        costs = costs.neg_().softmax(dim=-1)
    return costs.transpose(1, 2).contiguous().view(images, len(depths), height, width)


def positions(
    pixels: Tensor,  # (2, P) u, v before the augmentation
    pixel_to_previous: Tensor,  # (3, 3)
    translation: Tensor,  # (3,)
    intrinsics: Tensor,  # (3, 3)
    image_aug: Tensor,  # (3, 3)
    depths: Tensor,  # (D,)
    size: tuple[int, int],
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Feature pixel (x, y) in the previous view of some pixels of one image at the depths (D,): each (P, D).

    Positions outside of the map lie anywhere there; those behind the camera at (-1, -1). ``sweep_position.h`` repeats
    these operations.
    """
    u, v = pixels[:, :, None] * depths
    matrix, camera, aug = pixel_to_previous, intrinsics, image_aug
    x, y, z = (matrix[i, 0] * u + matrix[i, 1] * v + matrix[i, 2] * depths + translation[i] for i in range(3))
    u = (camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] * z) / z
    v = (camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] * z) / z
    seen = (aug[i, 0] * u + aug[i, 1] * v + aug[i, 2] for i in range(2))
    x, y = (_to_feature(p, count, stride) for p, count in zip(seen, reversed(size), strict=True))
    behind = z < _BEHIND
    return x.masked_fill_(behind, -1), y.masked_fill_(behind, -1)


def _to_feature(position: Tensor, count: int, stride: int) -> Tensor:
    """Network-input pixels to feature pixels, by way of -1 for the first and 1 for the last of ``count``."""
    # A tensor, because CUDA divides by a Python number through its reciprocal, which rounds otherwise.
    span = position.new_full((), count * stride - 1)
    return (position / span * 2 - 1 + 1) * ((count - 1) / 2)


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
    nothing = warped[..., -_GROUP] == 0
    return _sum_published(warped.sub_(own[:, None]).abs_()).add_(nothing, alpha=bias)


def _sum_published(differences: Tensor) -> Tensor:
    """Sum over the channels (P, D, C) -> (P, D): within groups of four neighbours, then group after group."""
    first, *rest = differences.unflatten(-1, (-1, _GROUP)).unbind(-1)
    groups = first.clone()
    for channel in rest:
        groups += channel
    cost, *later = groups.permute(2, 0, 1).contiguous()
    for group in later:
        cost += group
    return cost


def _channels_last(image: Tensor) -> Tensor:
    """(C, H, W) -> (H*W, C) float32, each row in one piece of memory."""
    return image.float().permute(1, 2, 0).contiguous().flatten(0, 1)


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
    position = position.nan_to_num(nan=-1, posinf=count, neginf=-1).clamp_(-1, count)
    before = position.floor()
    return before.int(), position.sub_(before)


def _slices(count: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(start, start + size) for start in range(0, count, size))
