"""The data set: samples, history, determinism, batches, LiDAR depth, and files that are not what they should be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from bev_nuscenes import (
    CLASSES,
    BevAugmentation,
    DataError,
    Draw,
    ImageAugmentation,
    NuscenesDataset,
    build_index,
    collate,
    lidar_depth_maps,
)

INPUT = (32, 96)
IMAGE = ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True)
BEV = BevAugmentation(rotate_deg=(-22.5, 22.5), scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5)


def training_set(index, **options) -> NuscenesDataset:
    defaults = {"input_size": INPUT, "image_augmentation": IMAGE, "bev_augmentation": BEV, "training": True}
    return NuscenesDataset(index, "mini_train", **(defaults | options))


def assert_same(one, other) -> None:
    assert one.token == other.token
    torch.testing.assert_close(
        [one.images, one.boxes, one.labels, *one.cameras.values()],
        [other.images, other.boxes, other.labels, *other.cameras.values()],
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("size", [(256, 704), (512, 1408)])
@pytest.mark.parametrize(("frame", "split"), [(0, "mini_train"), (1, "mini_val")])
def test_a_real_sample_equals_the_published_one(real_index, reference, frame, split, size):
    pipeline, key = np.load(reference / "data_pipeline.npz"), f"test/{frame}/{size[0]}x{size[1]}"
    sample = NuscenesDataset(real_index, split, input_size=size, with_depth=True)[0]
    images = sample.images.numpy().ravel()
    np.testing.assert_array_equal(images[pipeline[f"{key}/image.index"]], pipeline[f"{key}/image.value"])
    np.testing.assert_array_equal(sample.cameras["image_aug"][0, :, :2, :2], pipeline[f"{key}/post_rot"][:, :2, :2])
    np.testing.assert_array_equal(sample.cameras["image_aug"][0, :, :2, 2], pipeline[f"{key}/post_tran"][:, :2])
    # The published projection runs in float32 with global coordinates of a kilometre: about 0.1 mm at the point, enough
    # to move a few points per image to the neighbouring pixel.
    depth = sample.depth.double()
    assert np.abs((depth > 0).sum((1, 2)).numpy() - pipeline[f"{key}/depth.count"]).max() <= 2
    np.testing.assert_allclose(depth.sum((1, 2)), pipeline[f"{key}/depth.sum"], rtol=2e-4)
    difference = np.abs(depth.numpy().ravel()[pipeline[f"{key}/depth.index"]] - pipeline[f"{key}/depth.value"])
    assert (difference < 1e-3).mean() > 0.985


def test_shapes_and_frames_of_a_sample(tiny_index):
    sample = training_set(tiny_index, frames=3, with_depth=True)[2]
    assert sample.images.shape == (3, 6, 3, *INPUT)
    assert sample.depth.shape == (6, *INPUT)
    assert {name: tuple(tensor.shape) for name, tensor in sample.cameras.items()} == {
        "intrinsics": (3, 6, 3, 3),
        "cam_to_ego": (3, 6, 4, 4),
        "ego_to_global": (3, 6, 4, 4),
        "image_aug": (3, 6, 3, 3),
        "bev_aug": (3, 3),
    }
    assert {tensor.dtype for tensor in sample.cameras.values()} == {torch.float32}
    poses = sample.cameras["ego_to_global"][:, 1, 0, 3]
    assert poses.tolist() == [4.0, 2.0, 0.0]  # newest first
    assert sample.labels.tolist() == [CLASSES.index(name) for name in ("car", "pedestrian", "barrier")]
    assert (sample.box_to_global.dtype, sample.box_to_global[0, 3].item()) == (torch.float64, 4.0)


def test_one_augmentation_per_camera_is_shared_by_its_frames(tiny_index):
    image_aug = training_set(tiny_index, frames=3)[2].cameras["image_aug"]
    assert (image_aug == image_aug[:1]).all()
    assert len(torch.unique(image_aug[0], dim=0)) == 6


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2, 1, 0, 0]),  # before the very first key frame of the split stands that one
        (0, [0, 0, 0, 0]),
        (3, [3, 3, 3, 3]),  # another scene before it: the key frame itself
        (4, [4, 3, 4, 4]),
    ],
)
def test_missing_history(tiny_index, index, expected):
    dataset = training_set(tiny_index, frames=4)
    assert dataset.history(index).tolist() == expected
    images = dataset[index].images
    for t, position in enumerate(expected):
        assert torch.equal(images[t], images[expected.index(position)])


def test_evaluation_is_fixed_and_keeps_all_boxes(tiny_index):
    options = {"training": False, "box_range": (-1.0, -1.0, 1.0, 1.0)}
    sample = training_set(tiny_index, **options)[0]
    assert_same(sample, training_set(tiny_index, **options, seed=5)[0])
    assert len(sample.boxes) == 3
    assert torch.equal(sample.cameras["bev_aug"], torch.eye(3))


def test_training_drops_boxes_whose_augmented_centre_is_out_of_range(tiny_index):
    dataset = training_set(tiny_index, box_range=(-100.0, -100.0, 0.0, 100.0))
    everything = training_set(tiny_index)[0].boxes
    kept = dataset[0].boxes
    assert kept[:, 0].tolist() == [x for x in everything[:, 0].tolist() if x < 0]
    assert (kept[:, 6].abs() <= math.pi).all()


def test_draws_depend_on_seed_epoch_index_and_repeat_only(tiny_index):
    dataset = training_set(tiny_index)
    first = dataset[1]
    dataset[0]
    assert_same(dataset[1], first)
    assert_same(training_set(tiny_index)[Draw(1, 0, 0)], first)
    dataset.set_epoch(3)
    assert_same(dataset[1], dataset[Draw(1, epoch=3)])
    others = [dataset[1], dataset[Draw(1, 0, 1)], training_set(tiny_index, seed=1)[1]]
    for other in others:
        assert not torch.equal(other.cameras["image_aug"], first.cameras["image_aug"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_and_see_the_epoch(tiny_index, tmp_path, workers):
    tiny_index.save(tmp_path / "index.npz")
    index = type(tiny_index).load(tmp_path / "index.npz")
    dataset = training_set(index)
    loader = DataLoader(
        dataset, batch_size=2, num_workers=workers, collate_fn=collate, persistent_workers=True, in_order=True
    )
    for epoch in range(2):
        dataset.set_epoch(epoch)
        samples = [dataset[i] for i in range(len(dataset))]
        batches = list(loader)
        assert [token for batch in batches for token in batch.tokens] == [sample.token for sample in samples]
        torch.testing.assert_close(
            torch.cat([batch.images for batch in batches]), torch.stack([s.images for s in samples]), rtol=0, atol=0
        )
        torch.testing.assert_close(
            torch.cat([batch.cameras["bev_aug"] for batch in batches]),
            torch.stack([sample.cameras["bev_aug"] for sample in samples]),
            rtol=0,
            atol=0,
        )


def test_a_batch_stacks_what_stacks_and_moves_as_a_whole(tiny_index):
    dataset = training_set(tiny_index, with_depth=True)
    batch = collate([dataset[3], dataset[4]])
    assert (len(batch), batch.tokens) == (2, ["scene-0553-0", "scene-0553-1"])
    assert batch.images.shape == (2, 1, 6, 3, *INPUT)
    assert batch.cameras["bev_aug"].shape == (2, 3, 3)
    assert [len(boxes) for boxes in batch.boxes] == [3, 0]  # the second key frame has no annotations
    assert [boxes.shape[1] for boxes in batch.boxes] == [9, 9]
    assert batch.box_to_global.shape == (2, 4, 4)
    moved = batch.to("meta")
    model_side = [moved.images, moved.depth, *moved.cameras.values(), *moved.boxes, *moved.labels]
    assert {tensor.device.type for tensor in model_side} == {"meta"}
    assert moved.box_to_global.device.type == "cpu"


def test_lidar_is_read_only_when_depth_is_wanted(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    index.lidar_path(0).unlink()
    assert training_set(index)[0].depth is None
    with pytest.raises(DataError, match=r"LiDAR file .*scene-0061-0.pcd.bin is missing"):
        training_set(index, with_depth=True)[0]


def test_depth_maps_equal_a_loop_over_points():
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (3000, 3)).astype(np.float32)
    lidar_to_global, cam_to_global = np.eye(4), np.stack([np.eye(4), np.eye(4)])
    cam_to_global[1, :3, 3] = 1.0, 2.0, -3.0
    lidar_to_global[:3, 3] = 0.5, 0.0, 0.25
    intrinsics = np.array([[[20.0, 0, 16], [0, 20, 8], [0, 0, 1]]] * 2)
    image_aug = np.array([np.eye(3), [[-0.5, 0.1, 20], [0, 0.5, 1], [0, 0, 1]]])
    expected = np.zeros((2, 16, 32))
    for n in range(2):
        for x, y, z in points + lidar_to_global[:3, 3] - cam_to_global[n, :3, 3]:
            if not 1 <= z < 15:
                continue
            u, v, _ = image_aug[n] @ ((intrinsics[n] @ (x, y, z)) / z)
            u, v = round(u), round(v)
            if 0 <= u < 32 and 0 <= v < 16 and (expected[n, v, u] == 0 or z < expected[n, v, u]):
                expected[n, v, u] = z
    found = lidar_depth_maps(points, lidar_to_global, cam_to_global, intrinsics, image_aug, (16, 32), (1.0, 15.0))
    assert (expected > 0).sum() > 200
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_depth_maps_of_no_points_are_empty():
    maps = lidar_depth_maps(np.zeros((0, 3)), np.eye(4), np.eye(4)[None], np.eye(3)[None], np.eye(3)[None], (4, 5))
    assert torch.equal(maps, torch.zeros(1, 4, 5))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing; is that part of the data set unpacked"),
        (lambda path: path.write_text("no image"), "is not a JPEG file"),
        (lambda path: path.write_bytes(b""), "is not a JPEG file"),
        (lambda path: Image.new("RGB", (160, 90)).save(path, "GIF"), "is not a JPEG file, nor a PNG"),
        (lambda path: path.write_bytes(path.read_bytes()[:700]), "is truncated or damaged"),
        (lambda path: Image.new("RGB", (80, 45)).save(path), "has 80x45 pixels but its calibration is for 160x90"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
    ],
    ids=["missing", "text", "empty", "gif", "truncated", "resized", "folder"],
)
def test_a_bad_image_is_named(own_root, damage, message):
    index = build_index(own_root, "v1.0-mini", progress=False)
    path = index.camera_path(0, 2)
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        training_set(index)[0]
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_grey_image_becomes_rgb(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    Image.new("L", (160, 90), 77).save(index.camera_path(0, 0))
    assert training_set(index)[0].images.shape[2] == 3


def test_a_truncated_lidar_file_is_named(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    path = index.lidar_path(0)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"LiDAR file .* is truncated \(9997 bytes"):
        training_set(index, with_depth=True)[0]


def test_wrong_arguments(tiny_index):
    with pytest.raises(DataError, match="has no split 'train'"):
        NuscenesDataset(tiny_index, "train", input_size=INPUT)
    with pytest.raises(ValueError, match="frames >= 1"):
        training_set(tiny_index, frames=0)
    with pytest.raises(IndexError, match="has 5 samples, there is none at 5"):
        training_set(tiny_index)[5]


def test_samples_name_the_fields_of_a_camera_rig(tiny_index):
    lss = pytest.importorskip("bev_lss", reason="bev-lss is not installed beside this package")
    fields = {field.name for field in dataclasses.fields(lss.CameraRig)}
    assert set(training_set(tiny_index)[0].cameras) == fields
