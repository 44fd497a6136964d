"""The cameras of one frame, and what a depth net is told of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bev_lss import CameraRig, FrameCameras, camera_parameters


@pytest.fixture
def rig() -> CameraRig:
    """Two samples, three frames, two cameras; every number of it tells which matrix it belongs to."""
    torch.manual_seed(0)
    lead = (2, 3, 2)

    def poses() -> torch.Tensor:
        pose = torch.eye(4).repeat(*lead, 1, 1)
        pose[..., :3, :] += 0.1 * torch.randn(*lead, 3, 4)
        return pose

    image_aug = torch.eye(3).repeat(*lead, 1, 1)
    image_aug[..., :2, :] += torch.randn(*lead, 2, 3)
    intrinsics = torch.tensor([[90.0, 0, 25], [0, 95, 15], [0, 0, 1]]).repeat(*lead, 1, 1)
    intrinsics[..., :2, 2] += torch.randn(*lead, 2)
    return CameraRig(intrinsics, poses(), poses(), image_aug, torch.eye(3) + 0.1 * torch.randn(2, 3, 3))


def test_each_frame_has_its_own_cameras_seen_from_now(rig: CameraRig) -> None:
    frames = rig.all_frame_cameras()
    assert len(frames) == rig.num_frames
    for t, cameras in enumerate(frames):
        assert (cameras.batch_size, cameras.num_cameras) == (2, 2)
        wanted = (rig.cam_to_key_ego()[:, t], rig.intrinsics[:, t], rig.image_aug[:, t], rig.bev_aug)
        for got, same, want in zip(cameras.tensors(), rig.frame_cameras(t).tensors(), wanted, strict=True):
            assert torch.equal(got, want)
            assert torch.equal(same, want)


@pytest.mark.parametrize("t", [-1, 3])
def test_a_frame_that_is_not_there_is_refused(rig: CameraRig, t: int) -> None:
    with pytest.raises(ValueError, match=f"a frame from 0 to 2 is wanted, got {t}"):
        rig.frame_cameras(t)


def test_parameters_come_in_the_published_order(rig: CameraRig) -> None:
    cameras = rig.frame_cameras(1)
    told = camera_parameters(cameras)
    assert told.shape == (2, 2, 27)
    for b, n in ((0, 0), (1, 1)):
        k, a, r = cameras.intrinsics[b, n], cameras.image_aug[b, n], cameras.bev_aug[b]
        wanted = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
        wanted += [a[0, 0], a[0, 1], a[0, 2], a[1, 0], a[1, 1], a[1, 2]]
        wanted += [r[0, 0], r[0, 1], r[1, 0], r[1, 1], r[2, 2]]
        wanted += [cameras.cam_to_key_ego[b, n, i, j] for i in range(3) for j in range(4)]
        assert told[b, n].tolist() == [w.item() for w in wanted]


@pytest.mark.parametrize(
    ("field", "shape"),
    [("intrinsics", (2, 2, 4, 4)), ("image_aug", (2, 1, 3, 3)), ("bev_aug", (1, 3, 3)), ("cam_to_key_ego", (2, 4, 4))],
)
def test_shapes_must_fit(rig: CameraRig, field: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"FrameCameras\.\w+ must have shape") as error:
        dataclasses.replace(rig.frame_cameras(0), **{field: torch.zeros(shape)})
    assert "\n" not in str(error.value)


def test_a_frame_can_take_the_poses_of_another(rig: CameraRig) -> None:
    now, then = rig.all_frame_cameras()[:2]
    unmoved = dataclasses.replace(then, cam_to_key_ego=now.cam_to_key_ego)
    assert isinstance(unmoved, FrameCameras)
    told = camera_parameters(unmoved)
    assert torch.equal(told[..., 15:], camera_parameters(now)[..., 15:])
    assert torch.equal(told[..., :10], camera_parameters(then)[..., :10])
