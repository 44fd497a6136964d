"""What changes in the middle of training: when history sets in, and when batch norm is shared between processes.

Both follow the epoch alone, so that a resumed run is in the phase it was left in. They look at every batch, because
Lightning does not announce the epoch in whose middle a resumed run begins.
"""

from __future__ import annotations

import warnings
from typing import Any

import lightning.pytorch as pl
from timm.layers import convert_sync_batchnorm
from torch import nn

from bev_zoo import TrainingOptions

__all__ = ["HistoryAfter", "SyncBatchNormFrom", "phases", "share_batch_norm"]


def phases(training: TrainingOptions) -> list[pl.Callback]:
    """The callbacks for what changes in the training of a recipe."""
    history, syncbn = training.temporal_start_epoch, training.syncbn_start_epoch
    if history is not None and history + 1 >= training.epochs:
        warnings.warn(
            f"history stays off: it sets in after {history + 1} epochs, and the run has {training.epochs}", stacklevel=3
        )
    return [
        *([] if history is None else [HistoryAfter(history)]),
        *([] if syncbn is None else [SyncBatchNormFrom(syncbn)]),
    ]


class HistoryAfter(pl.Callback):
    """Trains without history up to and including an epoch, and with it from the next one on.

    The published rule compares strictly, with epochs counted from 0: a recipe that says 2 goes without history for its
    first *three* epochs. Outside training the model always uses history.

    Args:
        last_epoch: the last epoch without history, counted from 0.
    """

    def __init__(self, last_epoch: int) -> None:
        self.last_epoch = last_epoch

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        pl_module.model.use_history = trainer.current_epoch > self.last_epoch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.model.use_history = True

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        pl_module.model.use_history = True


class SyncBatchNormFrom(pl.Callback):
    """Shares the statistics of batch norm between all processes from an epoch on (published: not before it).

    PyTorch synchronises batch norm on GPUs only: elsewhere a warning says that nothing changes. A single GPU is
    converted too, as published, and computes what it computed before.

    Args:
        first_epoch: the first epoch with shared statistics, counted from 0.
    """

    def __init__(self, first_epoch: int) -> None:
        self.first_epoch = first_epoch
        self._is_done = False

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._is_done or trainer.current_epoch < self.first_epoch:
            return
        self._is_done = True
        if _can_share(trainer):
            share_batch_norm(pl_module.model)
        elif trainer.is_global_zero:
            warnings.warn("batch norm is shared between GPUs only: here every process keeps its own", stacklevel=2)


def share_batch_norm(model: nn.Module) -> None:
    """Replace the batch-norm layers inside a model by synchronised ones, those of timm with an activation too.

    Parameters, buffers and their names stay the same objects: optimiser, average and checkpoints do not notice.
    """
    converted = convert_sync_batchnorm(model)
    assert converted is model, "only what is inside a model can be replaced"


def _can_share(trainer: pl.Trainer) -> bool:
    return trainer.strategy.root_device.type == "cuda"
