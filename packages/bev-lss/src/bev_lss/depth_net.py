"""Networks that say, per feature pixel, how far away things are and what to lift there."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["PlainDepthNet"]


class PlainDepthNet(nn.Module):
    """One 1x1 convolution for depth and context together (BEVDet, arXiv:2112.11790, after Lift-Splat-Shoot).

    Args:
        in_channels: channels of the image features.
        depth_bins: D.
        context_channels: C, the channels lifted into the bird's-eye view.
    """

    def __init__(self, in_channels: int, depth_bins: int, context_channels: int) -> None:
        super().__init__()
        self.depth_bins = depth_bins
        self.projection = nn.Conv2d(in_channels, depth_bins + context_channels, kernel_size=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """features (M, in_channels, h, w) -> depth logits (M, D, h, w), context (M, C, h, w)."""
        both = self.projection(features)
        return both[:, : self.depth_bins], both[:, self.depth_bins :]
