"""The stopwatch: turns, rounds, phases."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bev_bench import Contender, Repetition, Times, measure
from bev_bench.stopwatch import Phase

CPU = torch.device("cpu")


def _recorder(name: str, record: list[str], *, phases: tuple[str, ...] = ("only",)) -> Contender:
    return Contender(name, tuple(Phase(phase, partial(record.append, f"{name} {phase}")) for phase in phases))


def test_contenders_take_turns_and_another_one_begins_each_round() -> None:
    record: list[str] = []
    contenders = [_recorder(name, record, phases=("begin", "end")) for name in "abc"]
    measure(contenders, CPU, Repetition(repeats=3, warm_up=2), what="test")
    warm_up, rounds = record[:12], record[12:]
    assert [call[0] for call in warm_up] == list("aaaabbbbcccc")
    assert [call[0] for call in rounds[::2]] == list("abc" + "bca" + "cab")
    assert {call.partition(" ")[2] for call in rounds[::2]} == {"begin"}
    assert [call.replace("begin", "end") for call in rounds[::2]] == rounds[1::2]


def test_every_contender_has_a_time_per_round_and_phase() -> None:
    one, two = measure(
        [_recorder("one", []), _recorder("two", [], phases=("a", "b"))], CPU, Repetition(repeats=4), what="test"
    )
    assert (one.name, [len(times) for times in one.phases]) == ("one", [4])
    assert (two.name, [len(times) for times in two.phases]) == ("two", [4, 4])
    assert two.total == tuple(a + b for a, b in zip(*two.phases, strict=True))
    assert all(ms > 0 for ms in one.total)


def test_what_is_short_is_called_often_and_its_mean_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr("bev_bench.stopwatch.perf_counter", lambda: next(clock) * 3e-5)  # 0.03 ms a look
    record: list[str] = []
    (times,) = measure([_recorder("short", record)], CPU, Repetition(repeats=2, warm_up=2), what="test")
    assert len(record) == 2 + 2 * 34  # a millisecond each time
    assert times.total == pytest.approx((0.03 / 34, 0.03 / 34))


def test_long_things_get_fewer_rounds_but_three(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr("bev_bench.stopwatch.perf_counter", lambda: next(clock) * 10.0)  # 10 s a look
    record: list[str] = []
    (times,) = measure([_recorder("long", record)], CPU, Repetition(repeats=9, warm_up=9, max_seconds=5), what="test")
    assert len(times.total) == 3
    assert len(record) == 2 + 3  # the warm-up is cut short too, but not below two


def test_ratios_are_taken_round_by_round() -> None:
    first, other = Times(name="first", phases=((8.0, 2.0),)), Times(name="other", phases=((1.0, 0.5), (1.0, 0.5)))
    assert other.ratios(first) == (4.0, 2.0)


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warm_up": 0}, {"max_seconds": 0.0}])
def test_nothing_to_repeat_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least 1 and --max-seconds above 0"):
        Repetition(**wrong)
