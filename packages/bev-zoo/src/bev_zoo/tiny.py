"""Systems small enough to train from scratch in minutes on two CPU cores, one per family; not published ones."""

from __future__ import annotations

from dataclasses import replace

from bev_heads import CenterTargetOptions, DecodeOptions, NmsOptions
from bev_lss import DepthBins
from bev_nuscenes import OCCUPANCY_CLASSES, BevAugmentation, ImageAugmentation
from bev_ops import BevGrid

from .recipe import (
    BackboneOptions,
    BevEncoderOptions,
    DepthNetOptions,
    OccupancyOptions,
    Recipe,
    TemporalOptions,
    TrainingOptions,
    ViewOptions,
)

__all__ = ["tiny_recipes"]

# Neighbouring peaks stand 1.6 m apart here, so footprints are scaled further for NMS than elsewhere.
_COARSE_SCALE_NMS = NmsOptions(
    kind="rotated", threshold=0.2, rescale=(1.6, 1.3, 1.4, 1.2, 1.2, 3.0, 2.5, 2.5, 4.5, 7.0)
)


def tiny_recipes(published: Recipe) -> tuple[Recipe, ...]:
    """All tiny systems, derived from a published single-frame detector."""
    tiny = _tiny(published)
    depth = _depth(tiny)
    return (tiny, _4d(tiny), _4dlongterm(tiny), depth, _stereo(depth), _occ(depth))


def _tiny(published: Recipe) -> Recipe:
    """LiDAR teaches the depth, without which a few hundred steps do not tell near from far.

    Cells of 1.6 m, a head that starts out expecting nothing, mild augmentation and a low score threshold save the time
    that larger systems have.
    """
    return replace(
        published,
        name="bevdet-tiny",
        description="single frame, small, LiDAR-taught depth, for demonstrations and tests",
        published=None,
        input_size=(128, 352),
        backbone=BackboneOptions(
            name="regnetx_002", pretrained=None, strides=(8, 16), checkpointing=False, neck_channels=64
        ),
        view=ViewOptions(
            grid=BevGrid(x=(-51.2, 51.2, 1.6), y=(-51.2, 51.2, 1.6), z=(-5.0, 3.0, 8.0)),
            channels=32,
            depth_loss_weight=1.0,
        ),
        bev_encoder=BevEncoderOptions(channels=(48, 64, 96), blocks=(1, 1, 1), strides=(1, 2, 2), out_channels=48),
        head=replace(
            published.head,
            shared_channels=48,
            branch_channels=32,
            heatmap_bias=-4.6,
            targets=CenterTargetOptions(min_radius=1),
            decode=DecodeOptions(score_threshold=0.02, nms=(_COARSE_SCALE_NMS,)),
        ),
        image_augmentation=ImageAugmentation(resize=(-0.02, 0.04)),
        bev_augmentation=BevAugmentation(rotate_deg=(-5.0, 5.0), scale=(0.97, 1.03)),
        training=TrainingOptions(
            epochs=28,
            batch_size=2,
            learning_rate=2e-3,
            warmup_steps=50,
            milestones=(20, 25),
            ema_initial_updates=0,
            class_balanced=False,
        ),
    )


def _4d(tiny: Recipe) -> Recipe:
    return replace(
        tiny,
        name="bevdet-tiny-4d",
        description="one past frame, small",
        temporal=TemporalOptions(history=1, frame_blocks=1),
    )


def _4dlongterm(tiny: Recipe) -> Recipe:
    return replace(
        tiny,
        name="bevdet-tiny-4dlongterm",
        description="eight past frames, small",
        temporal=TemporalOptions(history=8, frame_blocks=1),
    )


def _depth(tiny: Recipe) -> Recipe:
    return replace(
        tiny,
        name="bevdet-tiny-depth",
        description="one past frame, camera-aware depth net, small",
        view=replace(tiny.view, depth_net=DepthNetOptions(aspp_channels=32)),
        temporal=TemporalOptions(history=1, frame_blocks=1),
    )


def _stereo(depth: Recipe) -> Recipe:
    return replace(
        depth,
        name="bevdet-tiny-stereo",
        description="one past frame, temporal stereo, small",
        view=replace(depth.view, depth_net=DepthNetOptions(aspp_channels=32, stereo=True)),
    )


def _occ(depth: Recipe) -> Recipe:
    """The voxels have the published size, which the ground truth dictates; everything else is small.

    The coarsest voxels are 4 cells high: with 2, PyTorch's bfloat16 weight gradient of a 3x3x3 convolution is garbage
    on CPUs (seen with 2.15 on an AMD EPYC; 1, 3 and 4 cells are right), and this recipe is there to be trained on them.
    """
    return replace(
        depth,
        name="bevdet-tiny-occ",
        description="occupancy, single frame, small",
        classes=OCCUPANCY_CLASSES,
        view=replace(
            depth.view,
            grid=BevGrid(x=(-40.0, 40.0, 0.4), y=(-40.0, 40.0, 0.4), z=(-1.0, 5.4, 0.4)),
            depth=DepthBins(1.0, 45.0, 1.0),
            channels=8,
        ),
        temporal=TemporalOptions(),
        bev_encoder=BevEncoderOptions(channels=(16, 32, 32), blocks=(1, 1, 1), strides=(2, 2, 1), out_channels=8),
        head=OccupancyOptions(hidden_channels=8),
        bev_augmentation=BevAugmentation(rotate_deg=(0.0, 0.0), scale=(1.0, 1.0), flip_x=0.5, flip_y=0.5),
    )
