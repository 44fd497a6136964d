"""The training split as batches, in an order that a resumed run takes up exactly where it was left.

The order is a function of the seed and the number of batches already consumed, for any number of processes.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Iterator

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset, Sampler

from bev_nuscenes import Batch, Draw, EpochSampler, Sample, collate

__all__ = ["ResumableSampler", "TrainingData", "leave_signals_to_the_main_process"]


class ResumableSampler(Sampler[Draw]):
    """The share of one process in every epoch, beginning in the middle of one if need be.

    An epoch is filled up from its own beginning until every process has the same number of full batches, and that is a
    multiple of ``accumulate``. Consecutive batches go to consecutive processes.

    Args:
        epochs: the draws of whole epochs, as for a single process.
        batch_size: samples per process and batch.
        replicas: processes that share an epoch.
        rank: which of them this is.
        accumulate: batches per optimiser step.
        consumed: batches that this process has drawn since the beginning of training.
    """

    def __init__(
        self,
        epochs: EpochSampler,
        *,
        batch_size: int,
        replicas: int = 1,
        rank: int = 0,
        accumulate: int = 1,
        consumed: int = 0,
    ) -> None:
        self.epochs = epochs
        self.batch_size, self.replicas, self.rank = batch_size, replicas, rank
        self.batches_per_epoch = accumulate * _steps(epochs, batch_size * replicas * accumulate)
        self._first_epoch, self._skip = divmod(consumed, self.batches_per_epoch)
        self.epoch = self._first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Draws of a whole epoch for this process."""
        return self.batches_per_epoch * self.batch_size

    def __iter__(self) -> Iterator[Draw]:
        self.epochs.set_epoch(self.epoch)
        draws = list(self.epochs)
        skip = self._skip if self.epoch == self._first_epoch else 0
        for batch in range(skip, self.batches_per_epoch):
            begin = (batch * self.replicas + self.rank) * self.batch_size
            for position in range(begin, begin + self.batch_size):
                again, place = divmod(position, len(draws))
                draw = draws[place]
                yield draw._replace(repeat=draw.repeat + again * len(draws))  # what fills up is augmented anew


class TrainingData(pl.LightningDataModule):
    """The training split as Lightning wants it.

    Args:
        dataset: samples by draw.
        epochs: the draws of whole epochs, as for a single process.
        batch_size: samples per process and batch.
        accumulate: batches per optimiser step.
        workers: loading processes per training process.
        worker_timeout: seconds to wait for a batch of the loading processes; 0 waits for ever.
        validation: what the model is measured on in the middle of its training.
        collate_samples: makes a batch of samples.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        epochs: EpochSampler,
        *,
        batch_size: int,
        accumulate: int = 1,
        workers: int = 0,
        worker_timeout: float = 0,
        validation: Dataset[Sample] | None = None,
        collate_samples: Callable[[list[Sample]], Batch] = collate,
    ) -> None:
        super().__init__()
        self.dataset, self.epochs = dataset, epochs
        self.batch_size, self.accumulate, self.workers = batch_size, accumulate, workers
        self.worker_timeout = worker_timeout
        self.validation = validation
        self.collate_samples = collate_samples
        if len(epochs) < batch_size:
            warnings.warn(
                f"an epoch has {len(epochs)} samples, fewer than the batch of {batch_size}: every batch repeats "
                f"samples; --batch-size {len(epochs)} avoids that",
                stacklevel=2,
            )

    def steps_per_epoch(self, processes: int) -> int:
        """Optimiser steps per epoch when so many processes share it."""
        return _steps(self.epochs, self.batch_size * self.accumulate * processes)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        sampler = ResumableSampler(
            self.epochs,
            batch_size=self.batch_size,
            replicas=trainer.world_size,
            rank=trainer.global_rank,
            accumulate=self.accumulate,
            consumed=trainer.fit_loop.epoch_loop.batch_progress.total.processed,
        )
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            timeout=self.worker_timeout if self.workers else 0,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=trainer.strategy.root_device.type == "cuda",
            collate_fn=self.collate_samples,
        )


def leave_signals_to_the_main_process(worker: int) -> None:
    """Ctrl-C and batch systems signal the whole process group; a step that is still running needs its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _steps(epochs: EpochSampler, samples_per_step: int) -> int:
    return math.ceil(len(epochs) / samples_per_step)
