"""The lift-splat view transform: image features of all cameras to one bird's-eye-view map.

Shapes: B samples, N cameras, D depth bins, h x w feature pixels, C context channels, grid Z x Y x X.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bev_ops import BevGrid, PoolPlan, bev_pool

from .depth_net import PlainDepthNet
from .frustum import DepthBins, frustum_points, points_to_ego
from .plan_cache import PlanCache
from .rig import CameraRig

__all__ = ["LiftSplat", "LiftSplatOutput"]


class LiftSplatOutput(NamedTuple):
    """What the view transform gives."""

    bev: Tensor  # (B, Z*C, Y, X), or (B, C, Z, Y, X) for voxels
    depth: Tensor  # (B, N, D, h, w), sums to 1 over D


class LiftSplat(nn.Module):
    """Lift features along a depth distribution, splat them into grid cells by summing (arXiv:2008.05711, 2211.17111).

    Args:
        in_channels: channels of the image features.
        channels: C, channels of the result (per height cell).
        grid: the cells, in the key-ego frame.
        bins: the depths.
        stride: network-input pixels per feature pixel.
        voxels: keep the height axis instead of stacking it into the channels.
        cached_plans: pooling plans remembered, one per calibration; see :class:`PlanCache`.

    Example::

        lift = LiftSplat(256, 64, grid, DepthBins(1.0, 60.0, 1.0))
        bev, depth = lift(features, rig)  # features (B, N, 256, h, w), rig with one frame
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        grid: BevGrid,
        bins: DepthBins,
        *,
        stride: int = 16,
        voxels: bool = False,
        cached_plans: int = 4,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.grid = grid
        self.bins = bins
        self.stride = stride
        self.voxels = voxels
        self.depth_net = PlainDepthNet(in_channels, bins.count, channels)
        self._plans = PlanCache(cached_plans)

    def forward(self, features: Tensor, rig: CameraRig, plan: PoolPlan | None = None) -> LiftSplatOutput:
        """Transform the features of one frame.

        Args:
            features: (B, N, in_channels, h, w).
            rig: the calibration of these cameras, one frame (T = 1).
            plan: the geometry, if the caller holds it; else :meth:`plan` is asked.

        Raises:
            ValueError: features and rig disagree on samples or cameras, or the rig has several frames.
        """
        batch, cameras, _, height, width = features.shape
        self._check(features, rig)
        if plan is None:
            plan = self.plan(rig, (height, width))
        logits, context = self.depth_net(features.flatten(0, 1))
        # Softmax and pooling stay in float32 under autocast: half-precision depths lose far, faint bins.
        depth = logits.float().softmax(dim=1).view(batch, cameras, -1, height, width)
        context = context.float().view(batch, cameras, self.channels, height, width)
        pooled = bev_pool(depth, context, plan)
        return LiftSplatOutput(pooled if self.voxels else stack_height(pooled), depth)

    def points(self, rig: CameraRig, feature_size: tuple[int, int]) -> Tensor:
        """Frustum points of frame 0 in the augmented key-ego frame: (B, N, D, h, w, 3) metres."""
        frustum = frustum_points(feature_size, self.stride, self.bins).to(rig.device)
        return points_to_ego(
            frustum, rig.cam_to_key_ego()[:, 0], rig.intrinsics[:, 0], rig.image_aug[:, 0], rig.bev_aug
        )

    @torch.no_grad()
    def plan(self, rig: CameraRig, feature_size: tuple[int, int]) -> PoolPlan:
        """The pooling plan of a one-frame rig, from the cache if this very calibration was seen before."""
        calibration = (rig.cam_to_key_ego(), rig.intrinsics, rig.image_aug, rig.bev_aug)
        return self._plans.get(
            feature_size, calibration, lambda: PoolPlan.from_points(self.points(rig, feature_size), self.grid)
        )

    def _check(self, features: Tensor, rig: CameraRig) -> None:
        wanted = (rig.batch_size, 1, rig.num_cameras)
        got = (features.shape[0], rig.num_frames, features.shape[1])
        if wanted != got:
            raise ValueError(
                f"features {tuple(features.shape)} (B, N, C, h, w) and the rig (B={rig.batch_size}, "
                f"T={rig.num_frames}, N={rig.num_cameras}) must agree in B and N, and the rig must hold one frame"
            )


def stack_height(voxels: Tensor) -> Tensor:
    """(B, C, Z, Y, X) -> (B, Z*C, Y, X): all channels of the lowest layer first, as published."""
    return voxels.transpose(1, 2).flatten(1, 2)
