"""How good an occupancy model has become, measured in the middle of its training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from bev_nuscenes import Batch, OccupancyCounts, Sample, collate
from bev_train.data import leave_signals_to_the_main_process
from bev_zoo import CameraRig, Detector

__all__ = ["OccupancyValidation", "count_occupancy"]


class OccupancyValidation(pl.Callback):
    """Logs the mIoU of a split at epoch ends; processes share the split. Training does not notice.

    Args:
        dataset: samples with occupancy ground truth.
        every_epochs: epochs between two measurements.
        weights_of_interest: a context in which the model holds the weights that are to be measured.
        batch_size: samples per process and forward pass.
        workers: loading processes per training process.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        *,
        every_epochs: int,
        weights_of_interest: Callable[[Detector], AbstractContextManager[None]],
        batch_size: int = 1,
        workers: int = 0,
    ) -> None:
        self.dataset, self.every_epochs, self.weights_of_interest = dataset, every_epochs, weights_of_interest
        self.batch_size, self.workers = batch_size, workers

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        epochs = trainer.current_epoch + 1
        if not trainer.is_last_batch or epochs % self.every_epochs:
            return
        with self.weights_of_interest(pl_module.model):
            counts = count_occupancy(pl_module.model, self._batches(trainer), trainer.strategy.root_device)
        everywhere = torch.from_numpy(counts.matrix).to(trainer.strategy.root_device)
        counts.matrix = trainer.strategy.reduce(everywhere, reduce_op="sum").cpu().numpy()
        miou = counts.percent()["mIoU"]
        for logger in trainer.loggers:
            logger.log_metrics({"mIoU": miou}, step=trainer.global_step - 1)  # belongs to the step that just ended
        if trainer.is_global_zero:
            tqdm.write(f"mIoU {miou:.2f} % at the end of epoch {epochs}", file=sys.stderr)

    def _batches(self, trainer: pl.Trainer) -> DataLoader:
        share = range(trainer.global_rank, len(self.dataset), trainer.world_size)
        return DataLoader(
            Subset(self.dataset, share),
            batch_size=self.batch_size,
            num_workers=self.workers,
            worker_init_fn=leave_signals_to_the_main_process,
            collate_fn=collate,
        )


def count_occupancy(model: Detector, batches: Iterable[Batch], device: torch.device) -> OccupancyCounts:
    """Compare the predictions of a model with the ground truth of some batches, in the cells that a camera sees."""
    counts = OccupancyCounts()
    for batch in batches:
        seen = batch.to(device)
        predictions = model.predict(seen.images, CameraRig(**seen.cameras))
        for predicted, semantics, mask in zip(predictions, batch.semantics, batch.mask_camera, strict=True):
            counts.add(predicted.cpu().numpy(), semantics.numpy(), mask.numpy())
    return counts
