"""How the ego and its cameras moved between frames.

Shapes: B samples, T frames (0 is now, newest first), N cameras. All transforms are 4x4 in metres.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_lss import CameraRig, published_inverse

__all__ = ["camera_to_previous", "now_to_then"]


def now_to_then(
    cam0_to_key_ego_now: Tensor,  # (B, 4, 4) camera 0 of frame 0 -> key ego
    cam0_to_key_ego_then: Tensor,  # (B, 4, 4) camera 0 of an earlier frame -> key ego (of now)
    bev_aug: Tensor,  # (B, 3, 3) key ego -> augmented key ego
) -> Tensor:
    """Points of the augmented ego frame of now to the augmented ego frame of an earlier time: (B, 4, 4) float32.

    Published rule (BEVDet4D): camera 0 stands for the ego. What camera 0 saw somewhere now, it is taken to have seen
    from the same place in the ego frame then; its mounting cancels out, the time between camera and ego pose does not.
    Both poses come from :meth:`bev_lss.CameraRig.cam_to_key_ego`.

    Published rounding: the pose of then is inverted in float32, and not exactly: the last row of the result is off
    (0, 0, 0, 1) by some 1e-7, which :func:`warp_bev`, as published, does not divide out. At the border of a 50 m grid
    this is 2e-4 of a cell, which can be seen in the values next to the ego, where maps are steep.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_poses(cam0_to_key_ego_now, cam0_to_key_ego_then, bev_aug)
    augment = torch.eye(4, device=bev_aug.device).repeat(len(bev_aug), 1, 1)
    augment[:, :3, :3] = bev_aug
    # Autocast would take these products to half precision. Meta tensors have no autocast.
    with torch.autocast("cpu" if bev_aug.is_meta else bev_aug.device.type, enabled=False):
        return augment @ cam0_to_key_ego_now @ published_inverse(augment @ cam0_to_key_ego_then)


def camera_to_previous(rig: CameraRig) -> Tensor:
    """Camera n of frame t to camera n of frame t+1, the frame before it: (B, T-1, N, 4, 4) float32.

    Through the global frame and in float64, because global translations are kilometres and the result is metres.

    Raises:
        ValueError: the rig holds one frame only.
    """
    if rig.num_frames < 2:
        raise ValueError("camera_to_previous wants a rig of at least two frames, got 1: add the frame before it")
    cam_to_global = rig.ego_to_global.double() @ rig.cam_to_ego.double()
    return (torch.linalg.inv(cam_to_global[:, 1:]) @ cam_to_global[:, :-1]).float()


def _check_poses(now: Tensor, then: Tensor, bev_aug: Tensor) -> None:
    batch = len(now)
    if tuple(now.shape) != (batch, 4, 4) or now.shape != then.shape or tuple(bev_aug.shape) != (batch, 3, 3):
        raise ValueError(
            "now_to_then wants two poses (B, 4, 4) and bev_aug (B, 3, 3), got "
            f"{tuple(now.shape)}, {tuple(then.shape)} and {tuple(bev_aug.shape)}"
        )
