"""The model that is measured, and what it is fed with.

Shapes: B samples, T frames (newest first), N = 6 cameras, H x W network input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bev_bench.options import SystemOptions
from bev_bench.report import Fact
from bev_heads import CenterHead
from bev_zoo import (
    CameraRig,
    Detector,
    Recipe,
    create_model,
    get_recipe,
    load_checkpoint,
    nuscenes_rig,
    read_input_size,
)

__all__ = ["Inputs", "System", "build_system", "check_system", "make_inputs", "system_facts"]


class Inputs(NamedTuple):
    """What a detector is called with."""

    images: Tensor  # (B, T, N, 3, H, W)
    rig: CameraRig


class System(NamedTuple):
    """A model in evaluation mode, its inputs, and what to say of them."""

    model: Detector
    inputs: Inputs
    facts: tuple[Fact, ...]


def check_system(options: SystemOptions) -> Recipe:
    """The recipe, at the size it is measured at.

    Raises:
        ValueError: unknown recipe, a size it cannot have, or numbers that make no sense.
    """
    if options.samples < 1 or options.boxes < 1:
        raise ValueError(f"--samples and --boxes must be at least 1, got {options.samples} and {options.boxes}")
    recipe = get_recipe(options.recipe)
    trained_at = None if options.checkpoint is None else read_input_size(options.checkpoint)
    return replace(recipe, input_size=options.shape or trained_at or recipe.input_size)


def build_system(options: SystemOptions, recipe: Recipe, device: torch.device, seed: int) -> System:
    """A model with live signals at every stage and boxes to decode, and random images.

    Freshly drawn weights would find nothing, and suppressing nothing is fast. So batch norm gets the statistics of
    these very images, and the heat maps are shifted until the wanted number of candidates scores above the threshold.

    Raises:
        ValueError: a checkpoint that does not fit.
    """
    torch.manual_seed(seed)
    model = create_model(recipe).to(device).eval()
    inputs = make_inputs(recipe, options.samples, device, seed)
    if options.checkpoint is not None:
        load_checkpoint(model, options.checkpoint)
        weights = str(options.checkpoint)
    else:
        _bring_to_life(model, inputs, options.boxes)
        weights = f"random (seed {seed}), batch norm settled on the input"
        if recipe.task == "detection":
            weights += f", {options.boxes} candidates per sample above the score threshold"
    return System(model, inputs, system_facts(recipe, options.samples, weights))


def make_inputs(
    recipe: Recipe, samples: int, device: torch.device, seed: int, *, frames: int | None = None, now: int = 0
) -> Inputs:
    """Random images, coarse and fine, of a car that drives by.

    Args:
        recipe: of the model that will see them.
        samples: B.
        device: where they go.
        seed: of images and mountings.
        frames: T; as many as the recipe's model is called with if None.
        now: number of the newest key frame.
    """
    frames, (height, width) = frames or recipe.frames, recipe.input_size
    rig = nuscenes_rig(
        recipe.input_size,
        frames=frames,
        samples=samples,
        now=now,
        augmentation=recipe.image_augmentation,
        seed=seed,
    )
    generator = torch.Generator().manual_seed(seed + now)
    lead = (samples, frames, rig.num_cameras, 3)
    coarse, fine = (
        torch.randn(*lead, height // s, width // s, generator=generator)
        .repeat_interleave(s, dim=-2)
        .repeat_interleave(s, dim=-1)
        for s in (16, 4)
    )
    return Inputs((coarse + 0.5 * fine).to(device), rig.to(device))


def system_facts(recipe: Recipe, samples: int, weights: str) -> tuple[Fact, ...]:
    """What a report says of a system: the recipe, what it is fed with, and where its weights come from."""
    height, width = recipe.input_size
    per_sample = "1 frame" if recipe.frames == 1 else f"{recipe.frames} frames"
    return (
        Fact(name="recipe", value=recipe.name),
        Fact(name="input", value=f"{samples} x {per_sample} x 6 cameras x {height}x{width}, random images"),
        Fact(name="rig", value="nuScenes-like, made up; the same in every call"),
        Fact(name="weights", value=weights),
    )


@torch.no_grad()
def _bring_to_life(model: Detector, inputs: Inputs, boxes: int) -> None:
    with _settling_batch_norm(model):
        model(*inputs)
    if isinstance(model.head, CenterHead):
        _expect_boxes(model.head, model, inputs, boxes)


@contextmanager
def _settling_batch_norm(model: nn.Module) -> Iterator[None]:
    """Batch norm takes the statistics of the last call as its own; everything else is as in evaluation."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum


def _expect_boxes(head: CenterHead, model: Detector, inputs: Inputs, boxes: int) -> None:
    """Shift the heat map of every task so that it has its share of ``boxes`` candidates per sample."""
    outputs = model(*inputs)
    share = max(1, boxes // len(outputs))
    threshold = head.decode_options.score_threshold
    wanted = math.log(threshold / (1 - threshold))
    for task, output in zip(head.task_heads, outputs, strict=True):
        last = output.heatmap.flatten(1).topk(share + 1, dim=1).values[:, -1].mean()
        task.heatmap[-1].bias += wanted - last
