"""What happens around the training steps: stopping in time, saving, measuring, showing progress."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from tqdm import tqdm

from bev_train.workers import worker_error

__all__ = ["Checkpoints", "GracefulStop", "StepProgress", "Throughput"]


def _steps_now(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether this batch ended an optimiser step (an epoch is a multiple of the accumulation)."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def _on_any_process(trainer: pl.Trainer, decision: bool) -> bool:
    """The same answer on every process: clocks and signals differ between them."""
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


class GracefulStop(pl.Callback):
    """Ends training after the running step on SIGINT, SIGTERM or when its time is up; a second signal ends it at once.

    Attributes:
        reason: why training was stopped; None if it ran to its end.
        signal: the signal received, if one was.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, max_minutes: float | None = None) -> None:
        self.max_minutes = max_minutes
        self.reason: str | None = None
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in self._SIGNALS}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self._wants_stop(trainer, batch_idx=args[-1]):
            self.reason = self.signal.name if self.signal else f"{self.max_minutes:g} minutes of training are over"
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore_handlers()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _wants_stop(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        minutes = (time.monotonic() - self._started) / 60
        time_is_up = self.max_minutes is not None and minutes >= self.max_minutes
        return _steps_now(trainer, batch_idx) and _on_any_process(trainer, time_is_up or self.signal is not None)

    def _receive(self, number: int, frame: Any) -> None:
        self.signal = signal.Signals(number)
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())


class Checkpoints(pl.Callback):
    """Decides when to save: at epoch ends, after some minutes or steps, when training stops, and at the very end.

    Saves happen only right after an optimiser step, so that every checkpoint is the same kind of moment; when loading
    workers fail, also while training waits for its next batch.

    Args:
        save: writes the files of the run.
        every_epochs: epochs between two saves at epoch ends.
        every_minutes: age of the last save that calls for another one in the middle of an epoch.
        every_steps: optimiser steps between two saves, counted from the beginning of training; None for any number.
    """

    def __init__(
        self,
        save: Callable[[pl.Trainer], None],
        *,
        every_epochs: int,
        every_minutes: float,
        every_steps: int | None = None,
    ) -> None:
        self.save = save
        self.every_epochs, self.every_minutes, self.every_steps = every_epochs, every_minutes, every_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_save, self._saved_step = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if _steps_now(trainer, batch_idx=args[-1]) and (self._is_end(trainer) or self._is_due(trainer)):
            self.save(trainer)
            self._last_save, self._saved_step = time.monotonic(), trainer.global_step

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save once more if training waited for data, after a whole step, and the data failed.

        Of several processes the others know nothing of it and would not take part: there the last save stands.
        """
        if trainer.world_size > 1:
            return
        in_order = trainer.fit_loop.epoch_loop.batch_progress.current
        between_steps = in_order.ready == in_order.completed and _steps_now(trainer, in_order.completed - 1)
        if worker_error(exception) is not None and between_steps and trainer.global_step > self._saved_step:
            self.save(trainer)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        epochs = trainer.current_epoch + 1
        if trainer.is_last_batch and epochs % self.every_epochs == 0:
            return True
        if self.every_steps is not None and trainer.global_step % self.every_steps == 0:
            return True
        old = time.monotonic() - self._last_save >= 60 * self.every_minutes
        return _on_any_process(trainer, old)

    @staticmethod
    def _is_end(trainer: pl.Trainer) -> bool:
        last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        return trainer.should_stop or last_epoch or trainer.global_step == trainer.max_steps


class Throughput(pl.Callback):
    """Logs samples per second (all processes) and the share of the time spent waiting for data, over recent batches.

    And the memory of the first process, GB: what it holds of the host's, and the most it had of its GPU.

    It belongs at the end of the callbacks: what they take counts as computing.
    """

    def __init__(self, samples_per_batch: int, window: int = 50) -> None:
        self.samples_per_batch = samples_per_batch
        self._spans: deque[tuple[float, float]] = deque(maxlen=window)  # seconds: waiting for data, computing

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ended = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = time.perf_counter()
        self._spans.append((self._began - self._ended, now - self._began))
        self._ended = now
        waiting, computing = (sum(column) for column in zip(*self._spans, strict=True))
        rate = len(self._spans) * self.samples_per_batch * trainer.world_size / (waiting + computing)
        figures = {"samples_per_second": rate, "data_wait": waiting / (waiting + computing)}
        pl_module.log_dict({**figures, **_memory(trainer.strategy.root_device)}, batch_size=1)


def _memory(device: torch.device) -> dict[str, float]:
    """GB (1e9 bytes) of this process, by the names they are logged under; what the system does not tell is left out."""
    figures = {}
    pages = Path("/proc/self/statm")
    if pages.exists():
        figures["host_memory_gb"] = int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    if device.type == "cuda":
        figures["gpu_memory_peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return figures


class StepProgress(pl.Callback):
    """One bar over all optimiser steps, with the time left; a line every half minute where there is no terminal."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._interval = 0.5 if sys.stderr.isatty() else 30  # seconds
        self._shown = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar = tqdm(
            desc="training",
            unit="step",
            total=self.total_steps,
            initial=trainer.global_step,
            disable=not trainer.is_global_zero,
            mininterval=self._interval,
            dynamic_ncols=True,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self._bar.set_postfix(self._figures(trainer), refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()

    @staticmethod
    def _figures(trainer: pl.Trainer) -> dict[str, str]:
        seen = trainer.callback_metrics
        figures = {"epoch": f"{trainer.current_epoch + 1}/{trainer.max_epochs}"}
        if "loss" in seen:
            figures["loss"] = f"{seen['loss'].item():.3f}"
        if "data_wait" in seen:
            figures["data wait"] = f"{100 * seen['data_wait'].item():.0f}%"
        return figures
