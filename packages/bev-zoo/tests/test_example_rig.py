"""The made-up rig is true to size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bev_bench.cases.pool import PoolSize, plain_plan
from bev_lss import DepthBins
from bev_zoo import nuscenes_rig

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "view_transform.npz"
AHEAD_DEG = {"front left": 55, "front": 0, "front right": -55, "back left": 110, "back": 180, "back right": -110}


def test_cameras_look_where_those_of_nuscenes_look() -> None:
    rig = nuscenes_rig((256, 704))
    forward = rig.cam_to_ego[0, 0, :, :3, 2]
    yaw = torch.atan2(forward[:, 1], forward[:, 0])
    wanted = torch.tensor([float(degrees) for degrees in AHEAD_DEG.values()]).deg2rad()
    assert torch.cos(yaw - wanted).min() > np.cos(np.radians(3))


def test_shapes_and_that_the_car_moves_on() -> None:
    rig = nuscenes_rig((128, 352), frames=3, samples=2)
    assert (rig.batch_size, rig.num_frames, rig.num_cameras) == (2, 3, 6)
    steps = (rig.ego_to_global[0, :-1, 0, :3, 3] - rig.ego_to_global[0, 1:, 0, :3, 3]).norm(dim=1)
    assert steps == pytest.approx([5.0, 5.0], abs=0.01)
    later = nuscenes_rig((128, 352), frames=3, now=1)
    assert torch.equal(later.ego_to_global[0, 1], rig.ego_to_global[0, 0])


def test_calibration_is_the_same_in_every_frame_unless_the_cameras_fire_one_after_the_other() -> None:
    first, later = (nuscenes_rig((128, 352), now=now).frame_cameras(0).cam_to_key_ego for now in (0, 0))
    assert torch.equal(first, later)
    rolling = nuscenes_rig((128, 352), rolling=True).frame_cameras(0).cam_to_key_ego
    moved = (rolling - first)[0, :, :3, 3].norm(dim=1)
    assert moved[0] == 0
    assert 0.2 < moved.max() < 0.5  # 43 ms at 10 m/s


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs {REFERENCE}")
@pytest.mark.parametrize(
    ("system", "size"),
    [
        ("bevdet-r50", PoolSize(input_size=(256, 704), bins=DepthBins(1.0, 60.0, 1.0), cell_m=0.8)),
        (
            "bevdet-r50-4d-stereo-cbgs",
            PoolSize(input_size=(256, 704), bins=DepthBins(1.0, 60.0, 1.0, log_spaced=True), cell_m=0.8),
        ),
        (
            "bevdet-stbase-4d-stereo-512x1408-cbgs",
            PoolSize(input_size=(512, 1408), bins=DepthBins(1.0, 60.0, 0.5, log_spaced=True), cell_m=0.4),
        ),
    ],
    ids=["uniform", "log-spaced", "large, log-spaced"],
)
def test_points_pile_up_as_they_do_on_a_real_key_frame(system: str, size: PoolSize) -> None:
    points, kept, cells, longest, *_ = np.load(REFERENCE)[f"{system}/counts"].tolist()
    frustum = size.points(torch.device("cpu"))
    plan = plain_plan(frustum, size.grid())
    assert frustum.numel() // 3 == points
    assert len(plan.cell) == pytest.approx(kept, rel=0.01)
    assert len(plan.begin) == pytest.approx(cells, rel=0.03)
    assert int(plan.length.max()) == pytest.approx(longest, rel=0.05)
