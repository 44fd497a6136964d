"""Images for training at speed: JPEGs decoded at a reduced scale, and one warp for all that augmentation does.

The warp is bilinear; the steps it stands for are those of ``ImageTransform.apply``. Legend: h and w the size of a
decoded image, H and W the network-input size.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import simplejpeg

from .image_augmentation import ImageTransform

__all__ = ["decode_reduced", "jpeg_size", "warp_image"]

# The workers of a loader share the cores already.
cv2.setNumThreads(0)

# OpenCV puts the centre of the first pixel at 0, ``ImageTransform.pixel_map`` at 0.5.
_CENTRE = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG.

    Raises:
        ValueError: it is none, or damaged before its size.
        KeyError: its subsampling has no name, most likely because it is damaged.
    """
    height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
    return width, height


def decode_reduced(data: bytes, factor: int = 1) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of a JPEG at 1/``factor`` of its size; 1, 2, 4 or 8, which JPEG itself can do.

    Raises:
        ValueError: no JPEG, or one that is truncated or damaged.
    """
    width, height = jpeg_size(data)
    return simplejpeg.decode_jpeg(data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor))


def warp_image(
    pixels: np.ndarray,  # (h, w, 3) uint8, the raw image at 1/factor of its size
    factor: int,
    size: tuple[int, int],  # width and height of the raw image
    transform: ImageTransform,
    out: np.ndarray,  # (H, W, 3) uint8, contiguous
) -> None:
    """Write what ``transform`` makes of an image into ``out``; black where the crop leaves the image or turns away."""
    extent = size[0] / factor, size[1] / factor  # of the image; the last row and column may reach beyond it
    left, top, right, bottom = _cropped(transform, extent, pixels.shape)
    if right <= left or bottom <= top:
        out.fill(0)
        return
    shift = np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    matrix = np.linalg.inv(_CENTRE) @ transform.pixel_map(extent) @ shift @ _CENTRE
    cv2.warpAffine(pixels[top:bottom, left:right], matrix[:2], out.shape[1::-1], out, cv2.INTER_LINEAR)


def _cropped(
    transform: ImageTransform, extent: tuple[float, float], shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels that the crop keeps, with those that interpolation reaches: what is
    cropped away must not come back into the corners that rotation leaves black."""
    scale = [n / m for n, m in zip(extent, transform.resized, strict=True)]
    left, top = (math.floor(transform.crop[i] * scale[i]) for i in (0, 1))
    right, bottom = (math.ceil(transform.crop[2 + i] * scale[i]) for i in (0, 1))
    return max(left, 0), max(top, 0), min(right, shape[1]), min(bottom, shape[0])
