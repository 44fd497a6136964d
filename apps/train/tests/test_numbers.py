"""Losses and gradients that are not finite: named, left out, counted, and at last the end of the run."""

from __future__ import annotations

import csv
import math
import warnings

import pytest
import torch
from torch import nn

from bev_train.module import TrainingModule
from bev_train.numbers import NonFiniteError, SkippedSteps, first_non_finite

BATCH = 2  # of tiny_options; an epoch of 9 samples has 5 batches


def _draws(*batches: int) -> set[int]:
    """One draw in each of these batches, counted from 0."""
    return {BATCH * batch + 1 for batch in batches}


def _state(folder) -> dict:
    return torch.load(folder.checkpoint, weights_only=True)


def test_a_bad_batch_names_module_terms_and_samples_and_is_left_out(tiny_options, tiny_run) -> None:
    told = (
        r"the loss is not finite at step 2 \(heatmap = nan, box = nan; samples token\d, token\d; "
        r"first in the output of backbone\.stages\.0\.blocks\.0\): the step is left out"
    )
    with pytest.warns(UserWarning, match=told):
        result = tiny_run(tiny_options(), spoiled=_draws(2))
    assert result.step == 15
    state = _state(result.folder)
    assert state["skipped_steps"] == 1
    assert state["callbacks"]["EmaWeights"]["updates"] == 14
    assert state["lr_schedulers"][0]["last_epoch"] == 14
    assert {entry["step"].item() for entry in state["optimizer_states"][0]["state"].values()} == {14}
    assert all(torch.isfinite(tensor).all() for tensor in state["state_dict"].values())
    with result.folder.metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["skipped_steps"]) for row in rows] == [0, 0] + [1] * 13
    assert [math.isnan(float(row["loss"])) for row in rows] == [False, False, True] + [False] * 12


@pytest.mark.filterwarnings("ignore:.*the step is left out")
def test_a_step_that_is_left_out_leaves_everything_as_it_was(tiny_options, tiny_run, tmp_path) -> None:
    good = _state(tiny_run(tiny_options(out=tmp_path / "good", max_steps=3)).folder)
    bad = _state(tiny_run(tiny_options(max_steps=5), spoiled=_draws(3, 4)).folder)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        torch.testing.assert_close(good[key], bad[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.filterwarnings("ignore:.*the step is left out")
def test_too_many_in_a_row_end_the_run_with_the_last_good_state(tiny_options, tiny_run, tmp_path) -> None:
    good = _state(tiny_run(tiny_options(out=tmp_path / "good", max_steps=2)).folder)
    options = tiny_options(max_skipped_steps=2)
    with pytest.raises(NonFiniteError, match=r"step 4 .*3 steps in a row were left out .* state of the last good step"):
        tiny_run(options, spoiled=_draws(2, 3, 4))
    state = torch.load(options.folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.testing.assert_close(good["state_dict"], state["state_dict"], rtol=0, atol=0)
    assert state["skipped_steps"] == 3
    resumed = tiny_run(tiny_options(max_skipped_steps=2, resume=True))  # with good batches, it goes on after the bad
    assert resumed.step == 15
    assert _state(resumed.folder)["skipped_steps"] == 3


@pytest.mark.filterwarnings("ignore:.*the step is left out")
def test_single_ones_do_not_add_up(tiny_options, tiny_run) -> None:
    assert tiny_run(tiny_options(max_skipped_steps=1), spoiled=_draws(1, 3, 5, 7)).step == 15


def test_none_allowed(tiny_options, tiny_run) -> None:
    with warnings.catch_warnings(), pytest.raises(NonFiniteError, match="step 2"):
        warnings.simplefilter("error")
        tiny_run(tiny_options(max_skipped_steps=0), spoiled=_draws(2))


@pytest.mark.filterwarnings("ignore:.*the step is left out")
def test_one_bad_batch_of_an_accumulated_step_spoils_the_step(tiny_options, tiny_run, tmp_path) -> None:
    good = _state(tiny_run(tiny_options(out=tmp_path / "good", accumulate=2, max_steps=1)).folder)
    bad = _state(tiny_run(tiny_options(accumulate=2, max_steps=2), spoiled=_draws(2)).folder)
    torch.testing.assert_close(good["state_dict"], bad["state_dict"], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("gradient", "told"),
    [
        (float("inf"), r"the gradient is not finite at step 0 \(in layers\.2\.bias; samples token\d, token\d\)"),
        (1e30, r"the norm of the gradient is not finite at step 0 \(up to 1e\+30 in layers\.2\.bias; samples token"),
    ],
)
def test_a_gradient_without_a_norm_names_parameters_and_samples(
    tiny_options, tiny_run, monkeypatch, gradient: float, told: str
) -> None:
    step = TrainingModule.training_step

    def overflowing_step(self, *args):
        self.model.layers[2].bias.register_hook(lambda found: torch.full_like(found, gradient))
        return step(self, *args)

    monkeypatch.setattr(TrainingModule, "training_step", overflowing_step)
    with pytest.raises(NonFiniteError, match=told):
        tiny_run(tiny_options(max_skipped_steps=0))


class TestFirstNonFinite:
    def _model(self) -> nn.Sequential:
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))

    def test_forward(self) -> None:
        model = self._model()
        with torch.no_grad():
            model[2][0].weight.fill_(torch.inf)
        culprit = first_non_finite(model, lambda: {"a": model(torch.ones(1, 2)).sum()}, backward=True)
        assert str(culprit) == "first in the output of 2.0"

    def test_backward(self) -> None:
        model = self._model()
        losses = {"a": lambda: model(torch.ones(1, 2)).sum().mul(0).abs().sqrt()}  # finite, its slope is not
        culprit = first_non_finite(model, lambda: {name: loss() for name, loss in losses.items()}, backward=True)
        assert (culprit.module, culprit.what) == ("2.1", "gradient of the output")
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_nothing_found_and_nothing_left_behind(self) -> None:
        model = self._model()
        assert first_non_finite(model, lambda: {"a": model(torch.ones(1, 2)).sum()}, backward=True) is None
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(("by_scaler", "too_many_at"), [(False, 4), (True, 24)])
def test_a_gradient_scaler_may_look_for_its_scale(by_scaler: bool, too_many_at: int) -> None:
    steps = SkippedSteps(3)
    answers = [steps.skip(by_scaler=by_scaler) for _ in range(too_many_at)]
    assert answers == [False] * (too_many_at - 1) + [True]
