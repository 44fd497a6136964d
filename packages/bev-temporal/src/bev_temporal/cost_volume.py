"""Depth by comparing a camera with itself one frame earlier.

Shapes: B samples, N cameras, C channels, H x W feature pixels, D depth bins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bev_lss import DepthBins

from .matching import matching

__all__ = ["StereoCostVolume"]


class StereoCostVolume(nn.Module):
    """How well each depth explains what the camera saw one frame earlier (plane sweep; BEVStereo, arXiv:2209.10248).

    Every pixel is put at every depth and looked up, bilinearly, in the features of the previous frame. The cost of a
    depth is the sum over channels of the absolute difference; the result is the softmax of minus the cost over D.

    Published rules, kept: pixels lie where the frustum has them (:func:`bev_lss.pixel_positions`), from the first to
    the last pixel of the network input; both frames are taken to have the intrinsics and augmentation of the current
    one; a point less than 1 mm in front of the previous camera sees nothing; ``bias`` is added where the first of the
    last four channels is exactly 0 after warping, which stands for having left the image but also holds where the
    feature itself is 0. The channels come in groups of four, so their number must be a multiple of 4.

    No gradient flows. Computed in float32, also under autocast and of float16 or bfloat16 features. The warped features
    never exist (:func:`bev_ops.matching_probability`): beside the result, the memory is that of one image's features.

    Args:
        bins: the depths.
        bias: added to the cost where nothing is found.
        stride: network-input pixels per feature pixel.

    Example::

        stereo = StereoCostVolume(DepthBins(1.0, 60.0, 1.0, log_spaced=True))
        motion = camera_to_previous(rig)[:, 0]  # (B, N, 4, 4)
        matching = stereo(current, previous, motion, rig.intrinsics[:, 0], rig.image_aug[:, 0])  # (B, N, 59, H, W)
    """

    def __init__(self, bins: DepthBins, *, bias: float = 5.0, stride: int = 4) -> None:
        super().__init__()
        self.bins = bins
        self.bias = bias
        self.stride = stride

    def forward(
        self,
        current: Tensor,  # (B, N, C, H, W)
        previous: Tensor,  # (B, N, C, H, W)
        camera_to_previous: Tensor,  # (B, N, 4, 4) camera now -> the same camera one frame earlier, metres
        intrinsics: Tensor,  # (B, N, 3, 3)
        image_aug: Tensor,  # (B, N, 3, 3)
    ) -> Tensor:
        """(B, N, D, H, W) float32, sums to 1 over D. Several frames go in one call with B = samples x frames.

        Raises:
            ValueError: shapes that do not fit, or a number of channels that is no multiple of 4.
        """
        _check(current, previous, camera_to_previous, intrinsics, image_aug)
        lead = current.shape[:2]
        features = [_stored(t.detach().flatten(0, 1)) for t in (current, previous)]
        cameras = [t.detach().flatten(0, 1).float() for t in (camera_to_previous, intrinsics, image_aug)]
        depths = self.bins.values().to(current.device)
        return matching(*features, *cameras, depths, self.stride, self.bias).unflatten(0, lead)


def _stored(features: Tensor) -> Tensor:
    """Features in a type that can be compared as it is."""
    return features.float() if features.dtype == torch.float64 else features


def _check(
    current: Tensor, previous: Tensor, camera_to_previous: Tensor, intrinsics: Tensor, image_aug: Tensor
) -> None:
    if current.ndim != 5 or current.shape != previous.shape:
        raise ValueError(
            "StereoCostVolume wants features of now and of the frame before, both (B, N, C, H, W), got "
            f"{tuple(current.shape)} and {tuple(previous.shape)}"
        )
    if current.shape[2] % 4:
        raise ValueError(f"StereoCostVolume wants channels in multiples of 4, got {current.shape[2]}")
    lead = tuple(current.shape[:2])
    matrices = {"camera_to_previous": camera_to_previous, "intrinsics": intrinsics, "image_aug": image_aug}
    for name, matrix in matrices.items():
        wanted = (*lead, 4, 4) if name == "camera_to_previous" else (*lead, 3, 3)
        if tuple(matrix.shape) != wanted:
            raise ValueError(f"StereoCostVolume wants {name} {wanted}, got {tuple(matrix.shape)}")
