"""Counting operations: by hand, and against a counter around real calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bev_lss import CameraRig
from bev_zoo import Detector, Recipe, SwinOptions, count_flops, create_model, get_recipe
from bev_zoo.create import meta_model
from bev_zoo.flops import StageFlops, flop_counter

SIZE = (64, 96)


def small(name: str, **options: object) -> Recipe:
    return replace(get_recipe(name), input_size=SIZE, **options)


def with_swin() -> Recipe:
    recipe = get_recipe("bevdet-tiny-stereo")
    swin = SwinOptions(width=32, heads=(1, 2, 4, 8), depths=(2, 2, 2, 2), windows=(4, 4, 4, 4), neck_channels=32)
    return replace(recipe, input_size=SIZE, backbone=swin)


def after_the_view_transform() -> Recipe:
    recipe = get_recipe("bevdet-tiny-4d")
    return replace(recipe, input_size=SIZE, temporal=replace(recipe.temporal, align="after"))


def call_inputs(recipe: Recipe, frames: int) -> tuple[torch.Tensor, CameraRig]:
    lead = (1, frames, 6)
    rig = CameraRig(
        intrinsics=torch.tensor([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]).expand(*lead, 3, 3),
        cam_to_ego=torch.eye(4).expand(*lead, 4, 4),
        ego_to_global=torch.eye(4).expand(*lead, 4, 4),
        image_aug=torch.eye(3).expand(*lead, 3, 3),
        bev_aug=torch.eye(3).expand(1, 3, 3),
    )
    return torch.zeros(*lead, 3, *recipe.input_size), rig


def counted(run: Callable[[], object]) -> int:
    with flop_counter() as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


CAMERAS, FINE, COARSE = 6, 16 * 44, 8 * 22  # feature pixels of 128 x 352 at strides 8 and 16
WIDTH, BINS, CONTEXT, CELLS = 64, 59, 32, 64 * 64
BY_HAND = {
    # 1x1 convolutions of both levels (56 and 152 channels), a 3x3 convolution of the finer one
    "neck": 2 * CAMERAS * (FINE * 56 * WIDTH + COARSE * 152 * WIDTH + FINE * 9 * WIDTH * WIDTH),
    # one 1x1 convolution to depth and context; every context channel to every depth bin
    "view_transform": 2 * CAMERAS * (FINE * WIDTH * (BINS + CONTEXT) + BINS * FINE * CONTEXT),
    # three stages of one block with a projected shortcut: 48 channels at 64 x 64, 64 at 32 x 32, 96 at 16 x 16
    "bev_encoder": 2 * 9 * CELLS * (32 * 48 + 48 * 48 + 32 * 48)
    + 2 * 9 * CELLS // 4 * (48 * 64 + 64 * 64 + 48 * 64)
    + 2 * 9 * CELLS // 16 * (64 * 96 + 96 * 96 + 64 * 96),
    # a shared 3x3 convolution; six branches of a 3x3 convolution to 32 and one to their 10 + 2 + 1 + 3 + 2 + 2 numbers
    "head": 2 * 9 * CELLS * (48 * 48 + 6 * 48 * 32 + 32 * 20),
}


@pytest.mark.parametrize("stage", BY_HAND)
def test_stages_of_the_tiny_detector_by_hand(stage: str) -> None:
    flops = count_flops(get_recipe("bevdet-tiny"))
    geometry = 1e-4  # a few 3x3 matrices
    assert getattr(flops.per_stage, stage) == pytest.approx(BY_HAND[stage], rel=geometry)


@pytest.mark.parametrize(
    "recipe",
    [
        small("bevdet-tiny"),
        small("bevdet-tiny-4dlongterm"),
        small("bevdet-tiny-depth"),
        small("bevdet-tiny-stereo"),
        small("bevdet-tiny-occ"),
        after_the_view_transform(),
        with_swin(),
    ],
    ids=["single", "longterm", "depth", "stereo", "occupancy", "aligned after", "swin"],
)
def test_a_call_is_what_a_counter_around_it_sees(recipe: Recipe) -> None:
    model = Detector(recipe).eval()
    images, rig = call_inputs(recipe, recipe.frames)
    assert count_flops(recipe).total == pytest.approx(counted(lambda: model(images, rig)), rel=1e-4)


@pytest.mark.parametrize("recipe", [small("bevdet-tiny-4dlongterm"), small("bevdet-tiny-stereo")], ids=["4d", "stereo"])
def test_a_streamed_frame_is_what_a_counter_around_it_sees(recipe: Recipe) -> None:
    stream = Detector(recipe).stream(scene_start="hold-first")
    images, rig = call_inputs(recipe, 1)
    stream(images, rig)
    streaming = count_flops(recipe).streaming
    assert streaming.total == pytest.approx(counted(lambda: stream.raw(images, rig)), rel=1e-4)
    assert streaming.alignment > 0


def test_a_stream_costs_the_images_of_one_frame_whatever_the_history() -> None:
    short, long = (count_flops(get_recipe(f"bevdet-r50-{name}-cbgs")) for name in ("4d", "4dlongterm"))
    assert short.streaming.backbone == long.streaming.backbone == long.per_stage.backbone // 9


def test_a_system_without_history_is_not_streamed() -> None:
    assert count_flops(get_recipe("bevdet-tiny")).streaming is None


def test_a_model_counts_as_its_recipe_and_the_size_can_be_chosen() -> None:
    recipe = get_recipe("bevdet-tiny")
    wanted = count_flops(replace(recipe, input_size=SIZE))
    assert count_flops(recipe, SIZE) == wanted
    assert count_flops(create_model(recipe, input_size=SIZE)) == wanted
    assert count_flops(meta_model(recipe), SIZE) == wanted != count_flops(recipe)
    with pytest.raises(ValueError, match="multiples of 16"):
        count_flops(recipe, (60, 96))


def test_stages_add_up() -> None:
    stages = StageFlops(backbone=3, head=4)
    assert (stages * 2 + StageFlops(head=1)).total == 15
