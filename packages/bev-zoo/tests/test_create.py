"""From a recipe to a model: options that reach their modules, models without memory, weights to start from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from bev_zoo import BackboneOptions, create_model, get_recipe
from bev_zoo.create import entry_shapes, meta_model

PRETRAINED = replace(
    get_recipe("bevdet-tiny"),
    input_size=(64, 96),
    backbone=BackboneOptions(name="resnet18", pretrained="tv_in1k", neck_channels=64),
)


def fake_timm(monkeypatch: pytest.MonkeyPatch, given: str) -> list[nn.Module]:
    """Timm without its network: in place of pre-trained weights it gives another, fresh network."""
    create, made = timm.create_model, []

    def fake(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if not pretrained:
            return create(name, **options)
        assert name == "resnet18.tv_in1k"
        made.append(create(given, **options))
        return made[-1]

    monkeypatch.setattr(timm, "create_model", fake)
    return made


def test_the_backbone_starts_from_all_of_the_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake_timm(monkeypatch, "resnet18")
    started = create_model(PRETRAINED, pretrained_backbone=True).backbone.body.state_dict()
    (source,) = (network.state_dict() for network in made)
    assert started.keys() == source.keys()
    assert all(torch.equal(started[name], tensor) for name, tensor in source.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [("resnet10t", "Missing key.*Unexpected key"), ("resnet34", "Unexpected key"), ("resnet14t", "Missing key")],
)
def test_weights_that_do_not_fit_the_backbone_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    fake_timm(monkeypatch, given)
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        create_model(PRETRAINED, pretrained_backbone=True)


@pytest.mark.parametrize("name", ["bevdet-tiny-stereo", "bevdet-tiny-occ"])
def test_a_model_without_memory_has_the_entries_of_a_real_one(name: str) -> None:
    recipe = replace(get_recipe(name), input_size=(64, 96))
    real = {key: tuple(tensor.shape) for key, tensor in create_model(recipe).state_dict().items()}
    assert all(tensor.is_meta for tensor in meta_model(recipe).state_dict().values())
    assert dict(entry_shapes(recipe)) == real


@pytest.mark.parametrize("checkpointing", [False, True])
def test_checkpointing_of_the_voxel_neck_is_an_option(checkpointing: bool) -> None:
    recipe = get_recipe("bevdet-tiny-occ")
    options = replace(recipe.bev_encoder, neck_checkpointing=checkpointing)
    assert meta_model(replace(recipe, bev_encoder=options)).bev_neck.checkpointing == checkpointing
