"""Trains a model whose losses are the same on any number of processes: no batch norm, no dropout, means over samples.

    python tiny_train.py OUT BATCH_SIZE ACCUMULATE [STRATEGY [PRECISION]]

Started by torchrun, every process takes BATCH_SIZE samples per forward pass.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bev_nuscenes import DataOptions, Draw, EpochSampler, Sample
from bev_train import TrainOptions
from bev_train.app import open_or_join
from bev_train.data import TrainingData
from bev_train.fit import fit
from bev_train.resolve import resolve_recipe
from bev_zoo import CameraRig, Recipe, Targets

_EYE = torch.eye(4)


class _Noise(Dataset[Sample]):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, draw: Draw) -> Sample:
        generator = torch.Generator().manual_seed(hash(draw))
        cameras = dict.fromkeys(("intrinsics", "image_aug"), _EYE[:3, :3].expand(1, 1, 3, 3))
        cameras |= dict.fromkeys(("cam_to_ego", "ego_to_global"), _EYE.expand(1, 1, 4, 4))
        return Sample(
            token=f"token{draw.index}",
            images=torch.randn(1, 1, 3, 4, 4, generator=generator),
            cameras={**cameras, "bev_aug": torch.eye(3)},
            boxes=torch.randn(2, 9, generator=generator),
            labels=torch.zeros(2, dtype=torch.int64),
            box_to_global=_EYE.double(),
        )


class _Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Linear(48, 32), nn.Linear(32, 16)])

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.stages
        return second(first(images.flatten(1)).relu())


class _Detector(nn.Module):
    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.use_history = True
        self.backbone = _Stages()
        self.head = nn.Linear(16, 9)

    def loss(self, images: Tensor, rig: CameraRig, targets: Targets) -> dict[str, Tensor]:
        wanted = torch.stack([boxes.mean(0) for boxes in targets.boxes])
        return {"box": (self.head(self.backbone(images)) - wanted).square().mean()}


def main(out: str, batch_size: str, accumulate: str, strategy: str = "auto", precision: str = "32") -> None:
    options = TrainOptions(
        recipe="bevdet-tiny",
        data=DataOptions(root="unused"),
        out=Path(out),
        resume=(Path(out) / "options.json").exists(),
        epochs=3,
        batch_size=int(batch_size),
        accumulate=int(accumulate),
        warmup_steps=2,
        workers=0,
        accelerator="cpu",
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        strategy=strategy,
        precision=precision,
        max_steps=int(os.environ["MAX_STEPS"]) if "MAX_STEPS" in os.environ else None,
        log_every=1,
    )
    recipe = resolve_recipe(options)
    recipe = replace(recipe, training=replace(recipe.training, ema_initial_updates=3))
    torch.manual_seed(0)
    model, dataset = _Detector(recipe), _Noise()
    sampler = EpochSampler(dataset, seed=0, num_replicas=1, rank=0)
    data = TrainingData(dataset, sampler, batch_size=options.batch_size, accumulate=options.accumulate)
    fit(model, data, options, recipe, open_or_join(options, recipe))


if __name__ == "__main__":
    main(*sys.argv[1:])
