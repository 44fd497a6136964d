"""The result of a detection head.

Shapes: B samples, K rows of a padded result, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Detections", "PaddedDetections"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes, scores and labels of one sample; each row of the three belongs together.

    Attributes:
        boxes: (M, 9) x, y, z of the *centre*, length, width, height in metres, yaw in radians counter-clockwise from x,
            vx, vy in metres per second, all in the (augmented) key-ego frame.
        scores: (M,) in 0..1.
        labels: (M,) int64, index into the head's classes (all tasks one after another).

    Raises:
        ValueError: a field has another shape, or the labels are not int64.
    """

    boxes: Tensor  # (M, 9)
    scores: Tensor  # (M,)
    labels: Tensor  # (M,) int64

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 9:
            raise ValueError(
                "Detections.boxes must be (M, 9): x, y, z, length, width, height, yaw, vx, vy; "
                f"got {tuple(self.boxes.shape)}"
            )
        for name, values in (("scores", self.scores), ("labels", self.labels)):
            if values.shape != self.boxes.shape[:1]:
                raise ValueError(
                    f"Detections.{name} must be ({len(self.boxes)},), one per box; got {tuple(values.shape)}"
                )
        if self.labels.dtype != torch.int64:
            raise ValueError(f"Detections.labels must be int64; got {self.labels.dtype}; convert them with .long()")

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor | slice) -> Detections:
        """Choose rows by a bool mask (M,), by int64 indices (K,) or by a slice."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))

    @classmethod
    def concatenate(cls, parts: Sequence[Detections]) -> Detections:
        """One set of detections from several, in their order (at least one part)."""
        return cls(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.labels for part in parts]),
        )


class PaddedDetections(NamedTuple):
    """Detections of a batch in tensors of fixed shapes: those of sample b are its first ``counts[b]`` rows."""

    boxes: Tensor  # (B, K, 9) as in Detections; 0 in the rows that are left over
    scores: Tensor  # (B, K) 0 in the rows that are left over
    labels: Tensor  # (B, K) int64, -1 in the rows that are left over
    counts: Tensor  # (B,) int64

    def unpadded(self) -> list[Detections]:
        """One Detections per sample, views of the padded rows. Waits for the device once, for the counts."""
        return [
            Detections(self.boxes[b, :count], self.scores[b, :count], self.labels[b, :count])
            for b, count in enumerate(self.counts.tolist())
        ]
