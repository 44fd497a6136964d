"""Convolutions of upsampled maps, computed before the upsampling: the same numbers from far fewer operations.

A 3x3 convolution and a bilinear upsampling are both linear, and the upsampling treats all channels alike. So the nine
taps can be applied to the coarse map as 1x1 convolutions, and what they give upsampled, moved by a cell and added up,
which is one small matrix product along each axis. The convolutions then have S x S times fewer products: of the neck of
the published detectors, two of three, and a quarter and a sixteenth is left of them.

Shapes: B samples, C and C' channels, h x w cells, S scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_backbones import BevFpn

__all__ = ["CoarseBevFpn", "UpsampledConv"]


class UpsampledConv(nn.Module):
    """``conv(upsample(x))`` for a 3x3 convolution with padding 1 and a bilinear upsampling with aligned corners.

    Args:
        weight: (C', C, 3, 3) of the convolution.
        bias: (C',) of the convolution, or None.
        scale: S of the upsampling.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: int) -> None:
        super().__init__()
        self.out_channels, channels = weight.shape[:2]
        self.scale = scale
        # One convolution per row of taps; the three of a row, and after them C', lie in its output channels.
        self.rows = nn.ModuleList(nn.Conv2d(channels, 3 * self.out_channels, 1, bias=i == 1) for i in range(3))
        with torch.no_grad():
            for i, row in enumerate(self.rows):
                row.weight.copy_(weight[:, :, i].permute(2, 0, 1).reshape_as(row.weight))
            self._set_bias(bias)

    def forward(self, coarse: Tensor) -> Tensor:
        """coarse (B, C, h, w) -> (B, C', S * h, S * w)."""
        height, width = coarse.shape[2:]
        down = _taps(height, self.scale, coarse).transpose(0, 1).flatten(1)  # (S h, 3 h), by tap and cell
        across = _taps(width, self.scale, coarse).permute(1, 2, 0).flatten(1)  # (S w, 3 w), by cell and tap
        rows = [row(coarse).permute(0, 2, 3, 1).reshape(-1, height, 3 * width, self.out_channels) for row in self.rows]
        widened = torch.cat([across @ row for row in rows], dim=1)  # (B, 3 h, S w, C')
        fine = down @ widened.flatten(2)  # (B, S h, S w C')
        return fine.unflatten(2, widened.shape[2:]).permute(0, 3, 1, 2)

    def _set_bias(self, bias: Tensor | None) -> None:
        """On the central tap alone: nothing of that is moved out of the map, and upsampling keeps constants."""
        centre = torch.zeros(3, self.out_channels)
        if bias is not None:
            centre[1] = bias
        self.rows[1].bias.copy_(centre.flatten())


class CoarseBevFpn(nn.Module):
    """A :class:`bev_backbones.BevFpn` with its norms folded, whose maps are convolved before they are upsampled.

    Args:
        neck: the neck; its weights are copied.
        fine_channels: channels of its fine map.
    """

    def __init__(self, neck: BevFpn, fine_channels: int) -> None:
        super().__init__()
        first, *rest = neck.fuse
        scale = int(neck.upsample.scale_factor)
        self.coarse = UpsampledConv(first.weight[:, fine_channels:], first.bias, scale)
        self.fine = nn.Conv2d(fine_channels, first.out_channels, 3, padding=1, bias=False)
        with torch.no_grad():
            self.fine.weight.copy_(first.weight[:, :fine_channels])
        self.fuse = nn.Sequential(*rest)
        self.output = neck.output
        if isinstance(neck.output, nn.Sequential):
            upsample, conv, *after = neck.output
            self.output = nn.Sequential(UpsampledConv(conv.weight, conv.bias, int(upsample.scale_factor)), *after)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """As the neck."""
        return self.output(self.fuse(self.fine(maps[0]).add_(self.coarse(maps[-1]))))


def _taps(count: int, scale: int, like: Tensor) -> Tensor:
    """Along one axis: what each coarse cell gives the left, own and right neighbour of each fine one: (3, S n, n)."""
    unit = torch.eye(count, device=like.device)[None]
    own = F.interpolate(unit, scale_factor=scale, mode="linear", align_corners=True)[0].T
    outside = own.new_zeros(1, count)  # a convolution pads with zeros
    taps = torch.stack((torch.cat([outside, own[:-1]]), own, torch.cat([own[1:], outside])))
    return taps.to(like.dtype)
