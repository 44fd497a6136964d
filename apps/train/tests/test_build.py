"""The recipe and the data that follow from the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bev_nuscenes import DataOptions
from bev_train.build import build_data
from bev_train.resolve import resolve_recipe
from bev_zoo import get_recipe

KEY_FRAMES = Path(__file__).resolve().parents[4] / "shared" / "data" / "nuscenes-keyframes"


def test_the_recipe_rules_unless_told_otherwise(tiny_options) -> None:
    plain = resolve_recipe(tiny_options(recipe="bevdet-r50-cbgs", epochs=None, batch_size=None, warmup_steps=None))
    assert plain == get_recipe("bevdet-r50-cbgs")


def test_options_change_the_recipe(tiny_options) -> None:
    own = get_recipe("bevdet-tiny").training
    options = tiny_options(epochs=2 * own.epochs, learning_rate=1e-3, class_balanced="on", input_size=(64, 96))
    recipe = resolve_recipe(options)
    assert recipe.input_size == (64, 96)
    assert recipe.training == replace(
        own,
        epochs=2 * own.epochs,
        milestones=tuple(2 * milestone for milestone in own.milestones),
        learning_rate=1e-3,
        class_balanced=True,
        batch_size=options.batch_size,
        warmup_steps=options.warmup_steps,
    )


def test_milestones_asked_for_are_not_stretched(tiny_options) -> None:
    assert resolve_recipe(tiny_options(epochs=48, milestones=(10,))).training.milestones == (10,)


@pytest.mark.skipif(not KEY_FRAMES.is_dir(), reason=f"needs the real key frames in {KEY_FRAMES}")
class TestOnKeyFrames:
    @pytest.fixture
    def options(self, tiny_options, tmp_path):
        return tiny_options(data=DataOptions(root=str(KEY_FRAMES), index=tmp_path / "index.npz"), batch_size=1)

    def test_without_augmentation_every_draw_is_the_same(self, options) -> None:
        options = replace(options, augment=False)
        dataset = build_data(options, resolve_recipe(options)).dataset
        dataset.set_epoch(0)
        first = dataset[0]
        dataset.set_epoch(1)
        assert torch.equal(first.images, dataset[0].images)
        assert torch.equal(first.cameras["bev_aug"], torch.eye(3))

    def test_augmentation_differs_between_epochs(self, options) -> None:
        dataset = build_data(options, resolve_recipe(options)).dataset
        first = dataset[0]
        dataset.set_epoch(1)
        assert not torch.equal(first.images, dataset[0].images)

    @pytest.mark.parametrize(
        ("recipe", "frames", "with_depth", "with_occupancy"),
        [
            ("bevdet-r50", 1, False, False),
            ("bevdet-r50-4d-cbgs", 2, False, False),
            ("bevdet-r50-4d-depth-cbgs", 2, True, False),
            ("bevdet-r50-4dlongterm-stereo-cbgs", 10, True, False),
            ("bevdet-occ-r50-4d-stereo-24e", 3, True, True),
        ],
    )
    def test_a_recipe_reads_what_it_learns_from(self, options, recipe, frames, with_depth, with_occupancy) -> None:
        options = replace(options, recipe=recipe)
        dataset = build_data(options, resolve_recipe(options)).dataset
        assert (dataset.frames, dataset.with_depth, dataset.with_occupancy) == (frames, with_depth, with_occupancy)

    def test_validation_sees_what_evaluation_sees(self, options) -> None:
        options = replace(options, recipe="bevdet-tiny-occ", validate_every_epochs=1)
        validation = build_data(options, resolve_recipe(options)).validation
        assert (validation.split, validation.training, validation.with_occupancy) == ("mini_val", False, True)

    @pytest.mark.parametrize(("recipe", "wanted"), [("bevdet-tiny", True), ("bevdet-r50", False)])
    def test_lidar_is_read_only_for_recipes_that_learn_depth_from_it(self, options, recipe, wanted) -> None:
        options = replace(options, recipe=recipe)
        assert (build_data(options, resolve_recipe(options)).dataset[0].depth is not None) == wanted

    def test_class_balanced_sampling_draws_samples_of_every_class(self, options) -> None:
        options = replace(options, class_balanced="on")
        data = build_data(options, resolve_recipe(options))
        classes = data.dataset.index.class_presence(data.dataset.positions).sum()
        assert classes > 1
        assert len(data.epochs) == classes  # one sample holds them all, and is drawn once for each
