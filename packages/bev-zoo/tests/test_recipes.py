"""Recipes: what they hold and how wrong names and options are answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bev_zoo import HeadOptions, TemporalOptions, create_model, get_recipe, list_recipes


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_knows_its_own_name(name: str) -> None:
    recipe = get_recipe(name)
    assert recipe.name == name
    assert len(recipe.classes) == (18 if recipe.task == "occupancy" else 10)
    assert recipe.frames == 1 + recipe.temporal.history + recipe.stereo


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("bevdet-r5", "bevdet-r50"),
        ("bevdet_tiny", "bevdet-tiny"),
        ("BEVDet-R50-CBGS", "did you mean"),
        ("zzz", "known are"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typed: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        get_recipe(typed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (250, 704)}, "multiples of 32"),
        ({"input_size": (0, 704)}, "multiples of 32"),
        ({"head": HeadOptions(tasks=(("car",),))}, "must list the classes in order"),
    ],
)
def test_options_that_cannot_work_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(get_recipe("bevdet-r50"), **change)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": -1}, "cannot be negative"),
        ({"align": "before"}, "align must be one of during, after"),
    ],
)
def test_temporal_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TemporalOptions(**options)


def test_alignment_can_be_chosen() -> None:
    assert get_recipe("bevdet-tiny-4d").temporal.align == "during"
    assert create_model("bevdet-tiny-4d", align="after").recipe.temporal.align == "after"
    with pytest.raises(ValueError, match="align must be one of"):
        create_model("bevdet-tiny-4d", align="never")


def test_input_size_can_be_chosen() -> None:
    assert create_model("bevdet-tiny", input_size=(64, 96)).recipe.input_size == (64, 96)


def test_pretrained_weights_need_a_name() -> None:
    with pytest.raises(ValueError, match="names no pre-trained weights"):
        create_model("bevdet-tiny", pretrained_backbone=True)
