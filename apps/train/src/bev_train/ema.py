"""Exponential moving average of the weights, with the published ramp."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from bev_train.sharding import local, share_of, whole

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
        self.average: dict[str, Tensor] = {}  # what this process holds of it
        self._live: dict[str, Tensor] = {}  # what is averaged, as the model holds it
        self._last_step = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of the model by one step."""
        self.updates += 1
        keep = ema_decay(self.updates, self.decay)
        live = model.state_dict()
        torch._foreach_mul_(list(self.average.values()), keep)
        torch._foreach_add_(list(self.average.values()), [local(live[name]) for name in self.average], alpha=1 - keep)

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within this context the model holds the average instead of its own weights."""
        state = model.state_dict()
        live = {name: local(state[name]) for name in self.average}
        kept = {name: tensor.clone() for name, tensor in live.items()}
        _copy(self.average, live)
        try:
            yield
        finally:
            _copy(kept, live)

    def weights(self) -> dict[str, Tensor]:
        """The whole average by name; every process of a sharded run must call this."""
        return {name: whole(part, self._live[name]) for name, part in self.average.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._live = _floating_point_state(pl_module.model)
        if self.average:
            self.average = {name: share_of(self.average[name], tensor) for name, tensor in self._live.items()}
        else:
            self.average = {name: local(tensor).detach().clone() for name, tensor in self._live.items()}
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._last_step:  # gradients are still being accumulated
            return
        self._last_step = trainer.global_step
        if not pl_module.skipped.is_now:
            self.update(pl_module.model)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.weights()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], state_dict["average"]


@torch.no_grad()
def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _floating_point_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
