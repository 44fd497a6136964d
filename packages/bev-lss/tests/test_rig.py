"""CameraRig: what it accepts, what it refuses and how it says so."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bev_lss import CalibrationError, CameraRig


def make_rig(batch: int = 2, frames: int = 1, cameras: int = 3) -> CameraRig:
    """A rig of cameras with focal length 100 that all look forward from the ego origin."""
    lead = (batch, frames, cameras)
    intrinsics = torch.tensor([[100.0, 0, 40], [0, 100, 20], [0, 0, 1]]).expand(*lead, 3, 3).clone()
    cam_to_ego = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]).expand(*lead, 4, 4).clone()
    return CameraRig(
        intrinsics=intrinsics,
        cam_to_ego=cam_to_ego,
        ego_to_global=torch.eye(4).expand(*lead, 4, 4).clone(),
        image_aug=torch.eye(3).expand(*lead, 3, 3).clone(),
        bev_aug=torch.eye(3).expand(batch, 3, 3).clone(),
    )


def changed(field: str, index: tuple[int, ...], value: float) -> dict[str, torch.Tensor]:
    tensor = getattr(make_rig(), field).clone()
    tensor[index] = value
    return {field: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("intrinsics", (1, 0, 2, 0, 0), float("nan")), r"intrinsics has NaN .* \(1, 0, 2\)"),
        (changed("cam_to_ego", (0, 0, 1, 0, 3), float("inf")), r"cam_to_ego has NaN or infinite .* \(0, 0, 1\)"),
        (changed("intrinsics", (0, 0, 0, 0, 0), 0.0), r"intrinsics is singular .* \(0, 0, 0\)"),
        (changed("image_aug", (0, 0, 0, 2, 0), 0.5), "image_aug is not affine"),
        (changed("bev_aug", (1, 2, 2), 0.0), r"bev_aug is singular at \(sample,\) = \(1,\)"),
        ({"bev_aug": torch.eye(3)}, r"bev_aug must have shape \(2, 3, 3\), got \(3, 3\)"),
        ({"cam_to_ego": torch.eye(4).expand(2, 1, 4, 4, 4)}, r"cam_to_ego must have shape \(B, T, N, 4, 4\)"),
        ({"intrinsics": make_rig().intrinsics.double()}, "must be float32"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        dataclasses.replace(make_rig(), **change)


def test_key_ego_is_the_ego_pose_of_camera_0_of_frame_0() -> None:
    rig = make_rig(batch=1, frames=2, cameras=2)
    ego_to_global = rig.ego_to_global.clone()
    far = 3e5  # metres from the map origin, where float32 has steps of 3 cm
    ego_to_global[..., 0, 3] = far + torch.tensor([[0.0, 0.25], [-5.0, -4.75]])
    rig = dataclasses.replace(rig, ego_to_global=ego_to_global)

    offset = (rig.cam_to_key_ego() - rig.cam_to_ego)[0, ..., 0, 3]

    assert offset.tolist() == [[0.0, 0.25], [-5.0, -4.75]]


def test_to_keeps_every_field() -> None:
    rig = make_rig().to("meta")
    assert all(getattr(rig, f.name).is_meta for f in dataclasses.fields(rig))
    assert (rig.batch_size, rig.num_frames, rig.num_cameras) == (2, 1, 3)
