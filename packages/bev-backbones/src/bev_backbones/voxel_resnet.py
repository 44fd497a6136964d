"""Residual encoder on voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["VoxelResNet"]


class VoxelResNet(nn.Module):
    """Stages of residual blocks of 3x3x3 convolutions; every stage's output is returned (BEVDet-Occ).

    The first block of a stage changes channels and stride; its shortcut is one 3x3x3 convolution with normalisation,
    also where neither changes, as published.

    Args:
        in_channels: channels of the voxels.
        channels: output channels per stage.
        blocks: residual blocks per stage.
        strides: stride per stage, along all three axes.
        checkpointing: recompute the activations of every stage in the backward pass. Its batch statistics then count
            twice in the running ones, as in the published training.

    Attributes:
        channels: as given, so that a neck can size itself.

    Raises:
        ValueError: not one entry per stage.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        blocks: Sequence[int],
        strides: Sequence[int],
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not len(channels) == len(blocks) == len(strides):
            raise ValueError(
                f"channels, blocks and strides need one entry per stage, got {channels}, {blocks}, {strides}"
            )
        self.channels = tuple(channels)
        self.checkpointing = checkpointing
        self.stages = nn.ModuleList()
        for width, depth, stride in zip(channels, blocks, strides, strict=True):
            first = _VoxelBlock(in_channels, width, stride, shortcut=True)
            self.stages.append(nn.Sequential(first, *(_VoxelBlock(width, width) for _ in range(depth - 1))))
            in_channels = width

    def forward(self, voxels: Tensor) -> list[Tensor]:
        """voxels (B, in_channels, Z, Y, X) -> one map per stage, (B, channels[i], Z_i, Y_i, X_i), sizes rounded up."""
        maps = []
        for stage in self.stages:
            recompute = self.checkpointing and voxels.requires_grad
            voxels = checkpoint(stage, voxels, use_reentrant=False) if recompute else stage(voxels)
            maps.append(voxels)
        return maps


class _VoxelBlock(nn.Module):
    """Two 3x3x3 convolutions and their residual connection."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, shortcut: bool = False) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = _conv(out_channels, out_channels)
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.shortcut = (
            nn.Sequential(_conv(in_channels, out_channels, stride), nn.BatchNorm3d(out_channels))
            if shortcut
            else nn.Identity()
        )

    def forward(self, voxels: Tensor) -> Tensor:
        """voxels (B, in_channels, Z, Y, X) -> (B, out_channels, Z', Y', X')."""
        hidden = F.relu(self.bn1(self.conv1(voxels)), inplace=True)
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(voxels), inplace=True)


def _conv(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv3d:
    conv = nn.Conv3d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
