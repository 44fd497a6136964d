"""The systems, each derived from the nearest one."""

from __future__ import annotations

import difflib
from dataclasses import replace

from bev_heads import DecodeOptions, NmsOptions

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
    """Small enough to train in minutes on two CPU cores, for demonstrations and tests."""
    return replace(
        _bevdet_r50(),
        name="bevdet-tiny",
        description="single frame, small, for demonstrations and tests",
        published=None,
        input_size=(128, 352),
        backbone=BackboneOptions(
            name="regnetx_002", pretrained=None, strides=(8, 16), checkpointing=False, neck_channels=64
        ),
        view=ViewOptions(channels=32),
        bev_encoder=BevEncoderOptions(channels=(48, 64, 96), blocks=(1, 1, 1), out_channels=32),
        head=replace(_bevdet_r50().head, shared_channels=32, branch_channels=24),
        training=TrainingOptions(
            epochs=24,
            batch_size=2,
            learning_rate=2e-3,
            warmup_steps=50,
            milestones=(18, 22),
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
