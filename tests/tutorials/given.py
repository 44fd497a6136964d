"""What the Python of a package's README takes as given: names by README and number of the block, counted from 0."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from bev_lss import DepthBins
from bev_ops import BevGrid
from bev_zoo import create_model, nuscenes_rig

__all__ = ["GIVEN"]

SIZE = (256, 704)


def _matrices(frames: int) -> dict[str, Any]:
    """K, E, G, A, R: the fields of a rig on nuScenes' cameras."""
    rig = nuscenes_rig(SIZE, frames=frames)
    return dict(zip("KEGAR", (getattr(rig, field.name) for field in dataclasses.fields(rig)), strict=True))


def _two_frames() -> dict[str, Any]:
    """A grid, bins, a rig of two frames, and features of the older one with their matching."""
    return {
        "grid": BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0)),
        "bins": DepthBins(1.0, 60.0, 1.0),
        "rig": nuscenes_rig(SIZE, frames=2),
        "features_then": torch.randn(1, 6, 256, 16, 44),
        "matching": torch.rand(1, 6, 59, 64, 176),
    }


def _maps() -> dict[str, Any]:
    """A map of then, and features of now and then for stereo."""
    features = torch.randn(2, 1, 6, 256, 64, 176)
    return {
        **_matrices(2),
        "bev_then": torch.randn(1, 80, 128, 128),
        "features_now": features[0],
        "features_then": features[1],
    }


GIVEN: dict[tuple[str, int], Callable[[], dict[str, Any]]] = {
    ("bev-lss", 0): lambda: _matrices(1),
    ("bev-lss", 1): _two_frames,
    ("bev-temporal", 0): _maps,
    ("bev-zoo", 1): lambda: {"torch": torch, "model": create_model("bevdet-tiny")},
}
