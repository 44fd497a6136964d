"""Image pre-processing as part of the graph: uint8 images as cameras give them in, network input out.

Letters: B samples, N cameras, raw H' x W' pixels, network input H x W.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from bev_nuscenes import PIXEL_MEAN, PIXEL_STD, ImageAugmentation

__all__ = ["ImagePreprocessing", "resampling_matrix"]

_CUBIC = -0.5  # PIL's bicubic


class ImagePreprocessing(nn.Module):
    """What evaluation does to an image: resize (bicubic, as PIL), crop, normalise.

    Resizing and cropping are one product of matrices along each axis, rounded to whole levels in between as PIL rounds;
    single pixels differ from PIL by one level, because its weights are fixed-point numbers.

    Args:
        raw_size: (W', H') of the camera images.
        input_size: (H, W) of the network.
        augmentation: of the recipe; its transform of evaluation is used.

    Raises:
        ValueError: the crop leaves the image.
    """

    def __init__(self, raw_size: tuple[int, int], input_size: tuple[int, int], augmentation: ImageAugmentation) -> None:
        super().__init__()
        transform = augmentation.fixed(raw_size, input_size)
        left, top, right, bottom = transform.crop
        width, height = transform.resized
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ValueError(
                f"images of {raw_size[0]} x {raw_size[1]} become {width} x {height} pixels, which do not cover the "
                f"network input: crop {transform.crop}. Export without --preprocess, or at another input size"
            )
        self.raw_size = raw_size
        self.homography = transform.homography()
        across, columns = _cropped(resampling_matrix(raw_size[0], width)[left:right])
        down, rows = _cropped(resampling_matrix(raw_size[1], height)[top:bottom])
        self.columns, self.rows = columns, rows
        self.register_buffer("across", across.T.contiguous(), persistent=False)  # (W' used, W)
        self.register_buffer("down", down, persistent=False)  # (H, H' used)
        # Published: the channels are swapped, and then normalised in the old order.
        self.register_buffer("mean", torch.tensor(PIXEL_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(PIXEL_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, H', W', 3) uint8 RGB -> (B, N, 3, H, W) float32."""
        # Floats first: TensorRT does nothing with bytes but convert them.
        used = images.float()[:, :, self.rows, self.columns].permute(0, 1, 4, 2, 3).flip(2)
        resized = _levels(self.down @ _levels(used @ self.across))
        return (resized - self.mean) / self.deviation


def resampling_matrix(count: int, wanted: int) -> Tensor:
    """PIL's bicubic resize along one axis: (wanted, count) float32, rows sum to 1."""
    scale = count / wanted
    stretch = max(scale, 1.0)
    matrix = np.zeros((wanted, count))
    for i in range(wanted):
        centre = (i + 0.5) * scale
        first = max(int(centre - 2 * stretch + 0.5), 0)
        last = min(int(centre + 2 * stretch + 0.5), count)
        weights = [_cubic((x - centre + 0.5) / stretch) for x in range(first, last)]
        matrix[i, first:last] = np.array(weights) / math.fsum(weights)
    return torch.from_numpy(matrix).float()


def _cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * _CUBIC if x < 2 else 0.0


def _cropped(matrix: Tensor) -> tuple[Tensor, slice]:
    """Only the pixels that count, and which these are."""
    used = torch.nonzero(matrix.abs().sum(0)).squeeze(1)
    part = slice(int(used[0]), int(used[-1]) + 1)
    return matrix[:, part].contiguous(), part


def _levels(values: Tensor) -> Tensor:
    """Rounded to whole levels, half upwards, and cut to those there are."""
    return (values + 0.5).floor().clamp(0, 255)
