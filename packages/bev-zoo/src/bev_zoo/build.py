"""From the options of a recipe to the modules they describe."""

from __future__ import annotations

import math

from torch import nn

from bev_backbones import BevFpn, BevResNet, FinestFpn, SwinBackbone, TimmBackbone, VoxelFpn, VoxelResNet
from bev_heads import CenterHead, OccupancyHead
from bev_lss import CameraDepthNet, LiftSplat

from .recipe import HeadOptions, Recipe, SwinOptions

__all__ = [
    "STEREO_STRIDE",
    "build_backbone",
    "build_encoder",
    "build_frame_encoder",
    "build_head",
    "build_neck",
    "build_view_transform",
    "map_shape",
]

# Network-input pixels per pixel of the features that stereo compares: the finest stage of every backbone.
STEREO_STRIDE = 4


def build_backbone(recipe: Recipe) -> TimmBackbone | SwinBackbone:
    """The image backbone; stereo systems get its stage of stride 4 in front, without normalisation (as published)."""
    options = recipe.backbone
    extra = (STEREO_STRIDE,) if recipe.stereo else ()
    if isinstance(options, SwinOptions):
        return SwinBackbone(
            options.width,
            options.depths,
            options.heads,
            options.windows,
            shifted=options.shifted,
            position_embedding=options.position_embedding,
            drop_path=options.drop_path,
            strides=extra + options.strides,
            raw_strides=extra,
            checkpointing=options.checkpointing,
        )
    return TimmBackbone(options.name, strides=extra + options.strides, checkpointing=options.checkpointing)


def build_neck(recipe: Recipe, channels: tuple[int, ...]) -> FinestFpn | BevFpn:
    """Backbone levels of the given channels to one map at the finest stride."""
    options = recipe.backbone
    if isinstance(options, SwinOptions):
        fine, coarse = channels
        return BevFpn(fine, coarse, options.neck_channels, scale=2, output_scale=None)
    return FinestFpn(channels, options.neck_channels)


def build_view_transform(recipe: Recipe) -> LiftSplat:
    """Lift-splat with the depth net of the recipe."""
    view, channels = recipe.view, recipe.backbone.neck_channels
    depth_net: nn.Module | None = None
    if view.depth_net is not None:
        depth_net = CameraDepthNet(
            channels,
            view.depth.count,
            view.channels,
            aspp_channels=view.depth_net.aspp_channels,
            stereo=view.depth_net.stereo,
            cost_scale=recipe.backbone.strides[0] // STEREO_STRIDE,
            checkpointing=view.depth_net.checkpointing,
        )
    return LiftSplat(
        channels,
        view.channels,
        view.grid,
        view.depth,
        depth_net=depth_net,
        stride=recipe.backbone.strides[0],
        voxels=recipe.task == "occupancy",
    )


def build_frame_encoder(recipe: Recipe) -> nn.Module | None:
    """Residual blocks that the map of every single frame passes; None if the recipe has none."""
    blocks = recipe.temporal.frame_blocks
    if blocks == 0:
        return None
    channels = map_shape(recipe)[0]
    if recipe.task == "occupancy":
        return VoxelResNet(
            channels, (channels,), blocks=(blocks,), strides=(1,), checkpointing=recipe.bev_encoder.checkpointing
        )
    return BevResNet(channels, (channels,), blocks=(blocks,), strides=(1,))


def build_encoder(recipe: Recipe) -> tuple[nn.Module, nn.Module]:
    """Encoder of the stacked maps, and the neck that brings its stages back to the grid."""
    options = recipe.bev_encoder
    stacked = map_shape(recipe)[0] * (1 + recipe.temporal.history)
    if recipe.task == "occupancy":
        encoder = VoxelResNet(
            stacked,
            options.channels,
            blocks=options.blocks,
            strides=options.strides,
            checkpointing=options.checkpointing,
        )
        scales = tuple(math.prod(options.strides[: i + 1]) for i in range(len(options.strides)))
        neck = VoxelFpn(
            sum(options.channels), options.out_channels, scales=scales, checkpointing=options.neck_checkpointing
        )
        return encoder, neck
    encoder = BevResNet(stacked, options.channels, blocks=options.blocks, strides=options.strides)
    neck = BevFpn(
        options.channels[0],
        options.channels[-1],
        options.out_channels,
        scale=math.prod(options.strides[1:]),
        output_scale=options.strides[0],
    )
    return encoder, neck


def build_head(recipe: Recipe) -> CenterHead | OccupancyHead:
    """The head of the recipe's task."""
    options, channels = recipe.head, recipe.bev_encoder.out_channels
    if not isinstance(options, HeadOptions):
        return OccupancyHead(channels, hidden_channels=options.hidden_channels, classes=len(recipe.classes))
    return CenterHead(
        channels,
        options.tasks,
        recipe.view.grid,
        shared_channels=options.shared_channels,
        head_channels=options.branch_channels,
        heatmap_bias=options.heatmap_bias,
        target_options=options.targets,
        loss_options=options.loss,
        decode_options=options.decode,
    )


def map_shape(recipe: Recipe) -> tuple[int, ...]:
    """The map of one frame, without the samples: (C, Z, Y, X) in occupancy systems, (C, Y, X) in detectors.

    Maps of detectors have their height cells stacked into the channels.
    """
    x, y, z = recipe.view.grid.size
    channels = recipe.view.channels
    return (channels, z, y, x) if recipe.task == "occupancy" else (channels * z, y, x)
