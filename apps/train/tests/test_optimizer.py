"""Optimiser and schedule together: the learning rate of every group follows the published hooks, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from bev_train.optimizer import build_optimizer, build_schedule
from bev_zoo import TrainingOptions

GEOMIM = TrainingOptions(weight_decay=0.05, layer_decay=0.8, betas=(0.9, 0.99))
BUSY = replace(GEOMIM, warmup_steps=7, warmup_ratio=0.01, milestones=(1, 3), gamma=0.5)


@pytest.fixture
def model() -> nn.Module:
    """A model of four layers: patch embedding, two blocks, the rest."""
    model = nn.Module()
    model.backbone, stage = nn.Module(), nn.Module()
    model.backbone.patch_embed = nn.ModuleDict({"proj": nn.Linear(2, 2)})
    stage.blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model.backbone.stages = nn.ModuleList([stage])
    model.head = nn.Linear(2, 2)
    return model


def _published_rates(base: list[float], steps_per_epoch: int, training: TrainingOptions) -> Iterator[list[float]]:
    """mmcv: an epoch sets the regular rates, an iteration of the warm-up lowers them, its end restores them."""
    iteration = 0
    for epoch in range(training.epochs):
        reached = sum(epoch >= milestone for milestone in training.milestones)
        rates = regular = [rate * training.gamma**reached for rate in base]
        for _ in range(steps_per_epoch):
            if iteration < training.warmup_steps:
                lowered = (1 - iteration / training.warmup_steps) * (1 - training.warmup_ratio)
                rates = [rate * (1 - lowered) for rate in regular]
            elif iteration == training.warmup_steps:
                rates = regular
            yield rates
            iteration += 1


@pytest.mark.parametrize(
    ("training", "steps_per_epoch"),
    [
        (GEOMIM, 60),
        (replace(GEOMIM, layer_decay=None), 60),
        (BUSY, 5),  # the warm-up reaches into the second epoch, where the rate has dropped already
        (replace(BUSY, warmup_steps=0), 5),
        (replace(BUSY, warmup_steps=10), 5),  # ends with an epoch
    ],
)
def test_every_group_follows_the_published_schedule(model, training, steps_per_epoch) -> None:
    training = replace(training, epochs=6)
    optimizer = build_optimizer(model, training)
    schedule = build_schedule(optimizer, steps_per_epoch, training)
    base = [training.learning_rate * group["lr_scale"] for group in optimizer.param_groups]
    for step, expected in enumerate(_published_rates(base, steps_per_epoch, training)):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx(expected, rel=1e-9), step
        optimizer.step()
        schedule.step()


def test_layers_keep_the_ratio_of_their_rates(model) -> None:
    optimizer = build_optimizer(model, BUSY)
    schedule = build_schedule(optimizer, 5, BUSY)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) == 4
    for _ in range(20):
        full = max(group["lr"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(full * group["lr_scale"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_settings_of_adamw(model) -> None:
    model.head.bias.requires_grad_(False)
    optimizer = build_optimizer(model, replace(GEOMIM, layer_decay=None))
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.9, 0.99), 0.05)
    assert not any(parameter is model.head.bias for parameter in group["params"])
