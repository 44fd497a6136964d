"""One training step, the optimiser and its schedule, as Lightning wants them."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from bev_nuscenes import Batch
from bev_train.optimizer import build_optimizer, build_schedule
from bev_zoo import CameraRig, Targets, TrainingOptions

__all__ = ["NonFiniteError", "TrainingModule"]


class NonFiniteError(ValueError):
    """A loss or a gradient became infinite or NaN."""


class TrainingModule(pl.LightningModule):
    """Trains a detector: AdamW with layer decay, warm-up and step schedule, gradient clipping.

    Randomness of the network (dropout, drop path) is seeded anew for every batch from seed, process and number of the
    batch, so that a resumed run needs no stored random state.

    Args:
        model: what has ``loss(images, rig, targets) -> dict of scalar losses``.
        training: optimiser and schedule.
        seed: of the run.
    """

    def __init__(self, model: nn.Module, training: TrainingOptions, *, seed: int) -> None:
        super().__init__()
        self.model = model
        self.training_options = training
        self.seed = seed
        self._tokens: list[str] = []  # samples since the last optimiser step

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        consumed = self.trainer.fit_loop.epoch_loop.batch_progress.total.processed
        entropy = np.random.SeedSequence((self.seed, self.global_rank, consumed))
        torch.manual_seed(int(entropy.generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.model.loss(batch.images, CameraRig(**batch.cameras), _targets(batch))
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise NonFiniteError(_describe_losses(losses, batch.tokens, self.global_step))
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
        scaled = self.trainer.scaler is not None  # a gradient scaler skips steps that overflow by itself
        if not scaled and not torch.isfinite(norm):
            raise NonFiniteError(_describe_gradients(gradients, self._tokens, self.global_step))
        self._tokens.clear()
        clip_grads_with_norm_(self.model.parameters(), self.training_options.clip_norm, norm)
        self.log("gradient_norm", norm)

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


_ADVICE = "lower --learning-rate, or train with --precision 32"


def _describe_losses(losses: dict[str, Tensor], tokens: list[str], step: int) -> str:
    terms = ", ".join(f"{name} = {loss.item():g}" for name, loss in losses.items())
    return f"the loss is not finite at step {step} ({terms}; samples {', '.join(tokens)}): {_ADVICE}"


def _describe_gradients(gradients: dict[str, Tensor], tokens: list[str], step: int, shown: int = 4) -> str:
    names = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    samples = f"samples {', '.join(tokens)}"
    if not names:  # every entry is finite, the sum of their squares is not
        highest, largest = max((gradient.abs().max().item(), name) for name, gradient in gradients.items())
        what, where = "the norm of the gradient", f"up to {highest:g} in {largest}"
    else:
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        what, where = "the gradient", f"in {', '.join(names[:shown])}{more}"
    return f"{what} is not finite at step {step} ({where}; {samples}): {_ADVICE}"
