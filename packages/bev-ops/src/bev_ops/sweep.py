"""Stereo matching: every pixel of a camera against its own previous view, at every depth (plane sweep)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import reference_sweep
from ._library import define_op

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class SweepViews:
    """The way from the feature pixels of M cameras to those of the same cameras' previous views. All float32."""

    pixels: Tensor  # (M, 2, H, W) u, v of every feature pixel before the augmentation, raw image pixels
    pixel_to_previous: Tensor  # (M, 3, 3) raw pixel (u, v, 1) times depth -> previous camera, without the translation
    translation: Tensor  # (M, 3) metres
    intrinsics: Tensor  # (M, 3, 3) of the previous view
    image_aug: Tensor  # (M, 3, 3) raw pixels -> network-input pixels, of the previous view


def matching_cost(
    current: Tensor,  # (M, C, H, W)
    previous: Tensor,  # (M, C, H, W)
    views: SweepViews,
    depths: Tensor,  # (D,) float32, metres
    stride: int,
    bias: float,
) -> Tensor:
    """Sum over channels of abs(current - previous where depth d puts the pixel), plus bias where nothing is there.

    Values of the previous features are bilinear, zero outside of the map and less than 1 mm in front of the camera.
    The warped features are never written: they are sampled, compared and summed in registers.

    Published quirk (BEVDet's stereo): "nothing is there" is read off one channel, the first of the last four: ``bias``
    is added wherever that channel's warped value is exactly 0, seen or not. Features after a ReLU are 0 in places, and
    get it there too.

    Features may be float16, bfloat16 or float32, NCHW or channels-last; positions, values and sums are float32.
    Positions round like the published code's; the order in which channels are added differs from device to device,
    but on one device equal input gives equal bits, for any number of threads. No gradient flows.

    Args:
        current, previous: features of now and of the frame before.
        views: where the pixels of now lie in the previous view.
        depths: the depths to try.
        stride: network-input pixels per feature pixel.
        bias: cost of having found nothing.

    Returns:
        (M, D, H, W) float32.

    Raises:
        ValueError: if shapes, types or devices do not fit together, or C is not a multiple of 4.
    """
    return _run(current, previous, views, depths, stride, bias, probability=False)


def matching_probability(
    current: Tensor,  # (M, C, H, W)
    previous: Tensor,  # (M, C, H, W)
    views: SweepViews,
    depths: Tensor,  # (D,) float32, metres
    stride: int,
    bias: float,
) -> Tensor:
    """Softmax over the depths of minus ``matching_cost``, in the same pass; arguments, returns and errors as there."""
    return _run(current, previous, views, depths, stride, bias, probability=True)


def _run(
    current: Tensor, previous: Tensor, views: SweepViews, depths: Tensor, stride: int, bias: float, *, probability: bool
) -> Tensor:
    _check(current, previous, views, depths, stride)
    dtype = torch.promote_types(current.dtype, previous.dtype)
    features = (tensor.detach().to(dtype) for tensor in (current, previous))
    cameras = (views.pixels, views.pixel_to_previous, views.translation, views.intrinsics, views.image_aug, depths)
    cameras = (tensor.detach().contiguous() for tensor in cameras)
    return _matching_cost(*features, *cameras, stride, bias, probability)


def _check(current: Tensor, previous: Tensor, views: SweepViews, depths: Tensor, stride: int) -> None:
    if current.ndim != 4 or current.shape != previous.shape:
        raise ValueError(
            "stereo matching wants features of now and of the frame before, both (M, C, H, W), got "
            f"{tuple(current.shape)} and {tuple(previous.shape)}"
        )
    images, channels, height, width = current.shape
    if channels % 4 or channels == 0:
        raise ValueError(f"stereo matching wants channels in multiples of 4, got {channels}")
    if current.dtype not in _DTYPES or previous.dtype not in _DTYPES:
        raise ValueError(
            f"stereo matching takes float16, bfloat16 or float32 features, got {current.dtype} and {previous.dtype}"
        )
    if stride < 1 or depths.ndim != 1:
        raise ValueError(
            f"stereo matching wants depths (D,) and a positive stride, got {tuple(depths.shape)}, {stride}"
        )
    wanted = {
        "pixels": (images, 2, height, width),
        "pixel_to_previous": (images, 3, 3),
        "translation": (images, 3),
        "intrinsics": (images, 3, 3),
        "image_aug": (images, 3, 3),
    }
    for name, shape in wanted.items():
        _check_tensor(name, getattr(views, name), shape, current.device)
    _check_tensor("depths", depths, tuple(depths.shape), current.device)
    if previous.device != current.device:
        raise ValueError(f"features must be on one device, got {current.device} and {previous.device}")


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32 or tensor.device != device:
        raise ValueError(
            f"stereo matching wants {name} {shape} float32 on {device}, "
            f"got {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
        )


def _fake_matching_cost(
    current: Tensor,
    previous: Tensor,
    pixels: Tensor,
    pixel_to_previous: Tensor,
    translation: Tensor,
    intrinsics: Tensor,
    image_aug: Tensor,
    depths: Tensor,
    stride: int,
    bias: float,
    probability: bool,
) -> Tensor:
    images, _, height, width = current.shape
    return current.new_empty(images, depths.shape[0], height, width, dtype=torch.float32)


_matching_cost = define_op(
    "matching_cost",
    "(Tensor current, Tensor previous, Tensor pixels, Tensor pixel_to_previous, Tensor translation, Tensor intrinsics, "
    "Tensor image_aug, Tensor depths, int stride, float bias, bool probability) -> Tensor",
    reference_sweep.matching_cost,
    _fake_matching_cost,
)
