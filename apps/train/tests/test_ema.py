"""The average of the weights, against the published rule written out in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bev_train.ema import EmaWeights, ema_decay
from bev_train.numbers import SkippedSteps


class _Trainer:
    global_step = 0


class _Module:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.skipped = SkippedSteps(0)


def _started(model: nn.Module, ema: EmaWeights) -> EmaWeights:
    ema.on_train_start(_Trainer(), _Module(model))
    return ema


def _shake(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        else:
            tensor.add_(1)


@pytest.mark.parametrize(
    ("update", "decay"),
    [
        (1, 0.999 * (1 - math.exp(-1 / 2000))),
        (2000, 0.999 * (1 - math.exp(-1))),
        (10561, 0.999 * (1 - math.exp(-5.2805))),
    ],
)
def test_ramp(update: int, decay: float) -> None:
    assert ema_decay(update, 0.999) == pytest.approx(decay, rel=1e-12)


@pytest.mark.parametrize("initial_updates", [0, 10560])
def test_average_follows_parameters_and_float_buffers(initial_updates: int) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = _started(model, EmaWeights(0.999, initial_updates))
    expected = {name: t.double().numpy() for name, t in model.state_dict().items() if t.is_floating_point()}
    for number in range(1, 6):
        _shake(model, number)
        ema.update(model)
        keep = 0.999 * (1 - np.exp(-(initial_updates + number) / 2000))
        live = model.state_dict()
        expected = {name: keep * old + (1 - keep) * live[name].double().numpy() for name, old in expected.items()}
    assert {"1.running_mean", "1.running_var", "0.weight"} <= ema.average.keys()
    assert "1.num_batches_tracked" not in ema.average
    for name, average in ema.average.items():
        np.testing.assert_allclose(average.numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_restored_average_goes_on_where_it_was() -> None:
    model = nn.Linear(3, 2)
    straight = _started(model, EmaWeights(0.9, 5))
    _shake(model, 1)
    straight.update(model)
    resumed = EmaWeights(0.9, 5)
    resumed.load_state_dict(straight.state_dict())
    _started(model, resumed)
    _shake(model, 2)
    straight.update(model)
    resumed.update(model)
    assert resumed.updates == straight.updates == 7
    assert all(torch.equal(resumed.average[name], straight.average[name]) for name in straight.average)


def test_accumulating_batches_do_not_count() -> None:
    model, trainer = nn.Linear(2, 2), _Trainer()
    ema = EmaWeights(0.9, 0)
    ema.on_train_start(trainer, _Module(model))
    for trainer.global_step in (0, 1, 1, 2):
        ema.on_train_batch_end(trainer, _Module(model), None, None, 0)
    assert ema.updates == 2


def test_a_step_that_was_left_out_does_not_count() -> None:
    model, trainer = nn.Linear(2, 2), _Trainer()
    ema, module = EmaWeights(0.9, 0), _Module(model)
    ema.on_train_start(trainer, module)
    for trainer.global_step, module.skipped.is_now in ((1, False), (2, True), (3, False)):
        ema.on_train_batch_end(trainer, module, None, None, 0)
    assert ema.updates == 2


def test_average_is_lent_to_the_model_and_taken_back() -> None:
    model = nn.BatchNorm1d(2)
    ema = _started(model, EmaWeights(0.9, 0))
    before = ema.average["weight"].clone()
    _shake(model, 3)
    live = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with ema.applied_to(model):
        assert torch.equal(model.weight, before)
        assert model.num_batches_tracked == live["num_batches_tracked"]
    assert all(torch.equal(tensor, live[name]) for name, tensor in model.state_dict().items())
