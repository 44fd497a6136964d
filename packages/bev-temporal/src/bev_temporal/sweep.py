"""Where the pixels of a camera lie in its own previous view, for every depth they might have.

Shapes: M images, H x W feature pixels, P some of them, D depths.

Written out in float32, one operation after the other and without fused multiply-add, in the order of the published
code: hundreds of compared channels turn the last bit of a position into a per mille of the matching, and a position
that falls exactly on a pixel must do so here too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bev_lss import pixel_positions, published_inverse

__all__ = ["PreviousViews"]

_BEHIND = 1e-3  # metres in front of the previous camera that a point must at least have to be seen (published)


@dataclass(frozen=True)
class PreviousViews:
    """The way from the feature pixels of M cameras to those of the same cameras one frame earlier.

    Both frames are taken to have the same intrinsics and augmentation (published).
    """

    raw_pixels: Tensor  # (M, 2, H*W) u, v of every feature pixel before the augmentation
    pixel_to_previous: Tensor  # (M, 3, 3) raw pixel times depth -> previous camera, without the translation
    translation: Tensor  # (M, 3) metres
    intrinsics: Tensor  # (M, 3, 3)
    image_aug: Tensor  # (M, 3, 3)
    size: tuple[int, int]  # H, W
    stride: int  # network-input pixels per feature pixel

    @classmethod
    def of(
        cls,
        camera_to_previous: Tensor,  # (M, 4, 4)
        intrinsics: Tensor,  # (M, 3, 3)
        image_aug: Tensor,  # (M, 3, 3)
        size: tuple[int, int],
        stride: int,
    ) -> PreviousViews:
        """Views of feature maps of H x W pixels."""
        height, width = size
        v = pixel_positions(height, stride).to(image_aug.device).repeat_interleave(width)
        u = pixel_positions(width, stride).to(image_aug.device).repeat(height)
        u, v = u - image_aug[:, 0, 2, None], v - image_aug[:, 1, 2, None]
        back = published_inverse(image_aug[:, :2, :2])[..., None]
        raw_pixels = torch.stack([back[:, i, 0] * u + back[:, i, 1] * v for i in range(2)], dim=1)
        pixel_to_previous = camera_to_previous[:, :3, :3].contiguous() @ published_inverse(intrinsics)
        return cls(raw_pixels, pixel_to_previous, camera_to_previous[:, :3, 3], intrinsics, image_aug, size, stride)

    def positions(self, image: int, pixels: slice, depths: Tensor) -> tuple[Tensor, Tensor]:
        """Feature pixel (x, y) in the previous view of some pixels of one image at the depths (D,): each (P, D).

        Positions outside of the map lie anywhere there; those behind the camera at (-1, -1).
        """
        x, y, z = self._points(image, pixels, depths)
        behind = z < _BEHIND
        camera, aug = self.intrinsics[image], self.image_aug[image]
        u = (camera[0, 0] * x + camera[0, 1] * y + camera[0, 2] * z) / z
        v = (camera[1, 0] * x + camera[1, 1] * y + camera[1, 2] * z) / z
        positions = (aug[i, 0] * u + aug[i, 1] * v + aug[i, 2] for i in range(2))
        x, y = (self._to_feature(p, count) for p, count in zip(positions, reversed(self.size), strict=True))
        return x.masked_fill_(behind, -1), y.masked_fill_(behind, -1)

    def _points(self, image: int, pixels: slice, depths: Tensor) -> list[Tensor]:
        """x, y, z in the previous camera's frame, metres: each (P, D)."""
        u, v = self.raw_pixels[image, :, pixels, None] * depths
        matrix, translation = self.pixel_to_previous[image], self.translation[image]
        return [matrix[i, 0] * u + matrix[i, 1] * v + matrix[i, 2] * depths + translation[i] for i in range(3)]

    def _to_feature(self, position: Tensor, count: int) -> Tensor:
        """Network-input pixels to feature pixels, by way of -1 for the first and 1 for the last of ``count``."""
        return (position / (count * self.stride - 1) * 2 - 1 + 1) * ((count - 1) / 2)
