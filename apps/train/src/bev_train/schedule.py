"""The published learning-rate schedule, as a factor of the peak learning rate."""

from __future__ import annotations

from bev_zoo import TrainingOptions

__all__ = ["learning_rate_factor"]


def learning_rate_factor(step: int, steps_per_epoch: int, training: TrainingOptions) -> float:
    """Linear warm-up times step decay, as the published systems were trained (mmcv's ``step`` policy).

    Args:
        step: optimiser steps taken so far; 0 for the first.
        steps_per_epoch: optimiser steps of one epoch.
        training: warm-up, milestones (in epochs) and decay.

    Returns:
        What the peak learning rate is multiplied by: ``warmup_ratio`` at step 0, 1 after ``warmup_steps``,
        times ``gamma`` for every milestone reached.
    """
    epoch = step // steps_per_epoch
    decay = training.gamma ** sum(epoch >= milestone for milestone in training.milestones)
    if step >= training.warmup_steps:
        return decay
    progress = step / training.warmup_steps
    return decay * (1 - (1 - progress) * (1 - training.warmup_ratio))
