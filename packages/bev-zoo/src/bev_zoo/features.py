"""What passes between the stages of a detector.

Shapes: B samples, N cameras, C and C' channels, h x w feature pixels, H x W network-input pixels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["FrameFeatures", "StereoReference"]


class FrameFeatures(NamedTuple):
    """What the image side makes of one frame."""

    lifted: Tensor  # (B, N, C, h, w), goes into the view transform
    stereo: Tensor | None  # (B, N, C', H / 4, W / 4), is compared between frames; None in systems without stereo


class StereoReference(NamedTuple):
    """The frame that stereo compares with."""

    features: Tensor  # (B, N, C', H / 4, W / 4)
    camera_to_previous: Tensor  # (B, N, 4, 4) camera frame to that of the same camera in the reference frame
