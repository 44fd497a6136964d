"""Exponential moving average of the weights, with the published ramp."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

__all__ = ["EmaWeights", "ema_decay"]

_RAMP_UPDATES = 2000  # the published time constant of the ramp


def ema_decay(update: int, decay: float) -> float:
    """Share of the old average kept by update number ``update`` (counted from 1): ramps from 0 towards ``decay``."""
    return decay * (1 - math.exp(-update / _RAMP_UPDATES))


class EmaWeights(pl.Callback):
    """Averages parameters and floating-point buffers of ``module.model`` after every optimiser step.

    The average starts as a copy of the weights. Its state travels in the checkpoint.

    Args:
        decay: share of the old average kept per step, after the ramp.
        initial_updates: updates the ramp starts from; the published systems start at 10560, where the ramp is nearly
            over, so that the average forgets the initial weights at the same pace from the first step on.
    """

    def __init__(self, decay: float, initial_updates: int) -> None:
        self.decay = decay
        self.updates = initial_updates
        self.average: dict[str, Tensor] = {}
        self._last_step = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of the model by one step."""
        self.updates += 1
        keep = ema_decay(self.updates, self.decay)
        live = model.state_dict()
        torch._foreach_mul_(list(self.average.values()), keep)
        torch._foreach_add_(list(self.average.values()), [live[name] for name in self.average], alpha=1 - keep)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model holds the average instead of its own weights."""
        live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(live)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        live = _floating_point_state(pl_module.model)
        restored = self.average or live
        self.average = {name: restored[name].detach().clone().to(tensor.device) for name, tensor in live.items()}
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._last_step:  # gradients are still being accumulated
            return
        self._last_step = trainer.global_step
        self.update(pl_module.model)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], state_dict["average"]


def _floating_point_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
