"""The calibration of all cameras of a sample: one dataclass, one truth.

Shapes: B samples, T frames (0 is now, newest first), N cameras.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from .cameras import FrameCameras

__all__ = ["CalibrationError", "CameraRig"]

_TRAILING_SHAPE = {"intrinsics": (3, 3), "cam_to_ego": (4, 4), "ego_to_global": (4, 4), "image_aug": (3, 3)}


class CalibrationError(ValueError):
    """A calibration that cannot describe a camera: wrong shape, not finite, singular, or not affine."""


@dataclass(frozen=True)
class CameraRig:
    """Intrinsics, poses and augmentations of N cameras over T frames.

    Args:
        intrinsics: (B, T, N, 3, 3) raw-pixel camera matrices, in pixels.
        cam_to_ego: (B, T, N, 4, 4) camera frame (x right, y down, z forward) to the ego frame at that camera's time,
            metres.
        ego_to_global: (B, T, N, 4, 4) ego pose at that camera's time, metres.
        image_aug: (B, T, N, 3, 3) affine homography, raw pixel to network-input pixel (last row 0 0 1).
        bev_aug: (B, 3, 3) key ego to augmented key ego.

    The *key ego* frame is the ego frame of camera 0 of frame 0. Tensors are float32. Values are checked where that
    costs nothing: on the CPU and outside of tracing.

    Raises:
        CalibrationError: a shape does not fit, or a matrix is not finite, singular or (image_aug) not affine.
    """

    intrinsics: Tensor  # (B, T, N, 3, 3)
    cam_to_ego: Tensor  # (B, T, N, 4, 4)
    ego_to_global: Tensor  # (B, T, N, 4, 4)
    image_aug: Tensor  # (B, T, N, 3, 3)
    bev_aug: Tensor  # (B, 3, 3)

    def __post_init__(self) -> None:
        self._check_shapes()
        if self.intrinsics.device.type == "cpu" and not torch.compiler.is_compiling():
            self._check_values()

    @property
    def batch_size(self) -> int:
        """B."""
        return self.intrinsics.shape[0]

    @property
    def num_frames(self) -> int:
        """T."""
        return self.intrinsics.shape[1]

    @property
    def num_cameras(self) -> int:
        """N."""
        return self.intrinsics.shape[2]

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.intrinsics.device

    def to(self, device: torch.device | str) -> CameraRig:
        """The same rig on another device."""
        return CameraRig(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})

    def cam_to_key_ego(self) -> Tensor:
        """Camera frames to the key-ego frame: (B, T, N, 4, 4) float32.

        Composed in float64, because global translations are kilometres and the result is metres.
        """
        ego_to_global = self.ego_to_global.double()
        global_to_key_ego = torch.linalg.inv(ego_to_global[:, :1, :1])
        return (global_to_key_ego @ ego_to_global @ self.cam_to_ego.double()).float()

    def all_frame_cameras(self) -> tuple[FrameCameras, ...]:
        """The cameras of every frame seen from the key ego, newest first: T of them, poses composed once for all."""
        cam_to_key_ego = self.cam_to_key_ego()
        return tuple(
            FrameCameras(cam_to_key_ego[:, t], self.intrinsics[:, t], self.image_aug[:, t], self.bev_aug)
            for t in range(self.num_frames)
        )

    def frame_cameras(self, t: int) -> FrameCameras:
        """The cameras of frame t (0 is now) seen from the key ego. For several frames see :meth:`all_frame_cameras`.

        Raises:
            ValueError: the rig has no such frame.
        """
        if not 0 <= t < self.num_frames:
            raise ValueError(f"a frame from 0 to {self.num_frames - 1} is wanted, got {t}")
        return self.all_frame_cameras()[t]

    def _check_shapes(self) -> None:
        lead = tuple(self.intrinsics.shape[:3])
        for name, trailing in _TRAILING_SHAPE.items():
            shape = tuple(getattr(self, name).shape)
            if shape != (*lead, *trailing) or len(shape) != 5:
                wanted = f"(B, T, N, {trailing[0]}, {trailing[1]})"
                raise CalibrationError(
                    f"CameraRig.{name} must have shape {wanted} with the same B, T, N in all fields "
                    f"(intrinsics has B, T, N = {lead}), got {shape}"
                )
        shape = tuple(self.bev_aug.shape)
        if shape != (lead[0], 3, 3):
            raise CalibrationError(f"CameraRig.bev_aug must have shape ({lead[0]}, 3, 3), got {shape}")
        for field in dataclasses.fields(self):
            dtype = getattr(self, field.name).dtype
            if dtype != torch.float32:
                raise CalibrationError(f"CameraRig.{field.name} must be float32, got {dtype}: convert it with .float()")

    def _check_values(self) -> None:
        for field in dataclasses.fields(self):
            matrices = getattr(self, field.name)
            _require(torch.isfinite(matrices).flatten(-2).all(-1), field.name, "has NaN or infinite entries")
            _require(torch.linalg.det(matrices.double()).abs() > 1e-9, field.name, "is singular")
        last_row = self.image_aug.new_tensor([0.0, 0.0, 1.0])
        _require((self.image_aug[..., 2, :] == last_row).all(-1), "image_aug", "is not affine (last row must be 0 0 1)")


def _require(valid: Tensor, name: str, problem: str) -> None:
    """Raise with the position of the first matrix that is not valid. valid: (B, T, N) or (B,) bool."""
    if bool(valid.all()):
        return
    position = tuple(torch.nonzero(~valid)[0].tolist())
    axes = "(sample, frame, camera)" if len(position) == 3 else "(sample,)"
    raise CalibrationError(f"CameraRig.{name} {problem} at {axes} = {position}: check the calibration of that camera")
