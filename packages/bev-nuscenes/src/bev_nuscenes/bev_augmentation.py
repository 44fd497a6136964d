"""Augmentation of the scene in bird's-eye view: rotate, scale and mirror the ego frame with its boxes.

Legend: M boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["BevAugmentation", "BevTransform", "boxes_in_range", "wrap_yaw"]


@dataclass(frozen=True)
class BevTransform:
    """One drawn transform: rotate about z, then scale, then mirror.

    Attributes:
        rotate_deg: counter-clockwise rotation in degrees.
        scale: factor on all three axes.
        flip_x: negate x.
        flip_y: negate y.
    """

    rotate_deg: float = 0.0
    scale: float = 1.0
    flip_x: bool = False
    flip_y: bool = False

    def matrix(self) -> np.ndarray:
        """``bev_aug`` (3, 3) float64: key ego frame to augmented key ego frame."""
        angle = np.deg2rad(self.rotate_deg)
        cos, sin = np.cos(angle), np.sin(angle)
        rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
        mirror = np.diag([-1.0 if self.flip_x else 1.0, -1.0 if self.flip_y else 1.0, 1.0])
        return mirror @ (self.scale * rotation)

    def apply(self, boxes: Tensor) -> Tensor:
        """Boxes (M, 9) of the key ego frame in the augmented frame: centre, size, yaw and velocity follow."""
        matrix = torch.from_numpy(self.matrix()).to(boxes)
        yaw = boxes[:, 6] + np.deg2rad(self.rotate_deg)
        if self.flip_x:
            yaw = torch.pi - yaw
        if self.flip_y:
            yaw = -yaw
        centre = boxes[:, :3] @ matrix.T
        velocity = boxes[:, 7:9] @ matrix[:2, :2].T
        return torch.cat([centre, boxes[:, 3:6] * self.scale, yaw[:, None], velocity], dim=1)


@dataclass(frozen=True)
class BevAugmentation:
    """Ranges from which training draws.

    Attributes:
        rotate_deg: (lowest, highest) rotation in degrees.
        scale: (lowest, highest) factor.
        flip_x: probability of negating x.
        flip_y: probability of negating y.
    """

    rotate_deg: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    flip_x: float = 0.0
    flip_y: float = 0.0

    @property
    def flips_only(self) -> bool:
        """Whether every transform that can be drawn maps the cells of a symmetric grid onto cells."""
        return tuple(self.rotate_deg) == (0.0, 0.0) and tuple(self.scale) == (1.0, 1.0)

    def sample(self, rng: np.random.Generator) -> BevTransform:
        """Draw a transform, in the published order: rotation, scale, mirror x, mirror y."""
        rotate_deg, scale = rng.uniform(*self.rotate_deg), rng.uniform(*self.scale)
        flip_x, flip_y = rng.uniform() < self.flip_x, rng.uniform() < self.flip_y
        return BevTransform(rotate_deg, scale, flip_x, flip_y)


def boxes_in_range(boxes: Tensor, box_range: tuple[float, float, float, float]) -> Tensor:
    """Which boxes (M, 9) have their centre strictly inside (x_min, y_min, x_max, y_max) metres: (M,) bool."""
    lower, upper = boxes.new_tensor(box_range[:2]), boxes.new_tensor(box_range[2:])
    return ((boxes[:, :2] > lower) & (boxes[:, :2] < upper)).all(dim=1)


def wrap_yaw(boxes: Tensor) -> Tensor:
    """Boxes (M, 9) with the yaw in [-pi, pi)."""
    wrapped = boxes.clone()
    wrapped[:, 6] -= torch.floor(boxes[:, 6] / (2 * torch.pi) + 0.5) * 2 * torch.pi
    return wrapped
