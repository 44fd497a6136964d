"""The lift-splat view transform: image features of all cameras to one bird's-eye-view map.

Shapes: B samples, N cameras, D depth bins, h x w feature pixels, C context channels, grid Z x Y x X.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from bev_ops import BevGrid, PoolPlan, bev_pool, depth_softmax

from .cameras import FrameCameras, camera_parameters
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
        depth_net: what tells depth and context, such as :class:`CameraDepthNet` for ``bins.count`` bins and C channels;
            :class:`PlainDepthNet` if None. Called with features (M, in_channels, h, w), camera parameters (M, 27) or
            None, cost volume (M, D, H, W) or None; gives depth logits (M, D, h, w) and context (M, C, h, w).
        stride: network-input pixels per feature pixel.
        voxels: keep the height axis instead of stacking it into the channels.
        channels_last: lay the map out in memory with its channels innermost, for convolutions that want it so.
        cached_plans: pooling plans remembered, one per calibration; see :class:`PlanCache`. While training none is
            stored, for augmentation makes every calibration a new one.

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
        depth_net: nn.Module | None = None,
        stride: int = 16,
        voxels: bool = False,
        channels_last: bool = False,
        cached_plans: int = 4,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.grid = grid
        self.bins = bins
        self.stride = stride
        self.voxels = voxels
        self.channels_last = channels_last
        self.depth_net = PlainDepthNet(in_channels, bins.count, channels) if depth_net is None else depth_net
        self._plans: PlanCache[PoolPlan] = PlanCache(cached_plans)

    def forward(
        self,
        features: Tensor,  # (B, N, in_channels, h, w)
        cameras: CameraRig | FrameCameras,
        *,
        camera_params: Tensor | None = None,  # (B, N, 27)
        cost_volume: Tensor | None = None,  # (B, N, D, 4h, 4w)
        plan: PoolPlan | None = None,
    ) -> LiftSplatOutput:
        """Transform the features of one frame.

        Args:
            features: (B, N, in_channels, h, w).
            cameras: the calibration of these cameras: those of one frame, or a rig of one frame (T = 1).
            camera_params: (B, N, 27), what a camera-aware depth net is told; :func:`camera_parameters` of ``cameras``
                if None. The published 4D systems tell the poses of frame 0 for earlier frames too.
            cost_volume: (B, N, D, 4h, 4w) stereo matching for a depth net that takes it.
            plan: the geometry, if the caller holds it; else :meth:`plan` is asked.

        Raises:
            ValueError: features and cameras disagree on samples or cameras, the rig has several frames, or the depth
                net refuses what it is given.
        """
        cameras = _one_frame(cameras)
        _check(features, cameras)
        batch, num_cameras, _, height, width = features.shape
        if plan is None:
            plan = self.plan(cameras, (height, width))
        # A net that does not say what it needs is told of its cameras.
        if camera_params is None and getattr(self.depth_net, "camera_aware", True):
            camera_params = camera_parameters(cameras)
        logits, context = self.depth_net(*_per_image(features, camera_params, cost_volume))
        # Softmax and pooling stay in float32 under autocast: half-precision depths lose far, faint bins.
        depth = depth_softmax(logits).view(batch, num_cameras, -1, height, width)
        context = context.float().view(batch, num_cameras, self.channels, height, width)
        pooled = bev_pool(depth, context, plan, channels_last=self.channels_last)
        return LiftSplatOutput(pooled if self.voxels else stack_height(pooled), depth)

    def points(self, cameras: CameraRig | FrameCameras, feature_size: tuple[int, int]) -> Tensor:
        """Frustum points in the augmented key-ego frame: (B, N, D, h, w, 3) metres."""
        cameras = _one_frame(cameras)
        frustum = frustum_points(feature_size, self.stride, self.bins).to(cameras.device)
        return points_to_ego(frustum, *cameras.tensors())

    @torch.no_grad()
    def plan(self, cameras: CameraRig | FrameCameras, feature_size: tuple[int, int]) -> PoolPlan:
        """The pooling plan of these cameras, from the cache if this very calibration was seen before."""
        cameras = _one_frame(cameras)

        def build() -> PoolPlan:
            return PoolPlan.from_points(self.points(cameras, feature_size), self.grid)

        return build() if self.training else self._plans.get(feature_size, cameras.tensors(), build)


def stack_height(voxels: Tensor) -> Tensor:
    """(B, C, Z, Y, X) -> (B, Z*C, Y, X): all channels of the lowest layer first, as published."""
    return voxels.transpose(1, 2).flatten(1, 2)


def _one_frame(cameras: CameraRig | FrameCameras) -> FrameCameras:
    if isinstance(cameras, FrameCameras):
        return cameras
    if cameras.num_frames != 1:
        raise ValueError(
            f"LiftSplat transforms one frame and wants a rig with T=1, got T={cameras.num_frames}: "
            "hand in rig.frame_cameras(t)"
        )
    return cameras.frame_cameras(0)


def _check(features: Tensor, cameras: FrameCameras) -> None:
    wanted = (cameras.batch_size, cameras.num_cameras)
    if features.ndim != 5 or tuple(features.shape[:2]) != wanted:
        raise ValueError(
            f"features (B, N, C, h, w) and cameras (B={wanted[0]}, N={wanted[1]}) must agree in B and N, got features "
            f"{tuple(features.shape)}"
        )


def _per_image(*tensors: Tensor | None) -> list[Tensor | None]:
    """(B, N, …) each -> (B*N, …)."""
    return [None if t is None else t.flatten(0, 1) for t in tensors]
