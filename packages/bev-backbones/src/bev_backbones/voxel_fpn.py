"""Neck that brings the stages of the voxel encoder back to the grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["VoxelFpn"]


class VoxelFpn(nn.Module):
    """Coarse voxel maps upsampled onto the finest, concatenated and fused by one 1x1x1 convolution (BEVDet-Occ).

    Upsampling is trilinear with aligned corners.

    Args:
        in_channels: channels of all maps together.
        out_channels: channels of the result.
        scales: how many times finer the result is than each map.
        checkpointing: recompute the fusion in the backward pass. Its batch statistics then count twice in the running
            ones, as in the published training.
    """

    def __init__(
        self, in_channels: int, out_channels: int, scales: Sequence[int] = (1, 2, 4), *, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.checkpointing = checkpointing
        self.fuse = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
        nn.init.kaiming_normal_(self.fuse[0].weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps (B, C_i, Z_i, Y_i, X_i), finest first, the C_i in_channels together -> (B, out_channels, Z, Y, X).

        Raises:
            ValueError: another number of maps or channels than the neck was built for, or sizes that do not meet.
        """
        self._check(maps)
        if self.checkpointing and any(m.requires_grad for m in maps):
            return checkpoint(self._fused, *maps, use_reentrant=False)
        return self._fused(*maps)

    def _fused(self, *maps: Tensor) -> Tensor:
        conv, norm, relu = self.fuse
        # A 1x1x1 convolution and an interpolation commute: fusing first spares the upsampled maps of all channels.
        weights = conv.weight.split([m.shape[1] for m in maps], dim=1)
        fused = [
            _upsample(F.conv3d(m, weight), scale) for m, weight, scale in zip(maps, weights, self.scales, strict=True)
        ]
        return relu(norm(sum(fused[1:], start=fused[0])))

    def _check(self, maps: Sequence[Tensor]) -> None:
        if len(maps) != len(self.scales):
            raise ValueError(f"the neck was built for {len(self.scales)} maps, got {len(maps)}")
        channels = [m.shape[1] for m in maps]
        if sum(channels) != self.fuse[0].in_channels:
            raise ValueError(f"the neck was built for {self.fuse[0].in_channels} channels together, got {channels}")
        sizes = [tuple(scale * length for length in m.shape[2:]) for m, scale in zip(maps, self.scales, strict=True)]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"the maps do not meet: sizes {[tuple(m.shape[2:]) for m in maps]} upsampled by {self.scales} are "
                f"{sizes}; take a grid whose Z, Y and X are multiples of {max(self.scales)}"
            )


def _upsample(voxels: Tensor, scale: int) -> Tensor:
    if scale == 1:
        return voxels
    return F.interpolate(voxels, scale_factor=scale, mode="trilinear", align_corners=True)
