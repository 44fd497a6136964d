"""Motion between frames, far from the origin of the map."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bev_lss import CameraRig
from bev_temporal import camera_to_previous, now_to_then

FAR = torch.tensor([1.2e6, -3.4e5, 40.0], dtype=torch.float64)  # metres from the origin of the map


def pose(yaw: float, x: float, y: float, z: float) -> Tensor:
    """(4, 4) float64: turned by yaw about z, then moved."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = math.cos(yaw)
    matrix[1, 0], matrix[0, 1] = math.sin(yaw), -math.sin(yaw)
    matrix[:3, 3] = torch.tensor([x, y, z], dtype=torch.float64)
    return matrix


def make_rig(ego: list[Tensor], cameras: list[Tensor]) -> CameraRig:
    """One sample; ego poses (4, 4) of each frame, the same cameras (4, 4) in each."""
    lead = (1, len(ego), len(cameras))
    return CameraRig(
        intrinsics=torch.eye(3).expand(*lead, 3, 3),
        cam_to_ego=torch.stack(cameras).float().expand(*lead, 4, 4),
        ego_to_global=torch.stack(ego).float()[None, :, None].expand(*lead, 4, 4),
        image_aug=torch.eye(3).expand(*lead, 3, 3),
        bev_aug=torch.eye(3).expand(1, 3, 3),
    )


def test_a_camera_finds_itself_one_frame_earlier() -> None:
    cameras = [pose(0.3, 1.5, 0.5, 1.5), pose(2.0, 0.0, -0.5, 1.6)]
    egos = [pose(0.5, *(FAR + torch.tensor([3.0, 1.0, 0.5])).tolist()), pose(0.25, *FAR.tolist())]
    egos.append(pose(0.0, *(FAR - torch.tensor([4.0, 0.0, 0.0])).tolist()))
    rig = make_rig(egos, cameras)

    motion = camera_to_previous(rig)

    assert motion.shape == (1, 2, 2, 4, 4)
    assert motion.dtype == torch.float32
    stored_ego, stored_camera = rig.ego_to_global.double(), rig.cam_to_ego.double()
    for t in range(2):
        for n in range(2):
            now, before = (stored_ego[0, s, n] @ stored_camera[0, s, n] for s in (t, t + 1))
            torch.testing.assert_close(before @ motion[0, t, n].double(), now, rtol=0, atol=1e-5)


def test_a_standing_ego_does_not_move_even_kilometres_away() -> None:
    rig = make_rig([pose(0.7, *FAR.tolist())] * 2, [pose(0.3, 1.5, 0.5, 1.5)])
    torch.testing.assert_close(camera_to_previous(rig)[0, 0, 0], torch.eye(4), rtol=0, atol=1e-6)


def test_one_frame_has_no_previous() -> None:
    with pytest.raises(ValueError, match="wants a rig of at least two frames, got 1"):
        camera_to_previous(make_rig([torch.eye(4)], [torch.eye(4)]))


def test_the_past_of_a_place_with_a_camera_that_stays_put_on_the_ego() -> None:
    """Where the camera's mounting did not change, the rule is the motion of the ego itself."""
    now, then = pose(0.5, 30.0, 12.0, 1.0), pose(0.3, 27.0, 10.0, 1.0)
    camera = pose(0.2, 1.7, 0.3, 1.5)
    then_to_now = torch.linalg.inv(now) @ then

    motion = now_to_then(camera[None].float(), (then_to_now @ camera)[None].float(), torch.eye(3)[None])

    # Rigid motions of one mounting: camera-now after camera-then undone, which is the ego motion seen by the camera.
    wanted = camera @ torch.linalg.inv(then_to_now @ camera)
    torch.testing.assert_close(motion[0].double(), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(wanted, torch.linalg.inv(then_to_now), rtol=0, atol=1e-12)


def test_augmentation_is_undone_before_the_motion_and_redone_after() -> None:
    torch.manual_seed(0)
    augment = torch.diag(torch.tensor([-1.05, 1.05, 1.05])) @ pose(0.4, 0, 0, 0)[:3, :3].float()
    now, then = pose(0.5, 1.0, 2.0, 1.0)[None].float(), pose(0.3, -3.0, 1.5, 1.2)[None].float()

    plain = now_to_then(now, then, torch.eye(3)[None])[0]
    augmented = now_to_then(now, then, augment[None])[0]

    point = torch.tensor([4.0, -7.0, 0.3])
    moved = augment @ (plain[:3, :3] @ point + plain[:3, 3])
    torch.testing.assert_close(augmented[:3, :3] @ (augment @ point) + augmented[:3, 3], moved, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shapes", [((1, 4, 4), (2, 4, 4), (1, 3, 3)), ((1, 3, 3), (1, 3, 3), (1, 3, 3))])
def test_poses_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"wants two poses \(B, 4, 4\) and bev_aug \(B, 3, 3\), got"):
        now_to_then(*(torch.zeros(shape) for shape in shapes))
