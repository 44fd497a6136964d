"""Memory of a call, beside what was there before."""

from __future__ import annotations

import sys

import pytest
import torch

from bev_bench.memory import working_mib

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is Linux'")
@pytest.mark.parametrize("mib", [32, 128])
def test_a_call_is_charged_what_it_touches_at_once(mib: int) -> None:
    before = torch.ones(64 * 2**18)  # not charged: it was there before

    def run() -> None:
        for _ in range(3):  # one after the other: not added up
            (torch.ones(mib * 2**18) + before[0]).sum()

    assert working_mib(run, CPU) == pytest.approx(2 * mib, abs=8)


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is Linux'")
def test_an_earlier_peak_is_forgotten() -> None:
    torch.ones(256 * 2**18).sum()
    assert working_mib(lambda: torch.ones(2**18).sum(), CPU) < 16


def test_nothing_is_said_where_the_mark_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("bev_bench.memory._CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert working_mib(lambda: None, CPU) is None
