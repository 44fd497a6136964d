"""The published optimiser: AdamW on the recipe's parameter groups, all on one schedule."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from bev_train.schedule import learning_rate_factor
from bev_zoo import TrainingOptions
from bev_zoo.parameter_groups import parameter_groups

__all__ = ["build_optimizer", "build_schedule"]


def build_optimizer(model: nn.Module, training: TrainingOptions) -> torch.optim.AdamW:
    """AdamW over everything in the model that is trained."""
    groups = [
        {setting: value for setting, value in group.items() if setting != "names"}  # checkpoints would carry them
        for group in parameter_groups(model, training)
    ]
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=training.betas,
        weight_decay=training.weight_decay,
    )


def build_schedule(optimizer: torch.optim.Optimizer, steps_per_epoch: int, training: TrainingOptions) -> LambdaLR:
    """Warm-up and step decay, to be stepped after every optimiser step; groups keep the ratio of their rates."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps_per_epoch, training))
