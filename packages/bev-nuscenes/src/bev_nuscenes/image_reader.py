"""The images of a sample: read, decoded and transformed in one of three ways.

Legend: T frames (newest first), N cameras, H and W the network-input size, H' and W' the size of camera images.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import DataError
from .files import read_image, read_reduced
from .image_augmentation import ImageTransform, normalize_image, reduction
from .image_cache import ImageCache
from .index import NuscenesIndex
from .remote import DataPath

__all__ = ["ImageMode", "ImageReader"]

ImageMode = Literal["exact", "fast", "raw"]

_FACTORS = 4  # 1, 2, 4, 8: by which an image may be reduced
_WORKERS = 16  # of a loader that reads in order; with more, some images are made twice


class ImageReader:
    """Reads images of an index.

    Args:
        index: where they are.
        mode: "exact" (PIL, as published; float32), "fast" (reduced decoding and one warp; uint8) or "raw" (as the
            cameras gave them; uint8).
        input_size: (H, W) of the network input.
        frames: T of a sample.
        fixed: transforms are those of evaluation: the cache keeps transformed images; else decoded ones.
        cache_bytes: bytes of images to remember. None: enough for each image to be made once if the samples are read in
            order, where an image belongs to several.

    Attributes:
        cache: what remembers images, if anything does.
    """

    def __init__(
        self,
        index: NuscenesIndex,
        mode: ImageMode,
        input_size: tuple[int, int],
        *,
        frames: int,
        fixed: bool,
        cache_bytes: int | None,
    ) -> None:
        self.index, self.mode, self.input_size = index, mode, input_size
        sizes = index.cameras.sizes
        # A frame of the history is transformed as its key frame is: that is always the same if all sizes are.
        self.fixed = fixed and bool((sizes == sizes[:1]).all())
        if cache_bytes is None:
            cache_bytes = self._bytes_in_order(frames) if self.fixed and frames > 1 else 0
        self.cache = ImageCache(cache_bytes, index.cameras.files.size * _FACTORS) if cache_bytes else None

    def read(self, history: np.ndarray, transforms: list[ImageTransform]) -> Tensor:
        """Images of some frames; a frame that occurs several times is read once.

        Args:
            history: (T,) positions in the index.
            transforms: of every camera.

        Returns:
            (T, N, 3, H, W) float32 normalised if exact, (T, N, H, W, 3) uint8 RGB if fast, (T, N, H', W', 3) uint8 RGB
            if raw.

        Raises:
            DataError: a file that is missing or damaged, or raw images of several sizes.
        """
        images = self._room(history, len(transforms))
        for t, position in enumerate(history):
            first = int(np.flatnonzero(history == position)[0])
            if first < t:
                images[t] = images[first]
                continue
            for n, transform in enumerate(transforms):
                self._read_one(int(position), n, transform, images[t, n].numpy())
        return images

    def _bytes_in_order(self, frames: int) -> int:
        """The frames of a sample, and what the workers are ahead of each other, twice."""
        width, height = self.index.cameras.sizes[0, 0].tolist() if self.mode == "raw" else self.input_size
        return 2 * (frames + _WORKERS) * self.index.cameras.files.shape[1] * 3 * width * height

    def _room(self, history: np.ndarray, cameras: int) -> Tensor:
        if self.mode == "exact":
            return torch.empty(len(history), cameras, 3, *self.input_size)
        height, width = self.input_size if self.mode == "fast" else self._raw_size(history)
        return torch.empty(len(history), cameras, height, width, 3, dtype=torch.uint8)

    def _raw_size(self, history: np.ndarray) -> tuple[int, int]:
        sizes = {(int(height), int(width)) for width, height in self.index.cameras.sizes[history].reshape(-1, 2)}
        if len(sizes) > 1:
            token, found = self.index.token(history[0]), ", ".join(f"{w}x{h}" for h, w in sorted(sizes))
            raise DataError(f"sample {token} has camera images of several sizes ({found}): raw images need one size")
        return sizes.pop()

    def _read_one(self, position: int, n: int, transform: ImageTransform, out: np.ndarray) -> None:
        """Write one image into ``out``, through the cache."""
        width, height = self.index.cameras.sizes[position, n].tolist()
        factor = reduction((width, height), transform.resized) if self.mode == "fast" else 1
        wanted = _Wanted(self.index.camera_path(position, n), (width, height), factor, transform)
        if self.cache is None:
            self._transform(self._decode(wanted), wanted, out)
            return
        key = (position * self.index.cameras.files.shape[1] + n) * _FACTORS + factor.bit_length() - 1
        if self.fixed:
            self.cache.use(key, lambda: self._prepared(wanted), lambda pixels: self._finish(pixels, out))
        else:
            self.cache.use(
                key,
                lambda: np.asarray(self._decode(wanted)),
                lambda pixels: self._transform(pixels, wanted, out),
            )

    def _decode(self, wanted: _Wanted) -> Image.Image | np.ndarray:
        if self.mode == "fast":
            return read_reduced(wanted.path, wanted.size, wanted.factor)
        return read_image(wanted.path, wanted.size)

    def _transform(self, image: Image.Image | np.ndarray, wanted: _Wanted, out: np.ndarray) -> None:
        """Write a decoded image into ``out`` as the network or the graph takes it."""
        if self.mode == "fast":
            from .fast_images import warp_image  # here, so that exact images need no OpenCV

            warp_image(image, wanted.factor, wanted.size, wanted.transform, out)
        elif self.mode == "exact":
            whole = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            self._finish(np.asarray(wanted.transform.apply(whole)), out)
        else:
            self._finish(np.asarray(image), out)

    def _prepared(self, wanted: _Wanted) -> np.ndarray:
        """Pixels (H, W, 3) uint8 of the network input, or those of a raw image."""
        image = self._decode(wanted)
        if self.mode == "exact":
            return np.asarray(wanted.transform.apply(image))
        if self.mode == "raw":
            return np.asarray(image)
        pixels = np.empty((*self.input_size, 3), dtype=np.uint8)
        self._transform(image, wanted, pixels)
        return pixels

    def _finish(self, pixels: np.ndarray, out: np.ndarray) -> None:
        if self.mode == "exact":
            normalize_image(pixels, out)
        else:
            out[:] = pixels


class _Wanted(NamedTuple):
    """One image, and what is to become of it."""

    path: DataPath
    size: tuple[int, int]  # (width, height)
    factor: int  # it is decoded at 1/factor of its size
    transform: ImageTransform
