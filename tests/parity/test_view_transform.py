"""Frustum points and pooling plans of all published systems at their native input size: counts agree exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_lss import DepthBins, frustum_points, points_to_ego
from bev_ops import BevGrid, PoolPlan

from .published import PUBLISHED_SYSTEMS, Published


@pytest.fixture(scope="module")
def settings(reference: Path) -> dict:
    return json.loads((reference / "recipes.json").read_text())


@pytest.fixture(scope="module")
def view_transform(reference: Path) -> np.lib.npyio.NpzFile:
    return np.load(reference / "view_transform.npz")


def test_every_published_system_is_listed(settings: dict) -> None:
    assert set(PUBLISHED_SYSTEMS) == set(settings)


@pytest.mark.parametrize("name", PUBLISHED_SYSTEMS)
def test_points_and_plan_agree(reference: Path, settings: dict, view_transform: dict, name: str) -> None:
    points, grid = _points(reference, settings[name], name)
    index = torch.from_numpy(view_transform[f"{name}/points.index"])
    np.testing.assert_allclose(points.flatten()[index], view_transform[f"{name}/points.value"], rtol=0, atol=5e-5)

    plan = PoolPlan.from_points(points, grid)

    counts = dict(zip(_columns(view_transform), view_transform[f"{name}/counts"].tolist(), strict=True))
    cell_of_point = plan.cell_of_point.flatten()
    kept = torch.nonzero(cell_of_point >= 0).squeeze(1)
    _, _, bins, height, width = plan.shape
    pixel = kept // (bins * height * width) * (height * width) + kept % (height * width)
    assert counts == {
        "frustum points": points.numel() // 3,
        "points kept": plan.num_points,
        "voxels hit": plan.num_cells,
        "most points in a voxel": cell_of_point[kept].bincount().max().item(),
        "sum of voxel ids": cell_of_point[kept].sum(dtype=torch.int64).item(),
        "sum of depth ids": kept.sum().item(),
        "sum of feature ids": pixel.sum().item(),
    }


def _columns(view_transform: dict) -> list[str]:
    return str(view_transform["counts.columns"]).split(", ")


def _points(reference: Path, system: dict, name: str) -> tuple[torch.Tensor, BevGrid]:
    """Frustum points (1, N, D, h, w, 3) of the newest frame at native input size, and the system's grid."""
    view = system["view_transform"]
    x, y, z, depth = (tuple(float(v) for v in view["grid"][axis]) for axis in ("x", "y", "z", "depth"))
    bins = DepthBins(*depth, log_spaced="log" in view["depth_spacing"])
    height, width = system["input_size"]
    stride = view["downsample"]
    rig = Published(reference, "forward", name).rig()
    image_aug = _native_image_aug(height, width).expand_as(rig.image_aug[:, 0])
    points = points_to_ego(
        frustum_points((height // stride, width // stride), stride, bins),
        rig.cam_to_key_ego()[:, 0],
        rig.intrinsics[:, 0],
        image_aug,
        rig.bev_aug,
    )
    return points, BevGrid(x=x, y=y, z=z)


def _native_image_aug(height: int, width: int) -> torch.Tensor:
    """1600x900 scaled to the input's width, its top cut off."""
    scale = width / 1600
    return torch.tensor([[scale, 0, 0], [0, scale, height - int(900 * scale)], [0, 0, 1]])
