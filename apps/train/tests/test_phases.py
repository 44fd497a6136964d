"""What changes on the way: history sets in after an epoch, batch norm is shared from one on."""

from __future__ import annotations

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from bev_train.phases import share_batch_norm

STEPS = 5  # per epoch of tiny_options, which has three


@pytest.mark.filterwarnings("ignore:history stays off")
@pytest.mark.parametrize(
    ("last_epoch_without", "epochs_without"),
    [(None, 0), (-1, 0), (0, 1), (1, 2), (2, 3)],  # published: the number counts from 0 and is included
)
def test_history_sets_in_after_the_epoch(tiny_options, tiny_run, last_epoch_without, epochs_without) -> None:
    seen = {}
    tiny_run(tiny_options(), training={"temporal_start_epoch": last_epoch_without}, seen=seen)
    expected = [epoch >= epochs_without for epoch in range(3) for _ in range(STEPS)]
    assert seen["model"].history_used == expected
    assert seen["model"].use_history  # outside training, always


@pytest.mark.parametrize("stop_at", [2, 5, 7], ids=["before", "at its end", "after"])
def test_a_resumed_run_is_in_the_phase_it_was_left_in(tiny_options, tiny_run, stop_at) -> None:
    parts = []
    for change in ({"max_steps": stop_at}, {"resume": True}):
        tiny_run(tiny_options(**change), training={"temporal_start_epoch": 0}, seen=(seen := {}))
        parts.append(seen["model"].history_used)
    assert [len(part) for part in parts] == [stop_at, 3 * STEPS - stop_at]
    assert parts[0] + parts[1] == [False] * STEPS + [True] * 2 * STEPS


def test_a_run_that_dies_gives_history_back(tiny_options, tiny_run) -> None:
    seen = {}
    with pytest.raises(Exception, match="Died"):
        tiny_run(tiny_options(), training={"temporal_start_epoch": 1}, dies_at=3, seen=seen)
    assert seen["model"].history_used == [False] * 3
    assert seen["model"].use_history


def test_history_that_never_sets_in_is_said(tiny_options, tiny_run) -> None:
    with pytest.warns(UserWarning, match=r"history stays off: it sets in after 4 epochs, and the run has 3"):
        tiny_run(tiny_options(max_steps=1), training={"temporal_start_epoch": 3})


def test_shared_batch_norm_keeps_parameters_names_and_results() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, momentum=0.3),
        BatchNormAct2d(4),
        nn.Unflatten(3, (2, 1)),
        nn.BatchNorm3d(4),
    )
    before, images = dict(model.named_parameters()), torch.randn(5, 3, 2, 2)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(images)
    model.load_state_dict(state)
    share_batch_norm(model)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in model.modules()) == 3
    assert list(model.state_dict()) == list(state)
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert torch.equal(model(images), expected)  # one process: its own statistics, activation of timm's layer included


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_sharing_alone_changes_no_number(tiny_options, tiny_run, tmp_path, monkeypatch, first_epoch) -> None:
    plain = tiny_run(tiny_options(out=tmp_path / "plain"), seen=(seen_plain := {}))
    monkeypatch.setattr("bev_train.phases._can_share", lambda trainer: True)
    tiny_run(tiny_options(), training={"syncbn_start_epoch": first_epoch}, seen=(seen := {}))
    assert isinstance(seen["model"].layers[0], nn.SyncBatchNorm)
    assert plain.step == 3 * STEPS
    for name, tensor in seen_plain["model"].state_dict().items():
        assert torch.equal(seen["model"].state_dict()[name], tensor), name


@pytest.mark.parametrize(("first_epoch", "expected"), [(0, [0]), (2, [2]), (3, [])])
def test_sharing_begins_with_its_epoch(tiny_options, tiny_run, monkeypatch, first_epoch, expected) -> None:
    moments = []

    def note(model: nn.Module) -> None:
        moments.append(len(model.history_used) // STEPS)

    monkeypatch.setattr("bev_train.phases._can_share", lambda trainer: True)
    monkeypatch.setattr("bev_train.phases.share_batch_norm", note)
    tiny_run(tiny_options(), training={"syncbn_start_epoch": first_epoch})
    assert moments == expected


def test_without_gpus_batch_norm_stays_and_the_run_says_so(tiny_options, tiny_run) -> None:
    seen = {}
    with pytest.warns(UserWarning, match="batch norm is shared between GPUs only") as warned:
        tiny_run(tiny_options(), training={"syncbn_start_epoch": 1}, seen=seen)
    assert sum("batch norm" in str(warning.message) for warning in warned) == 1
    assert type(seen["model"].layers[0]) is nn.BatchNorm1d
