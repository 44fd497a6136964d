"""Networks that say, per feature pixel, how far away things are and what to lift there.

Shapes: M images (samples x cameras), D depth bins, C context channels, h x w feature pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .cameras import CAMERA_PARAMETERS

__all__ = ["CameraDepthNet", "PlainDepthNet"]


class PlainDepthNet(nn.Module):
    """One 1x1 convolution for depth and context together (BEVDet, arXiv:2112.11790, after Lift-Splat-Shoot).

    Args:
        in_channels: channels of the image features.
        depth_bins: D.
        context_channels: C, the channels lifted into the bird's-eye view.
    """

    camera_aware = False

    def __init__(self, in_channels: int, depth_bins: int, context_channels: int) -> None:
        super().__init__()
        self.depth_bins = depth_bins
        self.projection = nn.Conv2d(in_channels, depth_bins + context_channels, kernel_size=1)

    def forward(
        self,
        features: Tensor,  # (M, in_channels, h, w)
        camera_params: Tensor | None = None,  # (M, 27), not looked at
        cost_volume: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """features (M, in_channels, h, w) -> depth logits (M, D, h, w), context (M, C, h, w).

        Raises:
            ValueError: a cost volume, which this net has no use for.
        """
        if cost_volume is not None:
            raise ValueError("PlainDepthNet takes no cost volume: use CameraDepthNet(..., stereo=True)")
        both = self.projection(features)
        return both[:, : self.depth_bins], both[:, self.depth_bins :]


class CameraDepthNet(nn.Module):
    """Depth and context from features and the camera's own parameters, optionally with stereo (BEVDepth, BEVStereo).

    The camera's 27 parameters gate the features once for depth and once for context. The depth branch then goes through
    residual blocks and a pyramid of dilated convolutions; with ``stereo`` the cost volume, brought down to the feature
    size, joins it before the blocks (arXiv:2206.10092, 2209.10248; layers as published with BEVDet).

    Args:
        in_channels: channels of the image features.
        depth_bins: D.
        context_channels: C, the channels lifted into the bird's-eye view.
        mid_channels: width of the net; that of the features if None.
        aspp_channels: channels of each branch of the dilated pyramid; None leaves the pyramid out.
        stereo: take a cost volume.
        cost_scale: pixels of the cost volume per feature pixel, a power of two; a convolution of stride 2 for each
            doubling lies between. Published systems have 4.
        checkpointing: recompute the depth branch in the backward pass instead of keeping its activations.

    Published behaviour that is kept: while training, the camera parameters and the pyramid's pooled branch are
    normalised over the M images of the call, be it six; with ``checkpointing`` the recomputation updates the running
    statistics of the depth branch a second time; the two convolutions on the cost volume have no activation.
    """

    camera_aware = True

    def __init__(
        self,
        in_channels: int,
        depth_bins: int,
        context_channels: int,
        *,
        mid_channels: int | None = None,
        aspp_channels: int | None = 96,
        stereo: bool = False,
        cost_scale: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if cost_scale < 2 or cost_scale & (cost_scale - 1):
            raise ValueError(f"cost_scale must be a power of two from 2 on, got {cost_scale}")
        width = in_channels if mid_channels is None else mid_channels
        self.depth_bins = depth_bins
        self.cost_scale = cost_scale
        self.checkpointing = checkpointing
        self.reduce = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.camera_norm = nn.BatchNorm1d(CAMERA_PARAMETERS)
        self.context_mlp = _Mlp(CAMERA_PARAMETERS, width)
        self.context_se = _CameraGate(width)
        self.context_conv = nn.Conv2d(width, context_channels, 1)
        self.depth_mlp = _Mlp(CAMERA_PARAMETERS, width)
        self.depth_se = _CameraGate(width)
        self.cost_net = _cost_net(depth_bins, cost_scale) if stereo else None
        depth_in = width + depth_bins if stereo else width
        self.depth_blocks = nn.Sequential(
            _BasicBlock(depth_in, width), _BasicBlock(width, width), _BasicBlock(width, width)
        )
        self.aspp = nn.Identity() if aspp_channels is None else _DilatedPyramid(width, aspp_channels)
        self.depth_out = nn.Conv2d(width, depth_bins, 1)

    def forward(
        self,
        features: Tensor,  # (M, in_channels, h, w)
        camera_params: Tensor,  # (M, 27), see camera_parameters
        cost_volume: Tensor | None = None,  # (M, D, 4h, 4w)
    ) -> tuple[Tensor, Tensor]:
        """Depth logits (M, D, h, w), context (M, C, h, w).

        A stereo net without a cost volume takes zeros for it, as published where there is no frame before.

        Raises:
            ValueError: shapes that do not fit, a cost volume for a net without stereo, or one image while training.
        """
        self._check(features, camera_params, cost_volume)
        camera = self.camera_norm(camera_params)
        features = self.reduce(features)
        context = self.context_conv(self.context_se(features, self.context_mlp(camera)))
        depth = self.depth_se(features, self.depth_mlp(camera))
        if self.cost_net is not None:
            depth = torch.cat([depth, self._matching(features, cost_volume)], dim=1)
        if self.checkpointing and torch.is_grad_enabled() and depth.requires_grad:
            return checkpoint(self._depth_branch, depth, use_reentrant=False), context
        return self._depth_branch(depth), context

    def _depth_branch(self, depth: Tensor) -> Tensor:
        return self.depth_out(self.aspp(self.depth_blocks(depth)))

    def _matching(self, features: Tensor, cost_volume: Tensor | None) -> Tensor:
        """The cost volume at feature size: (M, D, h, w)."""
        if cost_volume is None:
            cost_volume = features.new_zeros(self._cost_volume_shape(features))
        return self.cost_net(cost_volume)

    def _cost_volume_shape(self, features: Tensor) -> tuple[int, int, int, int]:
        images, _, height, width = features.shape
        return images, self.depth_bins, self.cost_scale * height, self.cost_scale * width

    def _check(self, features: Tensor, camera_params: Tensor | None, cost_volume: Tensor | None) -> None:
        images = len(features)
        wanted = (images, CAMERA_PARAMETERS)
        if camera_params is None or tuple(camera_params.shape) != wanted:
            got = None if camera_params is None else tuple(camera_params.shape)
            raise ValueError(f"CameraDepthNet wants camera parameters {wanted}, got {got}: see camera_parameters")
        if cost_volume is not None and self.cost_net is None:
            raise ValueError("this CameraDepthNet takes no cost volume: build it with stereo=True")
        if cost_volume is not None and tuple(cost_volume.shape) != self._cost_volume_shape(features):
            shape = self._cost_volume_shape(features)
            raise ValueError(f"CameraDepthNet wants a cost volume {shape}, got {tuple(cost_volume.shape)}")
        if self.training and images == 1 and type(self.camera_norm) is nn.BatchNorm1d:
            raise ValueError(
                "CameraDepthNet normalises the camera parameters over the images of a call and wants at least two "
                "(samples x cameras) while training, got 1: add cameras or samples, or call .eval()"
            )


class _Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_channels, channels)
        self.fc2 = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(M, in_channels) -> (M, channels)."""
        return self.fc2(self.fc1(x).relu())


