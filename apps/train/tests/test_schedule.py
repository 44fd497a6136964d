"""The learning rate follows the published formula (mmcv: linear warm-up on top of the step policy)."""

from __future__ import annotations

import pytest

from bev_train.schedule import learning_rate_factor
from bev_zoo import TrainingOptions

CBGS = TrainingOptions(warmup_steps=200, warmup_ratio=0.001, milestones=(20,))
STEEP = TrainingOptions(warmup_steps=10, warmup_ratio=0.1, milestones=(1, 3), gamma=0.5)
COLD = TrainingOptions(warmup_steps=0, milestones=(1,))


@pytest.mark.parametrize(
    ("training", "step", "steps_per_epoch", "factor"),
    [
        (CBGS, 0, 1000, 0.001),
        (CBGS, 1, 1000, 1 - (1 - 1 / 200) * 0.999),
        (CBGS, 100, 1000, 0.5005),
        (CBGS, 199, 1000, 1 - (1 / 200) * 0.999),
        (CBGS, 200, 1000, 1.0),
        (CBGS, 19_999, 1000, 1.0),
        (CBGS, 20_000, 1000, 0.1),
        (STEEP, 5, 4, 0.5 * 0.55),  # warm-up longer than an epoch: both apply
        (STEEP, 11, 4, 0.5),
        (STEEP, 12, 4, 0.25),
        (COLD, 0, 7, 1.0),
        (COLD, 7, 7, 0.1),
    ],
)
def test_factor(training: TrainingOptions, step: int, steps_per_epoch: int, factor: float) -> None:
    assert learning_rate_factor(step, steps_per_epoch, training) == pytest.approx(factor, rel=1e-12)
