"""Feature pyramid that keeps only its finest level."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FinestFpn"]


class FinestFpn(nn.Module):
    """Feature pyramid network (arXiv:1612.03144) with one output: the finest level, which the view transform lifts.

    Args:
        in_channels: channels of the backbone levels, finest first.
        out_channels: channels of every lateral and of the output.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(nn.Conv2d(c, out_channels, kernel_size=1) for c in in_channels)
        self.output_conv = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        for conv in (*self.lateral_convs, self.output_conv):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """levels (M, in_channels[i], h_i, w_i), finest first -> (M, out_channels, h_0, w_0).

        Raises:
            ValueError: another number of levels than the neck was built for.
        """
        if len(levels) != len(self.lateral_convs):
            raise ValueError(f"the neck was built for {len(self.lateral_convs)} levels, got {len(levels)}")
        merged = self.lateral_convs[-1](levels[-1])
        for conv, level in zip(list(self.lateral_convs)[-2::-1], levels[-2::-1], strict=True):
            merged = conv(level) + F.interpolate(merged, size=level.shape[-2:], mode="nearest")
        return self.output_conv(merged)
