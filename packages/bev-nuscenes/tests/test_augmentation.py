"""Image and BEV augmentation: agreement with the published pipeline, and what the matrices promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bev_nuscenes import (
    PIXEL_MEAN,
    PIXEL_STD,
    BevAugmentation,
    BevTransform,
    ImageAugmentation,
    ImageTransform,
    boxes_in_range,
    normalize_image,
    wrap_yaw,
)
from bev_nuscenes.files import read_image

TRAINING = ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True, crop_h=(0.0, 0.1))


@pytest.fixture(scope="session")
def pipeline(reference):
    return np.load(reference / "data_pipeline.npz")


@pytest.mark.parametrize("frame", [0, 1])
def test_training_images_equal_the_published_ones_bit_for_bit(pipeline, real_index, frame):
    key = f"train/{frame}"
    images = np.empty((6, 3, 256, 704), dtype=np.float32)
    for camera, parameters in enumerate(pipeline[f"{key}/params"]):
        scale, width, height, *crop, flip, rotate_deg = parameters.tolist()
        transform = ImageTransform(
            scale, (int(width), int(height)), tuple(int(edge) for edge in crop), bool(flip), rotate_deg
        )
        raw = read_image(real_index.camera_path(frame, camera), (1600, 900))
        normalize_image(transform.apply(raw), images[camera])
        homography = transform.homography()
        np.testing.assert_allclose(homography[:2, :2], pipeline[f"{key}/post_rot"][camera], atol=1e-6)
        np.testing.assert_allclose(homography[:2, 2], pipeline[f"{key}/post_tran"][camera], atol=1e-4)
    np.testing.assert_array_equal(images.ravel()[pipeline[f"{key}/image.index"]], pipeline[f"{key}/image.value"])
    assert images.mean(dtype=np.float64) == pytest.approx(pipeline[f"{key}/image.mean_std"][0], abs=1e-9)


def test_normalisation_swaps_channels_and_keeps_the_rgb_figures():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    found = normalize_image(image, np.empty((3, 5, 7), dtype=np.float32))
    expected = (np.asarray(image)[..., ::-1] - np.array(PIXEL_MEAN)) / np.array(PIXEL_STD)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)


def test_normalisation_refuses_another_size():
    with pytest.raises(ValueError, match="RGB image of 7x5 is needed, got RGB"):
        normalize_image(Image.new("RGB", (5, 7)), np.empty((3, 5, 7), dtype=np.float32))


@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84)),
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84), flip=True),
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84), rotate_deg=20.0),
        ImageTransform(0.8, (256, 160), (-12, 35, 116, 99), flip=True, rotate_deg=-8.0),
    ],
)
def test_the_homography_finds_a_spot_where_the_image_has_it(transform):
    raw = np.zeros((200, 320, 3), dtype=np.uint8)
    raw[96:104, 116:124] = 255
    spot = np.asarray(transform.apply(Image.fromarray(raw)))[..., 0].astype(float)
    rows, columns = np.mgrid[: spot.shape[0], : spot.shape[1]]
    centre = np.array([(columns * spot).sum(), (rows * spot).sum()]) / spot.sum()
    expected = transform.homography() @ (120, 100, 1)
    np.testing.assert_allclose(centre, expected[:2], atol=1.0)  # within the half pixel of either convention


def test_training_draws_follow_the_published_order():
    drawn = TRAINING.sample((1600, 900), (256, 704), np.random.default_rng(3))
    rng = np.random.default_rng(3)
    scale = 704 / 1600 + rng.uniform(-0.06, 0.11)
    width, height = int(1600 * scale), int(900 * scale)
    top = int((1 - rng.uniform(0.0, 0.1)) * height) - 256
    left = int(rng.uniform(0, max(0, width - 704)))
    flip, rotate_deg = bool(rng.integers(2)), rng.uniform(-5.4, 5.4)
    assert drawn == ImageTransform(scale, (width, height), (left, top, left + 704, top + 256), flip, rotate_deg)


def test_evaluation_crops_the_middle_and_the_bottom():
    fixed = ImageAugmentation(crop_h=(0.0, 0.2), resize_test=0.04).fixed((1600, 900), (256, 704))
    assert fixed.resized == (768, 432)
    assert fixed.crop == (32, 132, 736, 388)  # 10 % of 432 rows are left out below
    assert not fixed.flip and fixed.rotate_deg == 0


@pytest.mark.parametrize("case", range(4))
def test_bev_augmentation_equals_the_published_one(pipeline, case):
    rotate_deg, scale, flip_x, flip_y = pipeline[f"bda/{case}/params"]
    transform = BevTransform(rotate_deg, scale, bool(flip_x), bool(flip_y))
    np.testing.assert_allclose(transform.matrix(), pipeline[f"bda/{case}/matrix"], atol=1e-6)
    boxes = transform.apply(torch.from_numpy(pipeline["gt/boxes"]))
    np.testing.assert_allclose(boxes, pipeline[f"bda/{case}/boxes"], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
def test_a_transformed_box_points_where_its_nose_went(flip_x, flip_y):
    transform = BevTransform(33.0, 1.1, flip_x, flip_y)
    box = torch.tensor([[4.0, -2.0, 1.0, 5.0, 2.0, 1.5, 0.7, 3.0, 1.0]], dtype=torch.float64)
    nose = box[0, :3] + 2.5 * torch.tensor([np.cos(0.7), np.sin(0.7), 0.0])
    moved = transform.apply(box)[0]
    moved_nose = moved[:3] + moved[3] / 2 * torch.tensor([torch.cos(moved[6]), torch.sin(moved[6]), 0.0])
    torch.testing.assert_close(moved_nose, torch.from_numpy(transform.matrix()) @ nose)


def test_bev_draws_stay_in_their_ranges_and_mirror_half_of_the_time():
    augmentation = BevAugmentation(rotate_deg=(-22.5, 22.5), scale=(0.95, 1.05), flip_x=0.5, flip_y=0.0)
    rng = np.random.default_rng(0)
    drawn = [augmentation.sample(rng) for _ in range(400)]
    assert all(abs(one.rotate_deg) <= 22.5 and 0.95 <= one.scale <= 1.05 and not one.flip_y for one in drawn)
    assert 150 < sum(one.flip_x for one in drawn) < 250


def test_range_filter_is_strict_and_yaw_wraps_into_half_open_interval():
    boxes = torch.zeros(4, 9)
    boxes[:, 0] = torch.tensor([-51.2, -51.1, 51.1, 51.2])
    assert boxes_in_range(boxes, (-51.2, -51.2, 51.2, 51.2)).tolist() == [False, True, True, False]
    boxes[:, 6] = torch.tensor([0.5, 4.0, -4.0, 7.0])
    wrapped = wrap_yaw(boxes)[:, 6]
    torch.testing.assert_close(wrapped, torch.tensor([0.5, 4.0 - 2 * np.pi, 2 * np.pi - 4.0, 7.0 - 2 * np.pi]))
