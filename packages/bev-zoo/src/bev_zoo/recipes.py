"""The systems, each derived from the nearest one."""

from __future__ import annotations

import difflib
from dataclasses import replace

from bev_heads import CenterTargetOptions, DecodeOptions, NmsOptions
from bev_nuscenes import BevAugmentation, ImageAugmentation
from bev_ops import BevGrid

from .recipe import (
    BackboneOptions,
    BevEncoderOptions,
    HeadOptions,
    Published,
    Recipe,
    TrainingOptions,
    ViewOptions,
)

__all__ = ["get_recipe", "list_recipes"]

_BEVDET = "BEVDet, published results of the BEVDet and GeoMIM code"
# Footprints are scaled before NMS, per class: small objects grow so that duplicates overlap (Scale-NMS).
_SCALE_NMS = NmsOptions(kind="rotated", threshold=0.2, rescale=(1.0, 0.7, 0.7, 0.4, 0.55, 1.1, 1.0, 1.0, 1.5, 3.5))

_COARSE_SCALE_NMS = NmsOptions(
    kind="rotated", threshold=0.2, rescale=(1.6, 1.3, 1.4, 1.2, 1.2, 3.0, 2.5, 2.5, 4.5, 7.0)
)


def _bevdet_r50() -> Recipe:
    return Recipe(
        name="bevdet-r50",
        description="single frame, ResNet-50, 256x704",
        published=Published(map=28.3, nds=35.0, source=_BEVDET),
        head=HeadOptions(decode=DecodeOptions(nms=(_SCALE_NMS,))),
        training=TrainingOptions(epochs=24, weight_decay=1e-7, milestones=(24,), class_balanced=False),
    )


def _bevdet_r50_cbgs() -> Recipe:
    return replace(
        _bevdet_r50(),
        name="bevdet-r50-cbgs",
        description="single frame, ResNet-50, 256x704, class-balanced sampling",
        published=Published(map=31.3, nds=39.8, source=_BEVDET),
        training=TrainingOptions(),
    )


def _bevdet_tiny() -> Recipe:
    """Small enough to train from scratch in minutes on two CPU cores, for demonstrations and tests.

    LiDAR teaches the depth, without which a few hundred steps do not tell near from far. Cells of 1.6 m, a head that
    starts out expecting nothing, mild augmentation and a low score threshold save the time that larger systems have.
    Footprints are scaled further for NMS than elsewhere, because neighbouring peaks stand 1.6 m apart.
    """
    base = _bevdet_r50()
    return replace(
        base,
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
            base.head,
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


_RECIPES = {recipe.name: recipe for recipe in (_bevdet_r50(), _bevdet_r50_cbgs(), _bevdet_tiny())}


def list_recipes() -> list[str]:
    """Names of all systems."""
    return list(_RECIPES)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: no such recipe; the message suggests the nearest.
    """
    if name in _RECIPES:
        return _RECIPES[name]
    near = difflib.get_close_matches(name, _RECIPES, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(_RECIPES)}"
    raise ValueError(f"unknown recipe {name!r}: {hint}")
