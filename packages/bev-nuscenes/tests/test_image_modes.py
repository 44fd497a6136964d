"""Images exact, fast and raw: what they are, how far they are from each other, and what a batch makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bev_nuscenes import (
    Batch,
    DataError,
    ImageAugmentation,
    ImageTransform,
    NuscenesDataset,
    build_index,
    collate,
    normalize_image,
    normalize_images,
)
from bev_nuscenes.fast_images import decode_reduced, warp_image
from bev_nuscenes.image_augmentation import _normalize_on_device, reduction

INPUT = (32, 96)
IMAGE = ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True)


def dataset(index, images: str, split: str = "mini_train", **options) -> NuscenesDataset:
    return NuscenesDataset(
        index, split, **({"input_size": INPUT, "image_augmentation": IMAGE} | options), images=images
    )


def pixels(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# -- normalising ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["cpu", "as on a device"])
def test_normalising_on_the_device_equals_the_exact_path_bit_for_bit(where):
    raw = pixels((2, 3, 16, 48, 3))
    raw.reshape(-1, 3)[:256] = np.arange(256, dtype=np.uint8)[:, None]  # every level in every channel
    expected = np.stack([[normalize_image(i, np.empty((3, 16, 48), np.float32)) for i in row] for row in raw])
    images = torch.from_numpy(raw)
    found = normalize_images(images) if where == "cpu" else _normalize_on_device(images, torch.empty(2, 3, 3, 16, 48))
    assert torch.equal(found, torch.from_numpy(expected))


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 8, 8, 3), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(8, 3, dtype=torch.uint8)],
)
def test_normalising_refuses_what_are_no_images(images):
    with pytest.raises(ValueError, match=r"RGB images \(..., H, W, 3\) uint8 with an axis"):
        normalize_images(images)


# -- decoding and warping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "at_least", "factor"),
    [
        ((1600, 900), (704, 396), 2),
        ((1600, 900), (800, 450), 2),
        ((1600, 900), (801, 450), 1),
        ((1600, 900), (352, 198), 4),
        ((1600, 900), (90, 50), 8),
        ((1600, 900), (3000, 1700), 1),
        ((161, 91), (41, 23), 4),  # reduced sizes are rounded up
    ],
)
def test_a_reduced_image_is_as_small_as_it_can_be(size, at_least, factor):
    assert reduction(size, at_least) == factor


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_decoding_at_a_reduced_scale_averages_pixels(tmp_path, factor):
    smooth = Image.fromarray(pixels((6, 10, 3))).resize((161, 91), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.jpg", quality=98, subsampling=0)
    found = decode_reduced((tmp_path / "a.jpg").read_bytes(), factor)
    assert found.shape == (-(-91 // factor), -(-161 // factor), 3)
    whole = np.pad(np.asarray(smooth).astype(float), ((0, -91 % factor), (0, -161 % factor), (0, 0)), mode="edge")
    blocks = whole.reshape(found.shape[0], factor, found.shape[1], factor, 3).mean((1, 3))
    assert np.abs(found - blocks).mean() < 1


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize(
    "transform",
    [
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84)),
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84), flip=True),
        ImageTransform(0.4, (128, 80), (-12, 35, 116, 99)),  # black on the left and below
        ImageTransform(0.48, (153, 96), (3, 20, 131, 84), flip=True, rotate_deg=-8.0),
        ImageTransform(0.5, (160, 100), (10, 20, 138, 84), rotate_deg=20.0),
        ImageTransform(0.5, (160, 100), (200, 20, 328, 84)),  # nothing of the image is left
    ],
)
def test_one_warp_does_what_all_the_steps_do(transform, factor):
    raw = Image.fromarray(pixels((5, 8, 3))).resize((320, 200), Image.Resampling.BICUBIC)
    small = np.asarray(raw.resize((320 // factor, 200 // factor), Image.Resampling.BOX))
    found = np.empty((64, 128, 3), np.uint8)
    warp_image(small, factor, raw.size, transform, found)
    expected = np.asarray(transform.apply(raw)).astype(int)
    difference = np.abs(found - expected)
    # Nearest-neighbour rotation is up to half a pixel off, and black begins a pixel earlier or later.
    assert difference.mean() < (4 if transform.rotate_deg else 1)
    assert np.abs((found.sum(-1) == 0).mean() - (expected.sum(-1) == 0).mean()) < 0.02


# -- samples --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_fast_images_differ_a_little_and_nothing_else_does(tiny_index, training):
    exact, fast = (dataset(tiny_index, images, training=training)[0] for images in ("exact", "fast"))
    assert fast.images.shape == (1, 6, *INPUT, 3) and fast.images.dtype == torch.uint8
    difference = (exact.images - normalize_images(fast.images)).abs()
    assert 0 < difference.mean() < 0.3
    assert all(torch.equal(exact.cameras[name], fast.cameras[name]) for name in exact.cameras)


@pytest.mark.parametrize(("size", "mean", "most"), [((256, 704), 1.0, 40), ((512, 1408), 0.5, 20)])
def test_fast_images_of_real_frames_are_within_a_level(real_index, size, mean, most):
    exact, fast = (
        NuscenesDataset(real_index, "mini_train", input_size=size, images=images)[0].images[0, 0]
        for images in ("exact", "fast")
    )
    levels = (exact - normalize_images(fast[None])[0]).abs() * 58  # the deviations are about that
    assert levels.mean() < mean and levels.max() < most


def test_raw_images_are_the_files(tiny_index):
    sample = dataset(tiny_index, "raw", frames=2)[1]
    assert sample.raw and sample.images.shape == (2, 6, 90, 160, 3) and sample.images.dtype == torch.uint8
    np.testing.assert_array_equal(sample.images[1, 2], np.asarray(Image.open(tiny_index.camera_path(0, 2))))
    assert torch.equal(sample.cameras["image_aug"], dataset(tiny_index, "exact", frames=2)[1].cameras["image_aug"])


def test_raw_images_need_one_size(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    index.cameras.sizes[0, 3] = 80, 45
    with pytest.raises(DataError, match=r"camera images of several sizes \(80x45, 160x90\)"):
        dataset(index, "raw")[0]


@pytest.mark.parametrize("images", ["exact", "fast", "raw"])
def test_a_batch_arrives_normalised_unless_it_is_raw(tiny_index, images):
    batch = collate([dataset(tiny_index, images)[k] for k in (0, 1)])
    moved = batch.to("cpu")
    assert isinstance(moved, Batch) and moved.raw == (images == "raw")
    if images == "fast":
        assert torch.equal(moved.images, normalize_images(batch.images))
        assert torch.equal(moved.to("cpu").images, moved.images)
    else:
        assert torch.equal(moved.images, batch.images)
    assert batch.to("meta").images.shape == moved.images.shape


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing; is that part of the data set unpacked"),
        (lambda path: path.write_text("no image"), "is not a JPEG file"),
        (lambda path: path.write_bytes(b""), "is not a JPEG file"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "is truncated or damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is truncated or damaged"),
        (lambda path: Image.new("RGB", (80, 45)).save(path), "has 80x45 pixels but its calibration is for 160x90"),
    ],
    ids=["missing", "text", "empty", "truncated", "a little truncated", "resized"],
)
def test_a_bad_image_is_named(own_root, damage, message):
    index = build_index(own_root, "v1.0-mini", progress=False)
    path = index.camera_path(0, 2)
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        dataset(index, "fast")[0]
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_grey_image_becomes_rgb(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    Image.new("L", (160, 90), 77).save(index.camera_path(0, 0))
    assert (dataset(index, "fast")[0].images[0, 0] == 77).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "raw", "training": True}, "raw images are not augmented"),
        ({"images": "quick"}, "images is one of exact, fast, raw .* got 'quick'"),
        ({"images": "fast", "on_error": "skip"}, "evaluation needs every sample"),
    ],
)
def test_wrong_arguments(tiny_index, options, message):
    with pytest.raises(ValueError, match=message):
        dataset(tiny_index, **options)
