"""Models with live signals, inputs and targets that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bev_bench.options import SystemOptions
from bev_bench.system import build_system, check_system, make_inputs
from bev_bench.train import random_targets
from bev_ops import BevGrid
from bev_zoo import Recipe, create_model, get_recipe, save_checkpoint

CPU = torch.device("cpu")
SIZE = (64, 96)


def _small(name: str) -> Recipe:
    recipe = replace(get_recipe(name), input_size=SIZE)
    if recipe.task == "detection":
        return recipe
    grid = BevGrid(x=(-8.0, 8.0, 1.0), y=(-8.0, 8.0, 1.0), z=(-1.0, 7.0, 1.0))
    return replace(recipe, view=replace(recipe.view, grid=grid))


@pytest.mark.parametrize("name", ["bevdet-tiny", "bevdet-tiny-stereo", "bevdet-tiny-occ"])
def test_random_systems_run_and_say_what_they_are(name: str) -> None:
    recipe = _small(name)
    system = build_system(SystemOptions(recipe=name, samples=2, boxes=30), recipe, CPU, seed=0)
    facts = {fact.name: fact.value for fact in system.facts}
    assert facts["recipe"] == name
    assert facts["input"].startswith(f"2 x {recipe.frames} frame")
    assert ("30 candidates" in facts["weights"]) == (recipe.task == "detection")
    found = system.model.predict(*system.inputs)
    assert len(found) == 2
    if recipe.task == "detection":
        threshold = recipe.head.decode.score_threshold
        scores = torch.cat([task.heatmap.sigmoid().flatten() for task in system.model(*system.inputs)])
        assert int((scores > threshold).sum()) == pytest.approx(2 * 30, abs=4)


def test_equal_seeds_give_equal_systems() -> None:
    options, recipe = SystemOptions(recipe="bevdet-tiny"), _small("bevdet-tiny")
    first, again, other = (build_system(options, recipe, CPU, seed) for seed in (0, 0, 1))
    assert torch.equal(first.inputs.images, again.inputs.images)
    assert not torch.equal(first.inputs.images, other.inputs.images)
    weights = first.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())


def test_a_checkpoint_brings_weights_and_size(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    trained = create_model("bevdet-tiny", input_size=SIZE)
    save_checkpoint(trained, path)
    options = SystemOptions(recipe="bevdet-tiny", checkpoint=path)
    recipe = check_system(options)
    assert recipe.input_size == SIZE
    system = build_system(options, recipe, CPU, seed=5)
    weights = system.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in trained.state_dict().items())
    assert {fact.name: fact.value for fact in system.facts}["weights"] == str(path)


@pytest.mark.parametrize("name", ["bevdet-tiny", "bevdet-tiny-stereo", "bevdet-tiny-occ"])
def test_targets_fit_what_the_recipe_learns(name: str) -> None:
    recipe = _small(name)
    losses = create_model(recipe).loss(*make_inputs(recipe, 2, CPU, 0), random_targets(recipe, 2, CPU, 0))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert ("loss_depth" in losses) == (recipe.view.depth_loss_weight is not None)
