"""mIoU in the middle of training: of the saved weights, at epoch ends, without a trace in the training."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from bev_nuscenes import OCCUPANCY_CLASSES, OCCUPANCY_SHAPE, Sample, collate
from bev_train.resolve import resolve_recipe
from bev_train.validation import count_occupancy

BUS, CAR = OCCUPANCY_CLASSES.index("bus"), OCCUPANCY_CLASSES.index("car")
OCC = "bevdet-tiny-occ"
SEEN = 100 * 200  # cells per sample


class OccupancyDataset(Dataset[Sample]):
    """Two samples of cars, of which the cameras see half the ground; a quarter of what they see is buses."""

    def __init__(self, sample: Sample) -> None:
        semantics = torch.full(OCCUPANCY_SHAPE, CAR, dtype=torch.uint8)
        semantics[:25] = BUS
        mask = torch.zeros(OCCUPANCY_SHAPE, dtype=torch.bool)
        mask[:100, :, 0] = True
        self.sample = replace(sample, semantics=semantics, mask_camera=mask)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Sample:
        return replace(self.sample, token=f"token{index}")


MIOU = (75 + 0) / 2  # percent: cars, and buses that are never predicted


@pytest.fixture
def dataset(tiny_sample) -> OccupancyDataset:
    return OccupancyDataset(tiny_sample)


def _measured(folder) -> dict[int, float]:
    """mIoU by step, of the rows of metrics.csv that have one."""
    with folder.metrics.open(newline="") as file:
        return {int(row["step"]): float(row["mIoU"]) for row in csv.DictReader(file) if row.get("mIoU")}


def test_counts_are_those_of_the_cells_that_cameras_see(dataset) -> None:
    class AlwaysCar:
        def predict(self, images, rig):
            return [torch.full(OCCUPANCY_SHAPE, CAR, dtype=torch.uint8)] * len(images)

    batches = [collate([dataset[0], dataset[1]]), collate([dataset[0]])]
    counts = count_occupancy(AlwaysCar(), batches, torch.device("cpu"))
    assert counts.samples == 3
    assert (counts.matrix[CAR, CAR], counts.matrix[BUS, CAR]) == (3 * SEEN * 3 // 4, 3 * SEEN // 4)
    assert counts.matrix.sum() == 3 * SEEN


@pytest.mark.parametrize(("every", "steps"), [(None, []), (1, [4, 9, 14]), (2, [9]), (4, [])])
def test_measured_at_epoch_ends(tiny_options, tiny_run, dataset, every, steps) -> None:
    folder = tiny_run(tiny_options(recipe=OCC, validate_every_epochs=every), validation=dataset).folder
    assert _measured(folder) == pytest.approx(dict.fromkeys(steps, MIOU))


@pytest.mark.parametrize("ema", [True, False])
def test_what_is_measured_is_what_is_saved(tiny_options, tiny_run, dataset, ema) -> None:
    options = tiny_options(recipe=OCC, validate_every_epochs=3, ema=ema)
    folder = tiny_run(options, validation=dataset, seen=(seen := {})).folder
    saved = load_file(folder.weights)["layers.2.weight"]
    assert len(seen["model"].predicted_with) == len(dataset)
    assert all(torch.equal(weight, saved) for weight in seen["model"].predicted_with)
    assert torch.equal(seen["model"].layers[2].weight, saved) == (not ema)


def test_training_does_not_notice(tiny_options, tiny_run, dataset, tmp_path) -> None:
    plain = tiny_run(tiny_options(recipe=OCC, out=tmp_path / "plain")).folder
    validated = tiny_run(tiny_options(recipe=OCC, validate_every_epochs=1), validation=dataset).folder
    expected, found = load_file(plain.weights), load_file(validated.weights)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_figures_survive_a_resume(tiny_options, tiny_run, dataset) -> None:
    options = tiny_options(recipe=OCC, validate_every_epochs=1)
    tiny_run(replace(options, max_steps=10), validation=dataset)
    folder = tiny_run(replace(options, resume=True), validation=dataset).folder
    assert list(_measured(folder)) == [4, 9, 14]


def test_only_occupancy_is_measured(tiny_options) -> None:
    with pytest.raises(ValueError, match=r"measures occupancy, bevdet-tiny detects boxes: .* bev-eval"):
        resolve_recipe(tiny_options(validate_every_epochs=1))
    assert resolve_recipe(tiny_options(recipe=OCC, validate_every_epochs=1)).task == "occupancy"
