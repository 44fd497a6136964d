"""Image augmentation as published, pixel for pixel (PIL), and the homography it amounts to.

The steps are resize (bicubic), crop, horizontal flip, rotation about the centre (nearest neighbour). Each camera of a
sample draws its own transform; all frames of that camera share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = [
    "PIXEL_MEAN",
    "PIXEL_STD",
    "ImageAugmentation",
    "ImageTransform",
    "normalize_image",
    "normalize_images",
    "reduction",
]

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ImageTransform:
    """One drawn image transform.

    Attributes:
        scale: raw pixels times this give resized pixels.
        resized: (width, height) after the resize.
        crop: (left, top, right, bottom) in resized pixels; parts outside the image are black.
        flip: mirror left and right after the crop.
        rotate_deg: counter-clockwise turn about the centre of the crop, in degrees.
    """

    scale: float
    resized: tuple[int, int]
    crop: tuple[int, int, int, int]
    flip: bool = False
    rotate_deg: float = 0.0

    def apply(self, image: Image.Image) -> Image.Image:
        """Transform a raw image to network-input size."""
        image = image.resize(self.resized, Image.Resampling.BICUBIC).crop(self.crop)
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.rotate(self.rotate_deg, Image.Resampling.NEAREST) if self.rotate_deg else image

    def homography(self) -> np.ndarray:
        """``image_aug`` (3, 3) float64: raw pixel (u, v, 1) to network-input pixel.

        The scale is the drawn one, not the ratio of the rounded sizes, as in the published systems.
        """
        return self._matrix(self.scale, self.scale)

    def pixel_map(self, size: tuple[float, float]) -> np.ndarray:
        """Matrix (3, 3) float64 of what ``apply`` does to an image of ``size`` (width, height): its points (u, v, 1) to
        those of the network input, the centre of the first pixel at (0.5, 0.5).

        It scales by the ratio of the sizes in whole pixels. ``size`` may be that of a reduced copy of the raw image.
        """
        return self._matrix(self.resized[0] / size[0], self.resized[1] / size[1])

    def _matrix(self, scale_u: float, scale_v: float) -> np.ndarray:
        left, top, right, bottom = self.crop
        width, height = right - left, bottom - top
        matrix = np.array([[scale_u, 0, -left], [0, scale_v, -top], [0, 0, 1.0]])
        if self.flip:
            matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1.0]]) @ matrix
        angle = np.deg2rad(self.rotate_deg)
        cos, sin = np.cos(angle), np.sin(angle)
        centre = np.array([width, height]) / 2
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
        turn[:2, 2] = centre - turn[:2, :2] @ centre
        return turn @ matrix


@dataclass(frozen=True)
class ImageAugmentation:
    """Ranges from which training draws, and the fixed transform of evaluation.

    Attributes:
        resize: (lowest, highest) addition to the scale that fits the image width to the input width.
        rotate_deg: (lowest, highest) rotation in degrees.
        flip: mirror every second image on average.
        crop_h: (lowest, highest) share of the resized height cut off below the crop.
        resize_test: addition to the scale in evaluation.
    """

    resize: tuple[float, float] = (0.0, 0.0)
    rotate_deg: tuple[float, float] = (0.0, 0.0)
    flip: bool = False
    crop_h: tuple[float, float] = (0.0, 0.0)
    resize_test: float = 0.0

    def sample(
        self, raw_size: tuple[int, int], input_size: tuple[int, int], rng: np.random.Generator
    ) -> ImageTransform:
        """Draw a training transform.

        Args:
            raw_size: (width, height) of the raw image.
            input_size: (height, width) of the network input.
            rng: source of the draws, in the published order: scale, crop height, crop width, flip, rotation.
        """
        scale = input_size[1] / raw_size[0] + rng.uniform(*self.resize)
        resized = _scaled(raw_size, scale)
        top = int((1 - rng.uniform(*self.crop_h)) * resized[1]) - input_size[0]
        left = int(rng.uniform(0, max(0, resized[0] - input_size[1])))
        flip = self.flip and bool(rng.integers(2))
        return ImageTransform(scale, resized, _crop(left, top, input_size), flip, rng.uniform(*self.rotate_deg))

    def fixed(self, raw_size: tuple[int, int], input_size: tuple[int, int]) -> ImageTransform:
        """The transform of evaluation: centred in width, at the bottom (less the mean of ``crop_h``) in height."""
        scale = input_size[1] / raw_size[0] + self.resize_test
        resized = _scaled(raw_size, scale)
        top = int((1 - np.mean(self.crop_h)) * resized[1]) - input_size[0]
        left = int(max(0, resized[0] - input_size[1]) / 2)
        return ImageTransform(scale, resized, _crop(left, top, input_size))


def reduction(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """The largest of 1, 2, 4 and 8 by which (width, height) can be divided without falling below ``at_least``."""
    fitting = [
        factor for factor in (1, 2, 4, 8) if all(-(-n // factor) >= m for n, m in zip(size, at_least, strict=True))
    ]
    return max(fitting, default=1)


def normalize_image(image: Image.Image | np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write an RGB image, or its pixels (H, W, 3) uint8, as normalised float32 into ``out`` (3, H, W) and return it.

    The published systems swap the channels of an image that is RGB already and then normalise with the RGB mean and
    deviation: channel 0 holds blue, normalised with the figures of red. Their checkpoints expect exactly that.
    """
    pixels = np.asarray(image)
    if pixels.shape != (*out.shape[1:], 3):
        found = f"{image.mode} {image.size}" if isinstance(image, Image.Image) else f"shape {pixels.shape}"
        raise ValueError(f"an RGB image of {out.shape[2]}x{out.shape[1]} is needed, got {found}")
    for channel in range(3):
        np.take(_NORMALIZED[channel], pixels[..., 2 - channel], out=out[channel])
    return out


