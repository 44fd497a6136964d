"""A detector, a data set and a recipe small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bev_nuscenes import DataOptions, Draw, EpochSampler, Sample
from bev_train import TrainOptions
from bev_train.data import TrainingData
from bev_train.fit import RunResult, fit
from bev_train.resolve import resolve_recipe
from bev_train.run_folder import open_run_folder
from bev_zoo import CameraRig, Recipe, Targets


class TinyDataset(Dataset[Sample]):
    """Samples whose image is noise that depends on the draw; ``drawn`` remembers the draws."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.drawn: list[Draw] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, draw: Draw) -> Sample:
        self.drawn.append(draw)
        generator = torch.Generator().manual_seed(hash(draw))
        return Sample(
            token=f"token{draw.index}",
            images=torch.randn(1, 1, 3, 4, 4, generator=generator),
            cameras={
                "intrinsics": torch.eye(3).expand(1, 1, 3, 3),
                "cam_to_ego": torch.eye(4).expand(1, 1, 4, 4),
                "ego_to_global": torch.eye(4).expand(1, 1, 4, 4),
                "image_aug": torch.eye(3).expand(1, 1, 3, 3),
                "bev_aug": torch.eye(3),
            },
            boxes=torch.randn(2, 9, generator=generator),
            labels=torch.zeros(2, dtype=torch.int64),
            box_to_global=torch.eye(4, dtype=torch.float64),
        )


class TinyDetector(nn.Module):
    """Has everything that makes resuming hard: batch-norm statistics, dropout, two losses."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 9))
        self.poison_at: int | None = None
        self._calls = 0

    def loss(self, images: Tensor, rig: CameraRig, targets: Targets) -> dict[str, Tensor]:
        self._calls += 1
        wanted = torch.stack([boxes.mean(0) for boxes in targets.boxes])
        error = (self.layers(images) - wanted).square().mean()
        return {"heatmap": error, "box": error * (float("nan") if self._calls == self.poison_at else 0.25)}


@pytest.fixture
def tiny_options(tmp_path: Path) -> Callable[..., TrainOptions]:
    """Options of a run of three epochs of five steps on the CPU, with changes."""

    def options(**changes: object) -> TrainOptions:
        base = TrainOptions(
            recipe="bevdet-tiny",
            data=DataOptions(root="unused"),
            out=tmp_path / "run",
            epochs=3,
            batch_size=2,
            warmup_steps=4,
            workers=0,
            accelerator="cpu",
            log_every=1,
        )
        return replace(base, **changes)

    return options


@pytest.fixture
def tiny_run() -> Callable[..., RunResult]:
    """Trains a TinyDetector; ``seen`` receives the model and the data set."""

    def run(
        options: TrainOptions, *, poison_at: int | None = None, size: int = 9, seen: dict | None = None
    ) -> RunResult:
        recipe = resolve_recipe(options)
        folder = open_run_folder(options, recipe)
        torch.manual_seed(options.seed)
        model, dataset = TinyDetector(recipe), TinyDataset(size)
        model.poison_at = poison_at
        if seen is not None:
            seen.update(model=model, dataset=dataset)
        data = TrainingData(
            dataset,
            EpochSampler(dataset, seed=options.seed, num_replicas=1, rank=0),
            batch_size=recipe.training.batch_size,
            accumulate=options.accumulate,
            workers=options.workers,
        )
        return fit(model, data, options, recipe, folder)

    return run
