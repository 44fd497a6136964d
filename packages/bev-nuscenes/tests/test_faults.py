"""Files that cannot be read: a program that stops and names them, or goes on and says so."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bev_nuscenes import (
    OCCUPANCY_SHAPE,
    BevAugmentation,
    DataError,
    Draw,
    NuscenesDataset,
    NuscenesIndex,
    UnreadableFileError,
    build_index,
    collate,
    read_occupancy,
)


@pytest.fixture
def index(own_root) -> NuscenesIndex:
    """Five samples to train on: three of one scene, two of another."""
    return build_index(own_root, "v1.0-mini", progress=False)


def dataset(index: NuscenesIndex, **options) -> NuscenesDataset:
    defaults = {"input_size": (32, 96), "training": True, "on_error": "skip"}
    return NuscenesDataset(index, "mini_train", **(defaults | options))


@pytest.mark.parametrize(
    ("place", "options"),
    [
        (lambda index: index.camera_path(1, 2), {}),
        (lambda index: index.camera_path(1, 2), {"images": "fast"}),
        (lambda index: index.lidar_path(1), {"with_depth": True}),
        (lambda index: index.occupancy_path(1), {"with_occupancy": True, "bev_augmentation": BevAugmentation()}),
    ],
    ids=["image", "fast image", "LiDAR", "occupancy"],
)
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rubbish")])
def test_the_next_readable_sample_stands_in(index, place, options, damage):
    path = place(index)
    damage(path)
    split = dataset(index, **options)
    with pytest.warns(UserWarning, match=r"its samples are replaced") as said:
        sample = split[Draw(1, epoch=4, repeat=2)]
    assert len(said) == 1 and str(path) in str(said[0].message)
    assert sample.token == "scene-0061-2"
    assert torch.equal(sample.images, split[Draw(2, epoch=4, repeat=2)].images)
    assert (split.faults.count, split.faults.files) == (1, [str(path)])
    assert split.faults.report() == (f"1 times a sample was replaced, because 1 files could not be read:\n  {path}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mask_lidar": None}, "lacks mask_lidar"),
        ({"mask_camera": np.zeros((2, 2), bool)}, "has a mask of"),
        ({"semantics": np.full(OCCUPANCY_SHAPE, 99, np.uint8)}, "unknown labels 99"),
    ],
)
def test_so_it_does_for_occupancy_with_wrong_content(index, change, told):
    path = index.occupancy_path(1)
    arrays = {**read_occupancy(path)._asdict(), **change}
    path.unlink()
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    split = dataset(index, with_occupancy=True, bev_augmentation=BevAugmentation())
    with pytest.warns(UserWarning, match=rf"{told}.*its samples are replaced"):
        assert split[1].token == "scene-0061-2"
    assert split.faults.files == [str(path)]


def test_a_missing_frame_costs_every_sample_that_looks_back_at_it(index):
    index.camera_path(0, 0).unlink()
    split = dataset(index, frames=2)
    with pytest.warns(UserWarning):
        tokens = [split[k].token for k in range(5)]
    assert tokens == ["scene-0061-2", "scene-0061-2", "scene-0061-2", "scene-0553-0", "scene-0553-1"]
    assert split.faults.count == 2


def test_the_first_sample_follows_the_last(index):
    index.camera_path(4, 5).write_bytes(b"")
    split = dataset(index)
    with pytest.warns(UserWarning):
        assert split[4].token == "scene-0061-0"


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_warn_once_per_file_and_count_together(index, workers, capfd):
    for position in (1, 3):
        index.camera_path(position, position).unlink()
    split = dataset(index)
    loader = DataLoader(split, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(message, file=sys.stderr)  # as programs do
        tokens = [batch.tokens for _ in range(3) for batch in loader]
    assert tokens[:5] == tokens[5:10] == tokens[10:]
    assert (split.faults.count, len(split.faults.files)) == (6, 2)
    text = capfd.readouterr().err
    for path in split.faults.files:
        assert text.count(f"image {path} is missing") == 1


def test_by_default_an_unreadable_file_stops_the_program_also_from_a_worker(index):
    path = index.camera_path(1, 2)
    path.unlink()
    split = dataset(index, on_error="raise")
    for workers in (0, 1):
        with pytest.raises(UnreadableFileError, match=rf"image {path} is missing"):
            list(DataLoader(split, num_workers=workers, collate_fn=collate))
    assert split.faults.report() == "every file could be read"


def test_where_nothing_can_be_read_it_stops(index):
    for position in range(5):
        index.camera_path(position, 0).unlink()
    with (
        pytest.warns(UserWarning),
        pytest.raises(DataError, match="5 samples in a row cannot be read, the last because"),
    ):
        dataset(index)[0]


def test_other_mistakes_are_not_skipped(index):
    index.lidar.files[1] = b""
    with pytest.raises(DataError, match="has no LiDAR"):
        dataset(index, with_depth=True)[1]


def test_a_long_report_is_cut(index):
    faults = dataset(index).faults
    faults._unreadable[:4, :6] = True
    assert faults.report().splitlines()[-1] == "  and 4 more"
