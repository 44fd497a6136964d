"""The Swin families agree with the published backbones, stage by stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bev_backbones import SwinBackbone, published_swin_entry

WINDOWS_OF_4D = {"windows": (16, 16, 16, 8)}
GEOMIM = {"shifted": False, "position_embedding": (56, 56)}
STEREO = {"strides": (4, 16, 32), "raw_strides": (4,)}
LARGE = {"width": 192, "heads": (6, 12, 24, 48), "windows": (16, 16, 16, 16)}


@pytest.mark.parametrize(
    ("name", "options", "first_frame"),
    [
        ("bevdet-stbase-4d-stereo-512x1408-cbgs", {"windows": (12, 12, 12, 12), **STEREO}, 1),
        ("bevdet-swinb-4d-256x704-cbgs-geomim", {**WINDOWS_OF_4D, **GEOMIM}, 0),
        pytest.param("bevdet-swinb-4d-256x704-cbgs", WINDOWS_OF_4D, 0, marks=pytest.mark.slow),
        pytest.param(
            "bevdet-occ-swinl-4d-stereo-512x1408-24e-geomim", {**LARGE, **GEOMIM, **STEREO}, 1, marks=pytest.mark.slow
        ),
    ],
)
def test_every_level_is_the_published_one(published: Callable, name: str, options: dict, first_frame: int) -> None:
    # first_frame: stereo systems run the oldest frame first; the one before it never passes the whole backbone.
    system = published(name)
    entries = (published_swin_entry(*entry) for entry in system.entries().items())
    backbone = SwinBackbone(**options).eval()
    backbone.load_state_dict(dict(entry for entry in entries if entry is not None))
    with torch.no_grad():
        levels = backbone(system.images(first_frame))
    errors = [system.stage_error(k, level) for k, level in enumerate(levels)]
    assert max(errors) < 1e-3, errors