class _CameraGate(nn.Module):
    """Squeeze-and-excitation whose gate comes from outside the features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels, 1)
        self.expand = nn.Conv2d(channels, channels, 1)

    def forward(self, features: Tensor, camera: Tensor) -> Tensor:
        """features (M, C, h, w), camera (M, C) -> (M, C, h, w)."""
        gate = self.expand(self.reduce(camera[..., None, None]).relu())
        return features * gate.sigmoid()


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution with bias where the channels change."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(M, in_channels, h, w) -> (M, channels, h, w)."""
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (inner + self.shortcut(x)).relu()


class _DilatedPyramid(nn.Module):
    """Parallel dilated convolutions and a pooled branch, fused by a 1x1 convolution (ASPP, arXiv:1706.05587)."""

    def __init__(self, channels: int, branch_channels: int, dilations: Sequence[int] = (6, 12, 18)) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv_norm_relu(channels, branch_channels)])
        self.branches.extend(_conv_norm_relu(channels, branch_channels, dilation) for dilation in dilations)
        self.pooled = _conv_norm_relu(channels, branch_channels)
        self.fuse = _conv_norm_relu((len(dilations) + 2) * branch_channels, channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(M, channels, h, w) -> same shape."""
        pooled = self.pooled(x.mean((-2, -1), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return self.dropout(self.fuse(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)))


def _conv_norm_relu(in_channels: int, channels: int, dilation: int | None = None) -> nn.Sequential:
    """1x1, or 3x3 with a dilation; drawn for ReLU (He) as published."""
    size, spread = (1, {}) if dilation is None else (3, {"padding": dilation, "dilation": dilation})
    conv = nn.Conv2d(in_channels, channels, size, bias=False, **spread)
    nn.init.kaiming_normal_(conv.weight)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _cost_net(depth_bins: int, scale: int) -> nn.Sequential:
    """From the cost volume's size to that of the features."""
    layers: list[nn.Module] = []
    while scale > 1:
        layers += [nn.Conv2d(depth_bins, depth_bins, 3, stride=2, padding=1), nn.BatchNorm2d(depth_bins)]
        scale //= 2
    return nn.Sequential(*layers)
