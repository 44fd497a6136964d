"""Ways of computing that change no result, or only its rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bev_train.resolve import resolve_recipe
from bev_train.speed import prepare_for_speed, recompute
from bev_train.stages import stages
from bev_zoo import create_model, get_recipe


def _step(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], dict[str, torch.Tensor]]:
    """Loss, gradients and buffers after one step in training mode."""
    torch.manual_seed(1)
    model.train()
    loss = model(images).square().mean()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()], dict(model.named_buffers())


def _network() -> nn.Module:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.2))
    return nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("again", [1, 2])
def test_recomputing_changes_neither_loss_nor_gradients_nor_statistics(again: int) -> None:
    plain, images = _network(), torch.randn(2, 3, 8, 8)
    recomputing = copy.deepcopy(plain)
    recompute(recomputing[1])
    assert recomputing.state_dict().keys() == plain.state_dict().keys()
    for _ in range(again):
        torch.testing.assert_close(_step(recomputing, images), _step(plain, images), rtol=0, atol=0)


def test_recomputing_saves_what_lies_between() -> None:
    model = _network()
    kept: list[int] = []

    def count() -> int:
        kept.clear()
        note = lambda tensor: (kept.append(tensor.numel()), tensor)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(torch.randn(2, 3, 32, 32))
        return sum(kept)

    before = count()
    recompute(model[1])
    assert count() < 0.8 * before


@pytest.mark.parametrize(("recipe", "count"), [("bevdet-tiny", 4 + 3), ("bevdet-tiny-4d", 4 + 1 + 3)])
def test_stages_of_a_detector(recipe: str, count: int) -> None:
    found = stages(create_model(get_recipe(recipe)))
    assert len(found) == len(set(map(id, found)))
    assert len(found) == count


@pytest.mark.parametrize(
    "option", ["checkpoint_activations", "channels_last", pytest.param("compile", marks=pytest.mark.slow)]
)
def test_a_detector_computes_the_same(tiny_options, option: str) -> None:
    torch.manual_seed(0)
    plain = create_model(get_recipe("bevdet-tiny"), input_size=(64, 96))
    other = copy.deepcopy(plain)
    prepare_for_speed(other, tiny_options(**{option: True}))
    assert other.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 64, 96)
    outputs = [list(model.backbone.train()(images)) for model in (plain, other)]
    exact = option == "checkpoint_activations"
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
    torch.testing.assert_close(outputs[0], outputs[1], **tolerance)
    gradients = []
    for model, levels in zip((plain, other), outputs, strict=True):
        sum(level.square().mean() for level in levels).backward()
        gradients.append({name: p.grad for name, p in model.backbone.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], **tolerance)
    torch.testing.assert_close(dict(plain.named_buffers()), dict(other.named_buffers()), **tolerance)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"compile": True, "checkpoint_activations": True}, "exclude each other"),
        ({"strategy": "fsdp", "validate_every_epochs": 1}, "needs the whole model in every process"),
        ({"worker_timeout": 5.0, "workers": 0}, "--worker-timeout watches loading workers"),
        ({"max_skipped_steps": -1}, "--max-skipped-steps must not be negative"),
        ({"checkpoint_every_steps": 0}, "--checkpoint-every-steps must be above 0"),
    ],
)
def test_options_without_sense(tiny_options, changes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        resolve_recipe(tiny_options(**changes))


def test_sync_bn_from_the_first_epoch(tiny_options) -> None:
    assert resolve_recipe(tiny_options(sync_bn=True)).training.syncbn_start_epoch == 0
