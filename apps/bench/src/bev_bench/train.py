"""``bev-bench train``: optimiser steps on random data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import TrainBenchOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.settings import PRECISIONS, Precision
from bev_bench.stopwatch import Contender, Phase, Times, measure
from bev_bench.system import Inputs, make_inputs
from bev_zoo import Detector, Recipe, Targets, create_model, get_recipe, parameter_groups

__all__ = ["measure_training", "random_targets"]

_OBJECTS = 40  # boxes of a sample: what nuScenes has on average, roughly
_LIDAR_SHARE = 0.02  # pixels of a 256x704 input that a LiDAR point falls on, roughly
_NOTES = (
    "forward: model and losses; optimiser: clipping and AdamW; random images and targets: no data are read",
    "ratio: how many times as fast as the first precision, round by round; memory: of one step with its gradients, "
    "beyond weights and optimiser state",
)


def measure_training(options: TrainBenchOptions) -> Report:
    """Measure whole training steps of a recipe.

    Raises:
        ValueError: a mistake in the options.
    """
    device, repetition = begin(options.run)
    recipe = _checked_recipe(options)
    steps = [_Step(recipe, options, precision, device) for precision in options.precision]
    contenders = [Contender(step.name, step.phases()) for step in steps]
    times = measure(contenders, device, repetition, what=recipe.name)
    memory = [working_mib(contender.run, device) for contender in contenders]
    rows = [_row(step, time, times[0], mib) for step, time, mib in zip(steps, times, memory, strict=True)]
    height, width = recipe.input_size
    facts = (
        Fact(name="recipe", value=recipe.name),
        Fact(name="batch", value=f"{options.batch_size} x {recipe.frames} frames x 6 cameras x {height}x{width}"),
        Fact(name="memory format", value="channels last" if options.channels_last else "contiguous"),
        Fact(name="weights", value=f"random (seed {options.run.seed})"),
    )
    return Report(command="train", facts=facts, rows=tuple(rows), notes=_NOTES, machine=this_machine(device))


def random_targets(recipe: Recipe, samples: int, device: torch.device, seed: int) -> Targets:
    """Ground truth of the right kinds and sizes: boxes, LiDAR depth, voxels, as the recipe learns from."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    lower, upper = torch.tensor(recipe.view.grid.lower), torch.tensor(recipe.view.grid.upper)
    boxes = []
    for _ in range(samples):
        centres = lower + (upper - lower) * uniform(_OBJECTS, 3)
        size, yaw, velocity = 0.5 + 4 * uniform(_OBJECTS, 3), 6.28 * uniform(_OBJECTS, 1), uniform(_OBJECTS, 2)
        boxes.append(torch.cat([centres, size, yaw, velocity], dim=1).to(device))
    labels = [(uniform(_OBJECTS) * len(recipe.classes)).long().to(device) for _ in range(samples)]
    depth = semantics = mask = None
    if recipe.view.depth_loss_weight is not None:
        shape = (samples, 6, *recipe.input_size)
        depth = torch.where(uniform(*shape) < _LIDAR_SHARE, 1 + 50 * uniform(*shape), 0.0).to(device)
    if recipe.task == "occupancy":
        voxels = (samples, *recipe.view.grid.size)
        semantics = (uniform(*voxels) * len(recipe.classes)).to(torch.uint8).to(device)
        mask = (uniform(*voxels) < 0.3).to(device)
    return Targets(boxes, labels, depth, semantics, mask)


class _Step:
    """One training step, in three phases that hand each other what they need."""

    def __init__(self, recipe: Recipe, options: TrainBenchOptions, precision: Precision, device: torch.device) -> None:
        seed, self.samples = options.run.seed, options.batch_size
        torch.manual_seed(seed)
        self.name: str = precision
        self.recipe, self.device, self.dtype = recipe, device, PRECISIONS[precision]
        self.model = _model(recipe, device, channels_last=options.channels_last)
        self.inputs: Inputs = make_inputs(recipe, self.samples, device, seed)
        self.targets = random_targets(recipe, self.samples, device, seed)
        settings = recipe.training
        self.optimizer = torch.optim.AdamW(
            [{k: v for k, v in group.items() if k != "names"} for group in parameter_groups(self.model, settings)],
            lr=settings.learning_rate * settings.warmup_ratio,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.loss = torch.zeros(())

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("forward", self.forward), Phase("backward", self.backward), Phase("optimiser", self.update))

    def forward(self) -> None:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            self.loss = torch.stack(list(self.model.loss(*self.inputs, self.targets).values())).sum()

    def backward(self) -> None:
        self.scaler.scale(self.loss).backward()

    def update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.training.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def _model(recipe: Recipe, device: torch.device, *, channels_last: bool) -> Detector:
    model = create_model(recipe).to(device).train()
    formats = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}
    for parameter in model.parameters():
        if parameter.ndim in formats:
            parameter.data = parameter.data.contiguous(memory_format=formats[parameter.ndim])
    return model


def _checked_recipe(options: TrainBenchOptions) -> Recipe:
    if options.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {options.batch_size}")
    if not options.precision or len(set(options.precision)) < len(options.precision):
        raise ValueError(f"--precision wants different types, got {' '.join(options.precision) or 'none'}")
    recipe = get_recipe(options.recipe)
    return recipe if options.shape is None else replace(recipe, input_size=options.shape)


def _row(step: _Step, time: Times, first: Times, memory: float | None) -> Row:
    phases: Sequence[Figure] = [
        Figure.of(phase.name, "ms", values) for phase, values in zip(step.phases(), time.phases, strict=True)
    ]
    figures = (
        Figure.of("samples", "1/s", [1e3 * step.samples / ms for ms in time.total]),
        *phases,
        Figure.of("step", "ms", time.total),
        *([Figure.of("ratio", "", time.ratios(first))] if time is not first else []),
        *([] if memory is None else [Figure.exact("memory", "MiB", round(memory))]),
    )
    return Row(case=step.recipe.name, setting=step.name, figures=figures)
