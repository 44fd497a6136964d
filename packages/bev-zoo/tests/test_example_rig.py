"""The made-up rig is true to size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_zoo import nuscenes_rig

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
    first, later = (nuscenes_rig((128, 352), now=now).frame_cameras(0).cam_to_key_ego for now in (0, 1))
    torch.testing.assert_close(first, later, rtol=0, atol=1e-5)
    rolling = nuscenes_rig((128, 352), rolling=True).frame_cameras(0).cam_to_key_ego
    moved = (rolling - first)[0, :, :3, 3].norm(dim=1)
    assert moved[0] == 0
    assert 0.2 < moved.max() < 0.5  # 43 ms at 10 m/s
