"""The cameras of one frame, as the view transform sees them.

Shapes: B samples, N cameras.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CAMERA_PARAMETERS", "FrameCameras", "camera_parameters"]

CAMERA_PARAMETERS = 27  # numbers told of each camera

_TRAILING_SHAPE = {"cam_to_key_ego": (4, 4), "intrinsics": (3, 3), "image_aug": (3, 3)}


@dataclass(frozen=True)
class FrameCameras:
    """N cameras of one frame, seen from the key ego; :meth:`bev_lss.CameraRig.frame_cameras` makes them.

    Args:
        cam_to_key_ego: (B, N, 4, 4) camera frame to the key-ego frame, metres.
        intrinsics: (B, N, 3, 3) raw-pixel camera matrices, in pixels.
        image_aug: (B, N, 3, 3) affine homography, raw pixel to network-input pixel.
        bev_aug: (B, 3, 3) key ego to augmented key ego.

    ``dataclasses.replace`` derives others: an earlier frame with ``cam_to_key_ego`` of now is a frame that is lifted as
    if the ego had not moved, to be aligned afterwards.

    Raises:
        ValueError: a shape does not fit.
    """

    cam_to_key_ego: Tensor  # (B, N, 4, 4)
    intrinsics: Tensor  # (B, N, 3, 3)
    image_aug: Tensor  # (B, N, 3, 3)
    bev_aug: Tensor  # (B, 3, 3)

    def __post_init__(self) -> None:
        lead = tuple(self.cam_to_key_ego.shape[:2])
        wanted = {name: (*lead, *trailing) for name, trailing in _TRAILING_SHAPE.items()}
        wanted["bev_aug"] = (*lead[:1], 3, 3)
        for name, shape in wanted.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"FrameCameras.{name} must have shape {shape} for (B, N) = {lead}, got {got}")

    @property
    def batch_size(self) -> int:
        """B."""
        return self.cam_to_key_ego.shape[0]

    @property
    def num_cameras(self) -> int:
        """N."""
        return self.cam_to_key_ego.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.cam_to_key_ego.device

    def tensors(self) -> tuple[Tensor, ...]:
        """All fields, in their order."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def camera_parameters(cameras: FrameCameras) -> Tensor:
    """What a camera-aware depth net is told of each camera (BEVDepth, arXiv:2206.10092): (B, N, 27) float32.

    In the published order: fx, fy, cx, cy (raw pixels); the two rows of ``image_aug``; of ``bev_aug`` the entries 00,
    01, 10, 11, 22; the three rows of ``cam_to_key_ego``.

    The published 4D systems tell the *poses of frame 0* for every frame they look at, with the intrinsics and
    augmentation of that frame. Which poses are told is the caller's choice, by the cameras handed in here.
    """
    # One by one: a list of positions would go to the device first, and the host would wait for that.
    focal_and_centre = _entries(cameras.intrinsics, (0, 0), (1, 1), (0, 2), (1, 2))
    bev_aug = _entries(cameras.bev_aug, (0, 0), (0, 1), (1, 0), (1, 1), (2, 2))
    parts = (
        focal_and_centre,
        cameras.image_aug[..., :2, :].flatten(-2),
        bev_aug[:, None].expand(-1, cameras.num_cameras, -1),
        cameras.cam_to_key_ego[..., :3, :].flatten(-2),
    )
    return torch.cat(parts, dim=-1)


def _entries(matrices: Tensor, *positions: tuple[int, int]) -> Tensor:
    """Some entries of matrices (..., 3, 3): (..., as many)."""
    return torch.stack([matrices[..., row, column] for row, column in positions], dim=-1)