def normalize_images(images: Tensor) -> Tensor:
    """RGB images (..., H, W, 3) uint8 as normalised float32 (..., 3, H, W), on the device they are on; one axis or more
    in front.

    Bit for bit what ``normalize_image`` makes of the same pixels: channel 0 holds blue, with the figures of red.

    Raises:
        ValueError: images of another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim < 4 or images.shape[-1] != 3:
        raise ValueError(
            "RGB images (..., H, W, 3) uint8 with an axis or more in front are needed, got "
            f"{tuple(images.shape)} {images.dtype}"
        )
    out = torch.empty(*images.shape[:-3], 3, *images.shape[-3:-1], device=images.device)
    if images.device.type == "cpu":
        for image, target in zip(images.flatten(0, -4), out.flatten(0, -4), strict=True):
            normalize_image(image.numpy(), target.numpy())
        return out
    return _normalize_on_device(images, out)


def _normalize_on_device(images: Tensor, out: Tensor) -> Tensor:
    """One channel after the other: the positions in the table take four times the memory of the pixels."""
    levels = torch.from_numpy(_NORMALIZED).to(images.device)
    for channel in range(3):
        plane = images[..., 2 - channel]
        out[..., channel, :, :] = levels[channel].index_select(0, plane.reshape(-1).int()).view(plane.shape)
    return out


def _normalized_levels() -> np.ndarray:
    """Value (3, 256) float32 of every pixel level in every output channel, rounded as OpenCV rounds: after the
    subtraction and after the multiplication with the reciprocal."""
    levels = np.arange(256, dtype=np.float64)
    mean = np.array(PIXEL_MEAN, np.float32).astype(np.float64)[:, None]
    reciprocal = 1 / np.array(PIXEL_STD, np.float32).astype(np.float64)[:, None]
    return ((levels - mean).astype(np.float32) * reciprocal).astype(np.float32)


_NORMALIZED = _normalized_levels()


def _scaled(raw_size: tuple[int, int], scale: float) -> tuple[int, int]:
    return int(raw_size[0] * scale), int(raw_size[1] * scale)


def _crop(left: int, top: int, input_size: tuple[int, int]) -> tuple[int, int, int, int]:
    return left, top, left + input_size[1], top + input_size[0]
