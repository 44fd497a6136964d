"""Occupancy: ground truth files, samples that are mirrored, predictions, mIoU."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_nuscenes import (
    FREE,
    OCCUPANCY_CELL,
    OCCUPANCY_CLASSES,
    OCCUPANCY_LOWER,
    OCCUPANCY_SHAPE,
    BevAugmentation,
    DataError,
    DataOptions,
    NuscenesDataset,
    NuscenesIndex,
    OccupancyCounts,
    OccupancyMetrics,
    build_index,
    collate,
    evaluate_occupancy,
    read_occupancy,
    read_prediction,
    write_prediction,
)

INPUT = (16, 32)
HIDDEN = np.zeros(OCCUPANCY_SHAPE, dtype=bool)
VISIBLE = ~HIDDEN


def dataset(index: NuscenesIndex, **options) -> NuscenesDataset:
    return NuscenesDataset(index, "mini_train", **({"input_size": INPUT, "with_occupancy": True} | options))


def cell_centres() -> np.ndarray:
    """(X, Y, Z, 3) metres."""
    return OCCUPANCY_LOWER + OCCUPANCY_CELL * (np.moveaxis(np.indices(OCCUPANCY_SHAPE), 0, -1) + 0.5)


def damage(change):
    """Apply a change to the arrays of a labels.npz."""

    def apply(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        np.savez(path, **arrays)

    return apply


def _label(value, dtype=np.uint8):
    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["semantics"] = arrays["semantics"].astype(dtype)
        arrays["semantics"][3, :2, 0] = value

    return damage(change)


# -- ground truth ------------------------------------------------------------------------------------------------------


def test_classes_are_the_published_ones(reference):
    published = json.loads((reference / "occupancy_miou.json").read_text())["result"]
    assert [*OCCUPANCY_CLASSES[:FREE], "mIoU"] == list(published)
    assert (OCCUPANCY_CLASSES[FREE], FREE) == ("free", 17)


def test_ground_truth_lies_at_scene_and_token(tiny_index, tiny_root):
    path = tiny_index.occupancy_path(4)
    assert path == tiny_root / "gts" / "scene-0553" / "scene-0553-1" / "labels.npz"
    truth = read_occupancy(path)
    assert [(array.shape, array.dtype) for array in truth] == [
        (OCCUPANCY_SHAPE, np.uint8),
        (OCCUPANCY_SHAPE, bool),
        (OCCUPANCY_SHAPE, bool),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "is missing; download the folder gts of Occ3D-nuScenes .* into the data root"),
        (lambda path: path.write_text("no zip"), "is not an .npz file or is damaged"),
        (lambda path: path.write_bytes(b""), "is not an .npz file or is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-300]), "is not an .npz file or is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:100] + b"x" * 100 + path.read_bytes()[200:]), "is damaged"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "is not an .npz file or is damaged"),
        (damage(lambda arrays: arrays.pop("mask_camera")), "lacks mask_camera; fetch it again"),
        (damage(lambda a: a.update(semantics=a["semantics"][:-1])), r"needs integers .* got uint8 \(199, 200, 16\)"),
        (damage(lambda a: a.update(mask_lidar=a["mask_lidar"][0])), r"has a mask of \(200, 16\), wanted \(200,"),
        (damage(lambda a: a.update(semantics=a["semantics"] * 1.0)), r"needs integers .* got float64"),
        (_label(18), r"has unknown labels 18 \(2x\); labels are 0 to 17"),
        (_label([18, 255]), r"has unknown labels 18 \(1x\), 255 \(1x\)"),
        (_label(-1, np.int16), r"has unknown labels -1 \(2x\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_ground_truth_is_named(own_root, damage, message):
    index = build_index(own_root, "v1.0-mini", progress=False)
    path = index.occupancy_path(0)
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        dataset(index)[0]
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# -- samples -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip_x", [0.0, 1.0])
@pytest.mark.parametrize("flip_y", [0.0, 1.0])
def test_a_mirrored_sample_holds_what_bev_aug_brings_there(tiny_index, flip_x, flip_y):
    """Every cell of the sample shows the label of the cell that bev_aug maps onto it."""
    augmentation = BevAugmentation(flip_x=flip_x, flip_y=flip_y)
    sample = dataset(tiny_index, training=True, bev_augmentation=augmentation)[1]
    truth = read_occupancy(tiny_index.occupancy_path(1))
    moved = cell_centres() @ sample.cameras["bev_aug"].double().numpy().T
    cells = tuple(np.floor((moved - OCCUPANCY_LOWER) / OCCUPANCY_CELL).astype(int).reshape(-1, 3).T)
    np.testing.assert_array_equal(sample.semantics.numpy()[cells], truth.semantics.ravel())
    np.testing.assert_array_equal(sample.mask_camera.numpy()[cells], truth.mask_camera.ravel())
    assert np.array_equal(sample.semantics, truth.semantics) == (flip_x == flip_y == 0)


def test_training_draws_every_mirroring_and_evaluation_none(tiny_index):
    augmentation = BevAugmentation(flip_x=0.5, flip_y=0.5)
    training = dataset(tiny_index, training=True, bev_augmentation=augmentation)
    drawn = set()
    for epoch in range(12):
        training.set_epoch(epoch)
        drawn.add(tuple(training[0].cameras["bev_aug"].diagonal().tolist()))
    assert len(drawn) == 4
    fixed = dataset(tiny_index, bev_augmentation=augmentation)[0]
    np.testing.assert_array_equal(fixed.semantics, read_occupancy(tiny_index.occupancy_path(0)).semantics)


@pytest.mark.parametrize("wrong", [{"rotate_deg": (-22.5, 22.5)}, {"scale": (0.95, 1.05)}, {"scale": (1.1, 1.1)}])
def test_occupancy_cannot_be_rotated_or_scaled(tiny_index, wrong):
    with pytest.raises(ValueError, match="occupancy can be mirrored only, got rotate_deg"):
        dataset(tiny_index, training=True, bev_augmentation=BevAugmentation(**wrong, flip_x=0.5))
    assert dataset(tiny_index, bev_augmentation=BevAugmentation(**wrong))[0].semantics is not None  # not applied there
    assert dataset(tiny_index, training=True, with_occupancy=False, bev_augmentation=BevAugmentation(**wrong))[0]


def test_occupancy_is_read_only_when_wanted(own_root):
    index = build_index(own_root, "v1.0-mini", progress=False)
    index.occupancy_path(0).unlink()
    batch = collate([dataset(index, with_occupancy=False)[0]])
    assert (batch.semantics, batch.mask_camera) == (None, None)


def test_a_batch_carries_occupancy_times_and_scenes(tiny_index):
    samples = [dataset(tiny_index)[i] for i in (2, 3)]
    batch = collate(samples)
    assert (batch.semantics.shape, batch.semantics.dtype) == ((2, *OCCUPANCY_SHAPE), torch.uint8)
    assert (batch.mask_camera.shape, batch.mask_camera.dtype) == ((2, *OCCUPANCY_SHAPE), torch.bool)
    assert torch.equal(batch.semantics[1], samples[1].semantics)
    assert batch.scenes == ["scene-0061", "scene-0553"]
    assert batch.timestamps == pytest.approx([1_500_000_001.0, 1_500_000_060.0], rel=0, abs=1e-6)
    moved = batch.to("meta")
    assert {moved.semantics.device.type, moved.mask_camera.device.type} == {"meta"}
    assert (moved.timestamps, moved.scenes) == (batch.timestamps, batch.scenes)


# -- mIoU --------------------------------------------------------------------------------------------------------------


def test_miou_equals_the_published_one(reference):
    published = json.loads((reference / "occupancy_miou.json").read_text())["result"]
    rng, counts = np.random.default_rng(17), OccupancyCounts()
    for _ in range(3):
        truth = rng.integers(0, 18, OCCUPANCY_SHAPE)
        prediction = np.where(rng.random(OCCUPANCY_SHAPE) < 0.6, truth, rng.integers(0, 18, OCCUPANCY_SHAPE))
        counts.add(prediction, truth, rng.random(OCCUPANCY_SHAPE) < 0.4)
    assert counts.percent() == published
    assert counts.samples == 3


def _labels(**cells: int) -> np.ndarray:
    """Free space with the first so many cells of x = 0, 1, ... given to classes, in order."""
    labels = np.full(OCCUPANCY_SHAPE, FREE, dtype=np.uint8)
    for x, (name, count) in enumerate(cells.items()):
        labels[x].reshape(-1)[:count] = OCCUPANCY_CLASSES.index(name)
    return labels


@pytest.mark.parametrize(
    ("prediction", "truth", "mask", "expected"),
    [
        (_labels(car=4), _labels(car=4), VISIBLE, {"car": 100.0, "mIoU": 100.0}),
        (_labels(car=4), _labels(car=8), VISIBLE, {"car": 50.0, "mIoU": 50.0}),
        (_labels(car=3), _labels(car=2), VISIBLE, {"car": 66.67, "mIoU": 66.67}),
        (_labels(car=4, bus=1), _labels(car=4), VISIBLE, {"car": 100.0, "bus": 0.0, "mIoU": 50.0}),  # bus: made up
        (_labels(car=4, bus=0), _labels(car=4, bus=1), VISIBLE, {"car": 100.0, "bus": 0.0, "mIoU": 50.0}),  # missed
        (_labels(others=1), _labels(others=1), VISIBLE, {"others": 100.0, "mIoU": 100.0}),
        (_labels(car=4), _labels(bus=4), HIDDEN, {}),
        (_labels(), _labels(), VISIBLE, {}),  # free space is no class of the mean
    ],
)
def test_miou_by_hand(prediction, truth, mask, expected):
    counts = OccupancyCounts()
    counts.add(prediction, truth, mask)
    assert {name: value for name, value in counts.percent().items() if not math.isnan(value)} == expected


def test_samples_are_pooled_before_dividing():
    counts = OccupancyCounts()
    counts.add(_labels(car=1), _labels(car=1), VISIBLE)
    counts.add(_labels(car=0), _labels(car=3), VISIBLE)
    assert counts.percent()["car"] == 25.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((np.zeros((200, 200, 15), np.uint8), _labels(), VISIBLE), r"the prediction needs integers of shape"),
        ((np.full(OCCUPANCY_SHAPE, 18, np.uint8), _labels(), VISIBLE), r"the prediction has unknown labels 18 "),
        ((_labels(), _labels().astype(float), VISIBLE), r"the ground truth needs integers"),
        ((_labels(), _labels(), VISIBLE.astype(np.uint8)), r"mask_camera must be bool .*, got uint8"),
    ],
)
def test_counts_refuse_what_is_no_occupancy(wrong, message):
    with pytest.raises(DataError, match=message):
        OccupancyCounts().add(*wrong)


# -- predictions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda labels: labels.astype(np.int64)])
def test_predictions_are_files_of_the_challenge(tmp_path, kind):
    labels = _labels(car=9)
    path = write_prediction(tmp_path / "new", "token", kind(labels))
    assert path == tmp_path / "new" / "token.npz"
    with np.load(path) as archive:
        assert archive.files == ["arr_0"]  # np.savez_compressed(path, labels)
        assert archive["arr_0"].dtype == np.uint8
    np.testing.assert_array_equal(read_prediction(tmp_path / "new", "token"), labels)
    assert path.stat().st_size < 20_000
    assert [entry.name for entry in path.parent.iterdir()] == ["token.npz"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((16, 200, 200), np.uint8), r"the prediction of sample token needs .* got uint8 \(16, 200, 200\)"),
        (np.zeros(OCCUPANCY_SHAPE, np.float32), r"needs integers .* got float32"),
        (np.full(OCCUPANCY_SHAPE, 18), r"unknown labels 18 \(640000x\)"),
        (np.full(OCCUPANCY_SHAPE, -1), r"unknown labels -1"),
    ],
)
def test_a_wrong_prediction_is_not_written(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        write_prediction(tmp_path, "token", labels)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "prediction .*token.npz is missing; predict the sample first"),
        ({"a": _labels(), "b": _labels()}, r"must hold one array, got 2 \(a, b\)"),
        ({"semantics": _labels() + 1}, r"token.npz has unknown labels 18"),
    ],
)
def test_a_wrong_prediction_file_is_named(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "token.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_prediction(tmp_path, "token")


# -- evaluation --------------------------------------------------------------------------------------------------------


@pytest.fixture
def options(tiny_root, tmp_path) -> DataOptions:
    return DataOptions(root=str(tiny_root), index=tmp_path / "index.npz")


def _predict(index: NuscenesIndex, folder: Path, change=lambda labels: labels) -> None:
    for token, position in zip(index.tokens("mini_val"), index.split_positions("mini_val"), strict=True):
        write_prediction(folder, token, change(read_occupancy(index.occupancy_path(position)).semantics.copy()))


def test_the_ground_truth_scores_full_marks(tiny_index, options, tmp_path):
    _predict(tiny_index, tmp_path / "out")
    (tmp_path / "out" / "foreign.npz").write_text("does not matter")
    metrics = evaluate_occupancy(tmp_path / "out", options, "mini_val", ray_iou=True, progress=False)
    assert (metrics.version, metrics.split, metrics.samples) == ("v1.0-mini", "mini_val", 3)
    assert (metrics.miou, metrics.rays.mean) == (100.0, 100.0)
    assert list(metrics.classes) == list(OCCUPANCY_CLASSES[:FREE])
    assert metrics.rays.by_threshold == {1.0: 100.0, 2.0: 100.0, 4.0: 100.0}


def test_hidden_cells_do_not_count_for_miou_but_do_for_rays(tiny_index, options, tmp_path):
    masks = iter([read_occupancy(tiny_index.occupancy_path(k)).mask_camera for k in range(5, 8)])
    _predict(tiny_index, tmp_path / "out", lambda labels: np.where(next(masks), labels, (labels + 1) % 18))
    metrics = evaluate_occupancy(tmp_path / "out", options, "mini_val", ray_iou=True, progress=False)
    assert metrics.miou == 100.0
    assert metrics.rays.mean < 90.0


def test_figures_as_table_and_json(tiny_index, options, tmp_path):
    barrier, bus = OCCUPANCY_CLASSES.index("barrier"), OCCUPANCY_CLASSES.index("bus")
    _predict(tiny_index, tmp_path / "out", lambda labels: np.where(labels == barrier, bus, labels))
    metrics = evaluate_occupancy(tmp_path / "out", options, "mini_val", progress=False)
    table = metrics.table().splitlines()
    assert table[0].split() == ["class", "IoU"]
    assert table[2].split() == ["barrier", "0.00"]
    assert table[-1] == f"v1.0-mini mini_val, 3 key frames: mIoU {metrics.miou:.2f}"
    content = json.loads(metrics.to_json(tmp_path / "metrics.json"))
    assert content == json.loads((tmp_path / "metrics.json").read_text())
    assert (content["mIoU"], content["IoU"]["barrier"], content["IoU"]["car"]) == (metrics.miou, 0.0, 100.0)
    assert "RayIoU" not in content
    rays = evaluate_occupancy(tmp_path / "out", options, "mini_val", ray_iou=True, progress=False)
    assert rays.table().splitlines()[0].split() == ["class", "IoU", "ray@1m", "ray@2m", "ray@4m"]
    assert f"RayIoU {rays.rays.mean:.2f}" in rays.table()
    content = json.loads(rays.to_json())
    assert content["RayIoU"] == rays.rays.mean
    by_class = {name: [0.0 if math.isnan(v) else v for v in values] for name, values in rays.rays.by_class.items()}
    assert {name: [v or 0.0 for v in values] for name, values in content["RayIoU_classes"].items()} == by_class
    assert content["RayIoU@2m"] == rays.rays.by_threshold[2.0]


def test_a_class_that_does_not_occur_is_null_and_a_dash():
    classes = dict.fromkeys(OCCUPANCY_CLASSES[:FREE], math.nan) | {"car": 50.0}
    metrics = OccupancyMetrics(version="v1.0-mini", split="mini_val", samples=1, miou=50.0, classes=classes)
    rows = [line.split() for line in metrics.table().splitlines()]
    assert (rows[1], rows[5], rows[18]) == (["others", "-"], ["car", "50.00"], ["mean", "50.00"])
    content = json.loads(metrics.to_json())
    assert (content["IoU"]["others"], content["IoU"]["car"]) == (None, 50.0)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, r"lacks the predictions of 3 of 3 samples of mini_val \(scene-0103-0, scene-0103-1, scene-0103-2\)"),
        (2, r"lacks the predictions of 1 of 3 samples of mini_val \(scene-0103-2\); predict every sample"),
    ],
)
def test_missing_predictions_are_counted_and_named(tiny_index, options, tmp_path, kept, message):
    (tmp_path / "out").mkdir()
    for token in tiny_index.tokens("mini_val")[:kept]:
        write_prediction(tmp_path / "out", token, _labels())
    with pytest.raises(DataError, match=message):
        evaluate_occupancy(tmp_path / "out", options, "mini_val", progress=False)
