"""Residual encoder on bird's-eye-view maps."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.resnet import BasicBlock
from torch import Tensor, nn

__all__ = ["BevResNet"]


class BevResNet(nn.Module):
    """Stages of basic residual blocks; every stage's output is returned (BEVDet, arXiv:2112.11790).

    The first block of a stage changes channels and stride; its shortcut is one 3x3 convolution with bias and without
    normalisation, as published.

    Args:
        in_channels: channels of the bird's-eye-view map.
        channels: output channels per stage.
        blocks: residual blocks per stage.
        strides: stride per stage.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (128, 256, 512),
        *,
        blocks: Sequence[int] = (2, 2, 2),
        strides: Sequence[int] = (2, 2, 2),
    ) -> None:
        super().__init__()
        if not len(channels) == len(blocks) == len(strides):
            raise ValueError(
                f"channels, blocks and strides need one entry per stage, got {channels}, {blocks}, {strides}"
            )
        self.channels = tuple(channels)
        self.stages = nn.ModuleList()
        for width, depth, stride in zip(channels, blocks, strides, strict=True):
            shortcut = nn.Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1)
            first = BasicBlock(in_channels, width, stride=stride, downsample=shortcut)
            self.stages.append(nn.Sequential(first, *(BasicBlock(width, width) for _ in range(depth - 1))))
            in_channels = width

    def forward(self, bev: Tensor) -> list[Tensor]:
        """bev (B, in_channels, Y, X) -> one map per stage, each (B, channels[i], Y_i, X_i)."""
        maps = []
        for stage in self.stages:
            bev = stage(bev)
            maps.append(bev)
        return maps
