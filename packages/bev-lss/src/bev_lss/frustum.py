"""From feature pixels and depth bins to points in metres.

Shapes: B samples, N cameras, D depth bins, h x w feature pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .inverse import published_inverse

__all__ = ["DepthBins", "frustum_points", "pixel_positions", "points_to_ego"]


@dataclass(frozen=True)
class DepthBins:
    """The depths, in metres, at which features are lifted.

    Uniform bins stand at ``lower, lower + step, …`` below ``upper``. Log-spaced bins (spacing-increasing
    discretisation, used by the stereo systems) keep that number of bins and run geometrically from ``lower`` to
    ``upper - 1``: the published rule, which does not look at ``step`` for the last bin.
    """

    lower: float
    upper: float
    step: float
    log_spaced: bool = False

    def __post_init__(self) -> None:
        if not (self.lower > 0 and self.step > 0 and self.upper > self.lower):
            raise ValueError(f"depth bins need 0 < lower < upper and step > 0, in metres, got {self}")
        if self.log_spaced and (self.count < 2 or self.upper - 1 <= self.lower):
            raise ValueError(f"log-spaced depth bins need at least two bins and upper - 1 > lower, got {self}")

    @property
    def count(self) -> int:
        """Number of bins D."""
        return math.ceil((self.upper - self.lower) / self.step)

    def values(self) -> Tensor:
        """The depths: (D,) float32 metres."""
        if not self.log_spaced:
            return torch.arange(self.lower, self.upper, self.step, dtype=torch.float32)
        lower, upper = torch.tensor([self.lower, self.upper])
        fraction = torch.arange(self.count).float() / (self.count - 1)
        return torch.exp(torch.log(lower) + fraction * torch.log((upper - 1) / lower))


def frustum_points(feature_size: tuple[int, int], stride: int, bins: DepthBins) -> Tensor:
    """Network-input pixel and depth of every feature pixel and bin: (D, h, w, 3) float32 as (u px, v px, depth m).

    Published rule: the h x w samples run from the first to the last pixel of the network input (linspace(0, W-1, w)),
    they are not the centres of the feature cells.
    """
    height, width = feature_size
    u = pixel_positions(width, stride)
    v = pixel_positions(height, stride)
    depth, v, u = torch.meshgrid(bins.values(), v, u, indexing="ij")
    return torch.stack((u, v, depth), dim=-1)


def pixel_positions(count: int, stride: int) -> Tensor:
    """``count`` positions from 0 to the last pixel of ``count * stride``: (count,) float32.

    Equal to torch.linspace but for the last bit, which in torch depends on the release and on the processor's vector
    width. The published figures come from eight lanes, two vectors at a time (every linspace of PyTorch 1.12 and 1.13
    that was compared is equal bit for bit): within full sixteens each eight counts from its own first value, the rest
    one by one, and what starts in the second half counts down from the end in one fused multiply-add. Fixed here, the
    same points fall into the same cells, and onto the same stereo matches, everywhere.
    """
    index = torch.arange(count)
    first = torch.where(index < count - count % 16, index - index % 8, index)
    end = torch.tensor(float(count * stride - 1))
    step = end / max(count - 1, 1)
    from_end = (end.double() - step.double() * (count - 1 - first)).float()  # fused: rounded once
    base = torch.where(first < max(count // 2, 1), step * first, from_end)
    return base + step * (index - first)


def points_to_ego(
    frustum: Tensor,  # (D, h, w, 3) u px, v px, depth m
    cam_to_key_ego: Tensor,  # (B, N, 4, 4)
    intrinsics: Tensor,  # (B, N, 3, 3)
    image_aug: Tensor,  # (B, N, 3, 3)
    bev_aug: Tensor,  # (B, 3, 3)
) -> Tensor:
    """Frustum points in the augmented key-ego frame: (B, N, D, h, w, 3) float32 metres.

    Follows the order of operations of the published code, so that points fall on the same side of every cell border.
    Under autocast too, all of it is float32.
    """
    lead = (*intrinsics.shape[:2], 1, 1, 1)
    rotation, translation = _split_affine(image_aug)
    shifted = [frustum[..., i] - translation[..., i].view(lead) for i in range(3)]
    u, v, depth = _transform(published_inverse(rotation).view(*lead, 3, 3), *shifted)
    # Autocast would take this product to half precision, and points decimetres away. Meta tensors have no autocast.
    with torch.autocast("cpu" if frustum.is_meta else frustum.device.type, enabled=False):
        pixel_to_ego = cam_to_key_ego[..., :3, :3] @ published_inverse(intrinsics)
    turned = _transform(pixel_to_ego.view(*lead, 3, 3), u * depth, v * depth, depth)
    points = [turned[i] + cam_to_key_ego[..., i, 3].view(lead) for i in range(3)]
    return torch.stack(_transform(bev_aug.view(-1, 1, 1, 1, 1, 3, 3), *points), dim=-1)


def _transform(matrix: Tensor, x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    """matrix (*lead, 3, 3) times the vectors (x, y, z), each (*lead, …) broadcast: the three rows of the product.

    Written out, because library matrix products may fuse multiply and add: then a point on a cell border falls on
    another side from one machine to the next.
    """
    return [matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] * z for i in range(3)]


def _split_affine(image_aug: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (B, N, 3, 3), depth untouched, and translation (B, N, 3) of image_aug (B, N, 3, 3)."""
    rotation = image_aug.clone()
    rotation[..., :2, 2] = 0
    translation = image_aug[..., :, 2].clone()
    translation[..., 2] = 0
    return rotation, translation
