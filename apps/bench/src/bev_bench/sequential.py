"""``bev-bench sequential``: one frame after the other, history kept inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from tqdm import tqdm

from bev_bench.device import begin
from bev_bench.exports import WEIGHTS_OF_EXPORTS, Export, export_inputs, open_exports
from bev_bench.machine import this_machine
from bev_bench.memory import working_mib
from bev_bench.options import SequentialOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_bench.stopwatch import Contender, Times, measure
from bev_bench.system import Inputs, System, build_system, check_system, make_inputs, system_facts
from bev_zoo import Recipe

__all__ = ["measure_sequential"]

_STEP_S = 0.5  # between key frames
_LONGER_HISTORY = 8  # that of the published long-term systems
_PLACES = 4  # different places the car is at in turn

_STREAMED, _LATER, _BATCH = "streamed frame", "streamed frame, later", "whole call"
_KINDS = 3  # of things measured per system
_NOTES = (
    "streamed frame: one more frame of a stream whose history is full; later: the same, after many more frames, which "
    "must cost the same; whole call: predict with all its frames",
    "ratio: how many times as fast as a streamed frame with the shortest history, round by round; memory: beyond "
    "weights, history and input",
)


def measure_sequential(options: SequentialOptions) -> Report:
    """Measure streams of one system with short and long history, and of exported models.

    Raises:
        ValueError: a system without history, or a mistake in the options, the checkpoint or the exports.
    """
    device, repetition = begin(options.run)
    recipe = check_system(options.system)
    lengths = _lengths(options, recipe)
    exports = open_exports(options.exports, options.system, recipe, options.run)
    streamed = _in_pytorch(options, recipe, lengths, device)
    if not streamed:
        device = exports[0].model.device
    streamed += [_exported(export, options) for export in exports]
    contenders = [contender for one in streamed for contender in one.contenders(options)]
    times = measure(contenders, device, repetition, what=recipe.name)
    rows = []
    for i, (time, contender) in enumerate(zip(times, contenders, strict=True)):
        one = streamed[i // _KINDS]
        memory = working_mib(contender.run, device) if one.own_memory else None
        rows.append(_row(one.case, time, times[0], memory, options.system.samples))
    facts = (*streamed[len(lengths) - 1].system.facts, Fact(name="later", value=f"{options.later} frames later"))
    return Report(command="sequential", facts=facts, rows=tuple(rows), notes=_NOTES, machine=this_machine(device))


class _Streamed(NamedTuple):
    """A system that is streamed, and what a report calls it."""

    case: str
    system: System
    inputs: Callable[..., Inputs]  # frames: T, now: number of the newest -> what the model is called with
    own_memory: bool  # allocated by PyTorch, which can tell how much

    def contenders(self, options: SequentialOptions) -> list[Contender]:
        history = self.system.model.recipe.temporal.history
        young = _next_frame(self, seen=history + 1)
        old = _next_frame(self, seen=history + 1 + options.later)
        return [
            Contender.of(f"{self.case}, {_STREAMED}", young),
            Contender.of(f"{self.case}, {_LATER}", old),
            Contender.of(f"{self.case}, {_BATCH}", partial(self.system.model.predict, *self.system.inputs)),
        ]


def _in_pytorch(
    options: SequentialOptions, recipe: Recipe, lengths: Sequence[int], device: torch.device
) -> list[_Streamed]:
    """The system in PyTorch with every length of history; nothing where only exported models are measured."""
    if options.exports.model and options.system.checkpoint is None:
        return []
    streamed = []
    for length in lengths:
        variant = replace(recipe, temporal=replace(recipe.temporal, history=length))
        system = build_system(options.system, variant, device, options.run.seed)
        inputs = partial(make_inputs, variant, options.system.samples, device, options.run.seed)
        streamed.append(_Streamed(f"history {length}", system, inputs, own_memory=True))
    return streamed


def _exported(export: Export, options: SequentialOptions) -> _Streamed:
    model, samples = export.model, options.system.samples
    inputs = partial(export_inputs, model, samples, options.run.seed)
    system = System(model, inputs(), system_facts(model.recipe, samples, WEIGHTS_OF_EXPORTS))
    return _Streamed(f"{export.name}, history {model.recipe.temporal.history}", system, inputs, own_memory=False)


def _lengths(options: SequentialOptions, recipe: Recipe) -> list[int]:
    own = recipe.temporal.history
    if own == 0:
        raise ValueError(f"{recipe.name} has no history to keep: choose a 4d recipe, or measure it with latency")
    if options.later < 1 or min(options.history, default=1) < 1:
        raise ValueError(f"--later and --history must be at least 1, got {options.later} and {options.history}")
    if options.system.checkpoint is None and not options.exports.model:
        return sorted(set(options.history or (1, own, _LONGER_HISTORY)))
    if options.history not in ((), (own,)):
        raise ValueError(f"these weights fit a history of {own}: leave out --history")
    return [own]


def _next_frame(streamed: _Streamed, *, seen: int) -> Callable[[], object]:
    """What runs the next frame of a stream that has seen some."""
    places = [streamed.inputs(frames=1, now=now) for now in range(_PLACES)]
    stream = streamed.system.model.stream()
    numbers = count()

    def run() -> object:
        number = next(numbers)
        return stream(*places[number % _PLACES], timestamp=number * _STEP_S, scene="bench")

    for _ in tqdm(range(seen), desc=f"{streamed.case}: the first {seen} frames", leave=False):
        run()
    return run


def _row(case: str, time: Times, first: Times, memory: float | None, samples: int) -> Row:
    figures = [
        Figure.of("frame", "ms", time.total),
        Figure.of("FPS", "", [1e3 * samples / ms for ms in time.total]),
        *([Figure.of("ratio", "", time.ratios(first))] if time is not first else []),
        *([] if memory is None else [Figure.exact("memory", "MiB", round(memory))]),
    ]
    return Row(case=case, setting=time.name.removeprefix(f"{case}, "), figures=tuple(figures))
