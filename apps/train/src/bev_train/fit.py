"""Trains a model on data with Lightning, and keeps the files of the run up to date."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from bev_train.callbacks import Checkpoints, GracefulStop, StepProgress, Throughput
from bev_train.checkpoint import VerifiedCheckpointIO, replace_durably, saving
from bev_train.data import TrainingData
from bev_train.ema import EmaWeights
from bev_train.loggers import build_loggers
from bev_train.module import TrainingModule
from bev_train.numbers import NonFiniteError
from bev_train.options import TrainOptions
from bev_train.phases import phases
from bev_train.run_folder import RunFolder
from bev_train.sharding import local, whole
from bev_train.speed import prepare_for_speed
from bev_train.strategies import build_strategy, cluster_plugins
from bev_train.validation import OccupancyValidation
from bev_train.workers import WorkerFailures, end_workers, worker_error
from bev_zoo import Detector, Recipe, save_checkpoint

__all__ = ["RunResult", "fit"]


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Attributes:
        folder: its files.
        step: optimiser steps taken, those before a resume included.
        stopped_by: why it ended before its last epoch and before ``--max-steps``; None if it did not.
        signal: number of the signal that stopped it, if one did.
        is_main_process: whether this process is the one that writes and reports.
    """

    folder: RunFolder
    step: int
    stopped_by: str | None = None
    signal: int | None = None
    is_main_process: bool = True


def fit(model: Detector, data: TrainingData, options: TrainOptions, recipe: Recipe, folder: RunFolder) -> RunResult:
    """Train a model as its recipe says, from the run's checkpoint if the run is resumed.

    Raises:
        ValueError: options that Lightning refuses, numbers that stay non-finite, or loading workers that died or hang.
        OSError: a checkpoint that could not be written.
    """
    ema = EmaWeights(recipe.training.ema_decay, recipe.training.ema_initial_updates) if options.ema else None
    stop = GracefulStop(options.max_minutes)
    prepare_for_speed(model, options)
    module = TrainingModule(model, recipe.training, seed=options.seed, max_skipped_steps=options.max_skipped_steps)
    with _quiet_lightning():
        loggers = build_loggers(options.loggers, folder)
        try:
            trainer = _build_trainer(options, recipe, folder, loggers)
        except (MisconfigurationException, ValueError) as error:
            raise ValueError(f"Lightning cannot run with these options: {error}") from error
        trainer.callbacks += _callbacks(trainer, data, options, recipe, folder, ema=ema, stop=stop)
        if trainer.is_global_zero:
            folder.record(options, recipe)
        _run(trainer, module, data, folder)
    if module.skipped.gave_up is not None:
        raise NonFiniteError(module.skipped.gave_up)
    return RunResult(
        folder=folder,
        step=trainer.global_step,
        stopped_by=stop.reason,
        signal=stop.signal,
        is_main_process=trainer.is_global_zero,
    )


def _run(trainer: pl.Trainer, module: TrainingModule, data: TrainingData, folder: RunFolder) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=folder.resume_from)
    except RuntimeError as error:
        failure = worker_error(error)
        if failure is None:
            raise
        end_workers()
        raise failure from error


def _callbacks(
    trainer: pl.Trainer,
    data: TrainingData,
    options: TrainOptions,
    recipe: Recipe,
    folder: RunFolder,
    *,
    ema: EmaWeights | None,
    stop: GracefulStop,
) -> list[pl.Callback]:
    """In this order: the average moves, the clock is read, and only then is saved."""
    return [
        *phases(recipe.training),
        *([ema] if ema else []),
        stop,
        StepProgress(_total_steps(trainer, data, options)),
        Checkpoints(
            _saver(ema, folder),
            every_epochs=options.checkpoint_every_epochs,
            every_minutes=options.checkpoint_every_minutes,
            every_steps=options.checkpoint_every_steps,
        ),
        *_validation(data, ema, options.validate_every_epochs),
        Throughput(data.batch_size),
        *([WorkerFailures()] if options.workers else []),
    ]


def _build_trainer(options: TrainOptions, recipe: Recipe, folder: RunFolder, loggers: list[Logger]) -> pl.Trainer:
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=build_strategy(options.strategy),
        precision="32-true" if options.precision == "32" else options.precision,
        plugins=[VerifiedCheckpointIO(folder.damaged), *cluster_plugins()],
        max_epochs=recipe.training.epochs,
        max_steps=options.max_steps or -1,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=recipe.training.clip_norm,
        logger=loggers,
        log_every_n_steps=options.log_every,
        use_distributed_sampler=False,  # our sampler takes its own share
        enable_checkpointing=False,  # our callbacks save and show
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def _total_steps(trainer: pl.Trainer, data: TrainingData, options: TrainOptions) -> int:
    steps = data.steps_per_epoch(trainer.world_size) * trainer.max_epochs
    if options.max_steps is not None and options.max_steps > steps:
        warnings.warn(
            f"--max-steps {options.max_steps} is never reached: {trainer.max_epochs} epochs are {steps} steps",
            stacklevel=2,
        )
    return min(steps, options.max_steps or steps)


def _validation(data: TrainingData, ema: EmaWeights | None, every_epochs: int | None) -> list[pl.Callback]:
    """Measures the weights that are saved, once they are."""
    if every_epochs is None or data.validation is None:
        return []
    weights = ema.applied_to if ema else contextlib.nullcontext
    return [
        OccupancyValidation(
            data.validation, every_epochs=every_epochs, weights_of_interest=weights, workers=data.workers
        )
    ]


def _saver(ema: EmaWeights | None, folder: RunFolder) -> Callable[[pl.Trainer], None]:
    """Writes model.safetensors and last.ckpt; each appears whole or not at all.

    The weights come first: a process killed between the two does the steps since the last checkpoint again, and writes
    the same weights again.
    """

    def save(trainer: pl.Trainer) -> None:
        model = trainer.lightning_module.model
        tensors = ema.weights() if ema else {}
        for name, tensor in model.state_dict().items():
            if name not in tensors:
                tensors[name] = whole(local(tensor), tensor)
        if trainer.is_global_zero:
            recorded = {"step": str(trainer.global_step), "averaged": "yes" if ema else "no"}
            _write_weights(_Weights(model.recipe, tensors), folder.weights, recorded)
        trainer.save_checkpoint(folder.checkpoint)

    return save


@dataclass(frozen=True)
class _Weights:
    """What :func:`bev_zoo.save_checkpoint` looks at in a model."""

    recipe: Recipe
    tensors: dict[str, Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


def _write_weights(weights: _Weights, path: Path, recorded: dict[str, str]) -> None:
    finished = path.with_name(path.name + ".new")
    with saving(path, finished):
        save_checkpoint(weights, finished, recorded)
        replace_durably(finished, path)


_EXPECTED_WARNINGS = (
    ".*does not have many workers",  # --workers is the user's choice
    ".*your dataloader is not resumable",  # its sampler is
    ".*is smaller than the logging interval",  # rows are counted over all epochs
    ".*treespec, LeafSpec",  # Lightning's own use of PyTorch
)


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silences what Lightning says about choices that were made on purpose."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        logger.setLevel(level)
