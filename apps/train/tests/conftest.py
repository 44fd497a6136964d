"""A detector, a data set and a recipe small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bev_nuscenes import OCCUPANCY_CLASSES, OCCUPANCY_SHAPE, DataOptions, Draw, EpochSampler, Sample
from bev_train import TrainOptions
from bev_train.data import TrainingData
from bev_train.fit import RunResult, fit
from bev_train.resolve import resolve_recipe
from bev_train.run_folder import open_run_folder
from bev_zoo import CameraRig, Recipe, Targets


class TinyDataset(Dataset[Sample]):
    """Samples whose image is noise that depends on the draw; ``drawn`` remembers the draws.

    ``spoiled`` numbers draws, counted from 0, whose image is not finite.
    """

    def __init__(self, size: int, spoiled: Collection[int] = ()) -> None:
        self.size = size
        self.spoiled = spoiled
        self.drawn: list[Draw] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, draw: Draw) -> Sample:
        self.drawn.append(draw)
        spoil = float("nan") if len(self.drawn) - 1 in self.spoiled else 1.0
        generator = torch.Generator().manual_seed(hash(draw))
        return Sample(
            token=f"token{draw.index}",
            images=spoil * torch.randn(1, 1, 3, 4, 4, generator=generator),
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


class _TinySwin(nn.Module):
    """Two blocks under the names by which layer decay knows the layers of a Swin backbone."""

    def __init__(self) -> None:
        super().__init__()
        stage = nn.Module()
        stage.blocks = nn.ModuleList([nn.Linear(48, 8), nn.Linear(8, 8)])
        self.stages = nn.ModuleList([stage])

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.stages[0].blocks
        return second(first(images.flatten(1)).relu())


class Died(Exception):
    """A training process came to its end in the middle of a step."""


class TinyDetector(nn.Module):
    """Has everything that makes resuming hard: batch-norm statistics, dropout, two losses, layers, history.

    ``history_used`` remembers for every call whether it had history. Its idea of occupancy is cars everywhere;
    ``predicted_with`` remembers a weight it had for every prediction. ``dies_at`` is the batch, counted from 1, in
    which the process dies.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.use_history = True
        self.backbone = _TinySwin()
        self.layers = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 9))
        self.dies_at: int | None = None
        self.history_used: list[bool] = []
        self.predicted_with: list[Tensor] = []

    def loss(self, images: Tensor, rig: CameraRig, targets: Targets) -> dict[str, Tensor]:
        self.history_used.append(self.use_history)
        wanted = torch.stack([boxes.mean(0) for boxes in targets.boxes])
        features = self.backbone(images) * (1.0 if self.use_history else 0.5)
        error = (self.layers(features) - wanted).square().mean()
        if len(self.history_used) == self.dies_at:
            raise Died("Died")
        return {"heatmap": error, "box": error * 0.25}

    def predict(self, images: Tensor, rig: CameraRig) -> list[Tensor]:
        self.predicted_with.append(self.layers[2].weight.detach().clone())
        return [torch.full(OCCUPANCY_SHAPE, OCCUPANCY_CLASSES.index("car"), dtype=torch.uint8)] * len(images)


@pytest.fixture
def tiny_data() -> type[TinyDataset]:
    """The class of the data set that ``tiny_run`` trains on."""
    return TinyDataset


@pytest.fixture
def tiny_sample() -> Sample:
    return TinyDataset(1)[Draw(0, epoch=0)]


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
    """Trains a TinyDetector; ``training`` changes the recipe, ``seen`` receives the model and the data set."""

    def run(
        options: TrainOptions,
        *,
        dies_at: int | None = None,
        spoiled: Collection[int] = (),
        size: int = 9,
        training: dict | None = None,
        validation: Dataset[Sample] | None = None,
        seen: dict | None = None,
    ) -> RunResult:
        recipe = resolve_recipe(options)
        recipe = replace(recipe, training=replace(recipe.training, **(training or {})))
        folder = open_run_folder(options, recipe)
        torch.manual_seed(options.seed)
        model, dataset = TinyDetector(recipe), TinyDataset(size, spoiled)
        model.dies_at = dies_at
        if seen is not None:
            seen.update(model=model, dataset=dataset)
        data = TrainingData(
            dataset,
            EpochSampler(dataset, seed=options.seed, num_replicas=1, rank=0),
            batch_size=recipe.training.batch_size,
            accumulate=options.accumulate,
            workers=options.workers,
            worker_timeout=options.worker_timeout or 0,
            validation=validation,
        )
        return fit(model, data, options, recipe, folder)

    return run
