"""Pre-processing in the graph against PIL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bev_deploy.preprocess import ImagePreprocessing, resampling_matrix
from bev_nuscenes import ImageAugmentation, normalize_image

RAW = (320, 180)  # width, height


def photograph() -> np.ndarray:
    """Smooth and sharp parts, all levels."""
    v, u = np.mgrid[: RAW[1], : RAW[0]]
    image = np.stack([u * 255 / RAW[0], v * 255 / RAW[1], (u // 7 + v // 5) % 2 * 255], axis=-1)
    return (image + np.random.default_rng(0).normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("input_size", [(64, 176), (32, 320), (96, 192)])
def test_equal_to_pil_within_one_level(input_size: tuple[int, int]) -> None:
    augmentation = ImageAugmentation(resize_test=0.02)
    transform = augmentation.fixed(RAW, input_size)
    raw = photograph()
    wanted = normalize_image(transform.apply(Image.fromarray(raw)), np.empty((3, *input_size), np.float32))
    module = ImagePreprocessing(RAW, input_size, augmentation)
    got = module(torch.from_numpy(raw)[None, None])[0, 0].numpy()
    level = 1 / 57.0
    assert np.abs(got - wanted).max() < 1.1 * level
    assert (np.abs(got - wanted) > 0.5 * level).mean() < 0.02
    np.testing.assert_array_equal(module.homography, transform.homography())


@pytest.mark.parametrize(("count", "wanted"), [(9, 4), (4, 9), (5, 5)])
def test_resampling_keeps_constants(count: int, wanted: int) -> None:
    torch.testing.assert_close(resampling_matrix(count, wanted).sum(1), torch.ones(wanted))


def test_an_image_that_does_not_cover_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="do not cover the network input"):
        ImagePreprocessing((320, 60), (64, 176), ImageAugmentation())
