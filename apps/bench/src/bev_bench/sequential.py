"""``bev-bench sequential``: one frame after the other, history kept inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count

import torch
from tqdm import tqdm

from bev_bench.device import begin
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import SequentialOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.stopwatch import Contender, Times, measure
from bev_bench.system import System, build_system, check_system, make_inputs
from bev_zoo import Recipe

__all__ = ["measure_sequential"]

_STEP_S = 0.5  # between key frames
_LONGER_HISTORY = 8  # that of the published long-term systems
_PLACES = 4  # different places the car is at in turn

_STREAMED, _LATER, _BATCH = "streamed frame", "streamed frame, later", "whole call"
_NOTES = (
    "streamed frame: one more frame of a stream whose history is full; later: the same, after many more frames, which "
    "must cost the same; whole call: predict with all its frames",
    "ratio: how many times as fast as a streamed frame with the shortest history, round by round; memory: beyond "
    "weights, history and input",
)


def measure_sequential(options: SequentialOptions) -> Report:
    """Measure streams of one system with short and long history.

    Raises:
        ValueError: a system without history, or a mistake in the options or the checkpoint.
    """
    device, repetition = begin(options.run)
    recipe = check_system(options.system)
    lengths = _lengths(options, recipe)
    systems = []
    for length in lengths:
        variant = replace(recipe, temporal=replace(recipe.temporal, history=length))
        systems.append(build_system(options.system, variant, device, options.run.seed))
    contenders = [contender for system in systems for contender in _contenders(system, options, device)]
    times = measure(contenders, device, repetition, what=recipe.name)
    memory = [working_mib(contender.run, device) for contender in contenders]
    rows = tuple(
        _row(f"history {lengths[i // 3]}", time, times[0], mib, len(systems[0].inputs.images))
        for i, (time, mib) in enumerate(zip(times, memory, strict=True))
    )
    facts = (*systems[lengths.index(max(lengths))].facts, Fact(name="later", value=f"{options.later} frames later"))
    return Report(command="sequential", facts=facts, rows=rows, notes=_NOTES, machine=this_machine(device))


def _lengths(options: SequentialOptions, recipe: Recipe) -> list[int]:
    own = recipe.temporal.history
    if own == 0:
        raise ValueError(f"{recipe.name} has no history to keep: choose a 4d recipe, or measure it with latency")
    if options.later < 1 or min(options.history, default=1) < 1:
        raise ValueError(f"--later and --history must be at least 1, got {options.later} and {options.history}")
    if options.system.checkpoint is None:
        return sorted(set(options.history or (1, own, _LONGER_HISTORY)))
    if options.history not in ((), (own,)):
        raise ValueError(f"--checkpoint fits a history of {own}: leave out --history")
    return [own]


def _contenders(system: System, options: SequentialOptions, device: torch.device) -> list[Contender]:
    history = system.model.recipe.temporal.history
    young = _next_frame(system, options.run.seed, device, seen=history + 1)
    old = _next_frame(system, options.run.seed, device, seen=history + 1 + options.later)
    return [
        Contender.of(f"history {history}, {_STREAMED}", young),
        Contender.of(f"history {history}, {_LATER}", old),
        Contender.of(f"history {history}, {_BATCH}", partial(system.model.predict, *system.inputs)),
    ]


def _next_frame(system: System, seed: int, device: torch.device, *, seen: int) -> Callable[[], object]:
    """What runs the next frame of a stream that has seen some."""
    recipe, samples = system.model.recipe, len(system.inputs.images)
    history = recipe.temporal.history
    places = [make_inputs(recipe, samples, device, seed, frames=1, now=now) for now in range(_PLACES)]
    stream = system.model.stream()
    numbers = count()

    def run() -> object:
        number = next(numbers)
        return stream(*places[number % _PLACES], timestamp=number * _STEP_S, scene="bench")

    for _ in tqdm(range(seen), desc=f"history {history}: the first {seen} frames", leave=False):
        run()
    return run


def _row(case: str, time: Times, first: Times, memory: float | None, samples: int) -> Row:
    figures = [
        Figure.of("frame", "ms", time.total),
        Figure.of("FPS", "", [1e3 * samples / ms for ms in time.total]),
        *([Figure.of("ratio", "", time.ratios(first))] if time is not first else []),
        *([] if memory is None else [Figure.exact("memory", "MiB", round(memory))]),
    ]
    return Row(case=case, setting=time.name.partition(", ")[2], figures=tuple(figures))
