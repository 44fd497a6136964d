"""Neck that fuses a coarse map into a fine one, on the bird's-eye view or in the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["BevFpn"]


class BevFpn(nn.Module):
    """Coarse map upsampled onto the fine one, fused, and upsampled to the grid (the LSS decoder, arXiv:2008.05711).

    Args:
        fine_channels, coarse_channels: channels of the two encoder maps that are fused.
        out_channels: channels of the result.
        scale: how many times finer the fine map is than the coarse one.
        output_scale: upsampling after the fusion; None ends at the fused map, with hidden layers of ``out_channels``
            instead of twice as many: the image neck of the published Swin systems (with ``scale=2``).
    """

    def __init__(
        self,
        fine_channels: int,
        coarse_channels: int,
        out_channels: int,
        *,
        scale: int = 4,
        output_scale: int | None = 2,
    ) -> None:
        super().__init__()
        hidden = out_channels if output_scale is None else out_channels * 2
        self.upsample = _bilinear(scale)
        self.fuse = nn.Sequential(
            *_conv_bn_relu(fine_channels + coarse_channels, hidden), *_conv_bn_relu(hidden, hidden)
        )
        self.output: nn.Module = nn.Identity()
        if output_scale is not None:
            self.output = nn.Sequential(
                _bilinear(output_scale),
                *_conv_bn_relu(hidden, out_channels),
                nn.Conv2d(out_channels, out_channels, kernel_size=1),
            )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """maps: encoder outputs; the first (fine) and the last (coarse) are used -> (B, out_channels, Y, X)."""
        fused = self.fuse(torch.cat([maps[0], self.upsample(maps[-1])], dim=1))
        return self.output(fused)


def _bilinear(scale: int) -> nn.Upsample:
    return nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=True)


def _conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
