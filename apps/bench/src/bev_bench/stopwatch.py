"""The stopwatch: everything that is compared runs in turns, round by round, in one process.

A machine that is shared, or that warms up and slows down, changes from second to second. Contenders that take turns
see the same machine, so the ratio of two times of one round says more than the ratio of two medians.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import torch
from tqdm import tqdm

__all__ = ["Contender", "Phase", "Repetition", "Times", "measure", "synchronise"]

_LEAST_ROUNDS = 3
_LEAST_MS = 1.0  # of one time taken: what runs shorter is called several times, and the mean is taken
_MOST_CALLS = 1000
_LEAST_WARM_UP = 2  # calls: the first one may compile, and says nothing about the time of the next
_WARM_UP_SHARE = 0.25  # of the time allowed, for calls beyond that


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """How often things are measured.

    Attributes:
        repeats: rounds; in each every contender is timed once.
        warm_up: calls of each contender before the first round, at least two; fewer of them where a call takes long.
        max_seconds: fewer rounds, but three at least, where all of them would take longer than this.

    Raises:
        ValueError: no rounds, or no time for them.
    """

    repeats: int = 20
    warm_up: int = 3
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warm_up < 1 or self.max_seconds <= 0:
            raise ValueError(
                "--repeats and --warm-up must be at least 1 and --max-seconds above 0, got "
                f"{self.repeats}, {self.warm_up} and {self.max_seconds}"
            )


class Phase(NamedTuple):
    """A part of a contender that is timed on its own."""

    name: str
    run: Callable[[], object]


class Contender(NamedTuple):
    """One of the things compared: its phases run one after the other."""

    name: str
    phases: tuple[Phase, ...]

    @classmethod
    def of(cls, name: str, run: Callable[[], object]) -> Contender:
        """A contender of one phase."""
        return cls(name, (Phase(name, run),))

    def run(self) -> None:
        """All phases, once."""
        for phase in self.phases:
            phase.run()


@dataclass(frozen=True, kw_only=True)
class Times:
    """What was measured of one contender, milliseconds.

    Attributes:
        name: of the contender.
        phases: per phase the time of every round.
    """

    name: str
    phases: tuple[tuple[float, ...], ...]

    @property
    def total(self) -> tuple[float, ...]:
        """All phases together, per round."""
        return tuple(map(sum, zip(*self.phases, strict=True)))

    def ratios(self, first: Times) -> tuple[float, ...]:
        """How many times as fast as another contender, round by round."""
        return tuple(theirs / ours for theirs, ours in zip(first.total, self.total, strict=True))


def measure(contenders: Sequence[Contender], device: torch.device, repetition: Repetition, *, what: str) -> list[Times]:
    """Time contenders in turns; the one that begins changes from round to round.

    On a GPU the time runs from an event before the first call to an event after the last one, on an idle stream, so it
    covers what the host does in between.

    Args:
        contenders: what is compared; each leaves things so that it can run again.
        device: where they run.
        repetition: how often.
        what: said in front of the progress bar, which also tells how long it will take.

    Returns:
        Times in the order of the contenders, each with the same number of rounds.
    """
    estimates = [_warm_up(c, device, repetition, len(contenders)) for c in contenders]
    calls = [_calls(c, ms) for c, ms in zip(contenders, estimates, strict=True)]
    round_seconds = sum(ms * n for ms, n in zip(estimates, calls, strict=True)) / 1e3
    rounds = _rounds(repetition, round_seconds)
    taken: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    print(f"{what}: {rounds} rounds of {len(contenders)}, about {rounds * round_seconds:.1f} s", file=sys.stderr)
    with _quiet_memory(), tqdm(total=rounds * len(contenders), desc=what, leave=False) as bar:
        for number in range(rounds):
            for place in range(len(contenders)):
                i = (number + place) % len(contenders)
                taken[i].append(_time(contenders[i], device, calls[i]))
                bar.update()
    return [
        Times(name=c.name, phases=tuple(zip(*times, strict=True))) for c, times in zip(contenders, taken, strict=True)
    ]


def synchronise(device: torch.device) -> None:
    """Wait until a device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _warm_up(contender: Contender, device: torch.device, repetition: Repetition, contenders: int) -> float:
    """Run a contender until caches, clocks and compilers are warm; gives the milliseconds of the last call."""
    allowed = _WARM_UP_SHARE * repetition.max_seconds / contenders
    begin = perf_counter()
    for call in range(1, max(repetition.warm_up, _LEAST_WARM_UP) + 1):
        milliseconds = sum(_time(contender, device, calls=1))
        if call >= _LEAST_WARM_UP and perf_counter() - begin > allowed:
            break
    return milliseconds


def _calls(contender: Contender, milliseconds: float) -> int:
    """Calls per time taken; phases depend on each other, so several of them are called once."""
    if len(contender.phases) > 1:
        return 1
    return min(_MOST_CALLS, max(1, math.ceil(_LEAST_MS / max(milliseconds, 1e-6))))


def _rounds(repetition: Repetition, round_seconds: float) -> int:
    affordable = int(repetition.max_seconds / max(round_seconds, 1e-9))
    return min(repetition.repeats, max(_LEAST_ROUNDS, affordable))


def _time(contender: Contender, device: torch.device, calls: int) -> tuple[float, ...]:
    """Milliseconds of every phase."""
    clock = _EventClock(device) if device.type == "cuda" else _HostClock()
    clock.mark()
    for phase in contender.phases:
        for _ in range(calls):
            phase.run()
        clock.mark()
    return tuple(milliseconds / calls for milliseconds in clock.between())


class _HostClock:
    def __init__(self) -> None:
        self.marks: list[float] = []

    def mark(self) -> None:
        self.marks.append(perf_counter())

    def between(self) -> Iterator[float]:
        return ((end - begin) * 1e3 for begin, end in zip(self.marks, self.marks[1:], strict=False))


class _EventClock:
    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[torch.cuda.Event] = []
        synchronise(device)

    def mark(self) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        self.marks.append(event)

    def between(self) -> Iterator[float]:
        synchronise(self.device)
        return (begin.elapsed_time(end) for begin, end in zip(self.marks, self.marks[1:], strict=False))


@contextmanager
def _quiet_memory() -> Iterator[None]:
    """No garbage collection in the middle of a time."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
