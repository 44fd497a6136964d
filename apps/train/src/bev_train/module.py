"""One training step, the optimiser and its schedule, as Lightning wants them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bev_nuscenes import Batch
from bev_train.loops import settle_position
from bev_train.numbers import (
    BatchNormStatistics,
    SkippedSteps,
    describe_gradients,
    describe_losses,
    first_non_finite,
)
from bev_train.optimizer import build_optimizer, build_schedule
from bev_train.sharding import is_sharded, shard
from bev_zoo import CameraRig, Targets, TrainingOptions

__all__ = ["TrainingModule"]


class _Seen(NamedTuple):
    """A batch of the running step, kept in case it has to be looked at again."""

    batch: Batch
    losses: dict[str, Tensor]
    seed: int


class TrainingModule(pl.LightningModule):
    """Trains a detector: AdamW with layer decay, warm-up and step schedule, gradient clipping.

    Randomness of the network (dropout, drop path) is seeded anew for every batch from seed, process and number of the
    batch, so that a resumed run needs no stored random state.

    A step whose loss or gradient is not finite on any process is left out on all of them: weights, batch-norm
    statistics, optimiser, average and schedule stay as they are.

    Args:
        model: what has ``loss(images, rig, targets) -> dict of scalar losses``.
        training: optimiser and schedule.
        seed: of the run.
        max_skipped_steps: steps in a row that may be left out before training stops.

    Attributes:
        skipped: the steps that were left out.
    """

    def __init__(self, model: nn.Module, training: TrainingOptions, *, seed: int, max_skipped_steps: int = 0) -> None:
        super().__init__()
        self.model = model
        self.training_options = training
        self.seed = seed
        self.skipped = SkippedSteps(max_skipped_steps)
        self._statistics: BatchNormStatistics | None = None
        self._tokens: list[str] = []  # samples since the last optimiser step
        self._last: _Seen | None = None
        self._suspect: _Seen | None = None  # the first batch of the step whose loss is not finite

    def configure_model(self) -> None:
        """Share the weights out between processes if the strategy is to shard them."""
        if self.device_mesh is not None and not is_sharded(self.model):
            shard(self.model, self.device_mesh["data_parallel"])

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        consumed = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        entropy = np.random.SeedSequence((self.seed, self.global_rank, consumed))
        self._batch_seed = int(entropy.generate_state(1)[0])
        torch.manual_seed(self._batch_seed)
        if not self._tokens:  # the first batch of an optimiser step
            self._statistics = self._statistics or BatchNormStatistics(self.model)
            self._statistics.remember()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        self._last = _Seen(batch, {name: loss.detach() for name, loss in losses.items()}, self._batch_seed)
        if self._suspect is None and not torch.isfinite(total):
            self._suspect = self._last
        self._log_losses(losses, total, len(batch.tokens))
        self._tokens += batch.tokens
        return total

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(self.model, self.training_options)
        steps_per_epoch = self.trainer.datamodule.steps_per_epoch(self.trainer.world_size)
        schedule = build_schedule(optimizer, steps_per_epoch, self.training_options)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip to the recipe's norm and log the norm found; called with unscaled gradients, once per optimiser step."""
        gradients = {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        norm = get_total_norm(list(gradients.values()))
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        is_bad = self._suspect is not None or not torch.isfinite(norm)
        if self._on_any_process(is_bad):
            self._leave_out(gradients)
            optimizer.zero_grad(set_to_none=True)  # without gradients the optimiser does nothing
        else:
            clip_grads_with_norm_(self.model.parameters(), self.training_options.clip_norm, norm)
            self.skipped.take()
        self._tokens.clear()
        self._last = self._suspect = None
        self.log("gradient_norm", norm)
        self.log("skipped_steps", float(self.skipped.total))

    def lr_scheduler_step(self, scheduler: torch.optim.lr_scheduler.LRScheduler, metric: Any) -> None:
        if not self.skipped.is_now:
            scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = self.skipped.total
        settle_position(checkpoint["loops"]["fit_loop"], self.trainer.num_training_batches)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.skipped.total = checkpoint["skipped_steps"]

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.loss(batch.images, CameraRig(**batch.cameras), _targets(batch))

    def _leave_out(self, gradients: Mapping[str, Tensor]) -> None:
        """Undo what the step has done so far, say what is wrong, and stop if it is one time too many."""
        loss_is_bad = self._on_any_process(self._suspect is not None)
        by_scaler = self.trainer.scaler is not None and not loss_is_bad
        is_last = self.skipped.skip(by_scaler=by_scaler)
        text = None
        if is_last or not by_scaler:  # a scaler that looks for its scale is no news
            text = self._of_all_processes(self._describe(gradients, loss_is_bad))
        self._statistics.restore()
        if is_last:
            self.skipped.gave_up = (
                f"{text}: {self.skipped.in_a_row} steps in a row were left out and training stopped, with the state of "
                "the last good step saved; lower --learning-rate, train with --precision 32, or look at these samples"
            )
            self.trainer.should_stop = True
        elif text is not None and self.trainer.is_global_zero:
            warnings.warn(f"{text}: the step is left out", stacklevel=2)

    def _describe(self, gradients: Mapping[str, Tensor], loss_is_bad: bool) -> str | None:
        """What is wrong on this process; None if it is wrong elsewhere. Every process computes its batch again."""
        seen = self._suspect or self._last
        culprit = self._culprit(seen, backward=not loss_is_bad and not is_sharded(self.model))
        if loss_is_bad and self._suspect is None:
            return None
        if loss_is_bad:
            text = describe_losses(seen.losses, seen.batch.tokens, self.global_step)
        else:
            text = describe_gradients(gradients, self._tokens, self.global_step)
        return text if culprit is None else f"{text[:-1]}; {culprit})"

    def _culprit(self, seen: _Seen, *, backward: bool) -> object | None:
        def losses() -> dict[str, Tensor]:
            torch.manual_seed(seen.seed)
            with self.trainer.precision_plugin.train_step_context():
                return self._losses(seen.batch)

        with torch.enable_grad():
            return first_non_finite(self.model, losses, backward=backward)

    def _on_any_process(self, decision: bool) -> bool:
        return self.trainer.strategy.reduce_boolean_decision(bool(decision), all=False)

    def _of_all_processes(self, text: str | None) -> str:
        if self.trainer.world_size == 1:
            return text or ""
        texts: list[str | None] = [None] * self.trainer.world_size
        distributed.all_gather_object(texts, text)
        return "; ".join(f"process {rank}: {told}" for rank, told in enumerate(texts) if told)

    def _log_losses(self, losses: dict[str, Tensor], total: Tensor, batch_size: int) -> None:
        values = {"loss": total, **{f"loss/{name}": loss for name, loss in losses.items()}}
        values = {name: value.detach() for name, value in values.items()}
        self.log_dict(values, batch_size=batch_size, sync_dist=self.trainer.world_size > 1)
        self.log("learning_rate", max(self.lr_schedulers().get_last_lr()), batch_size=batch_size)


def _targets(batch: Batch) -> Targets:
    return Targets(
        boxes=batch.boxes,
        labels=batch.labels,
        depth=batch.depth,
        semantics=batch.semantics,
        mask_camera=batch.mask_camera,
    )
