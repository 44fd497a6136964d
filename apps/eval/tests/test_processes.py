"""A split shared out between processes: every sample once, in the order of one process, with its results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bev_eval.predict import groups_of
from bev_eval.processes import Processes, gathered


class _Split:
    """Seven samples in order of time, of three scenes that overlap."""

    positions = np.arange(7)
    index = SimpleNamespace(frames=SimpleNamespace(scenes=np.array([1, 0, 1, 0, 2, 2, 1])))

    def __len__(self) -> int:
        return 7


@pytest.fixture
def nobody_waits(monkeypatch) -> None:
    """The processes of these tests run one after the other, the main one last."""
    monkeypatch.setattr(Processes, "wait_for_all", lambda self: None)


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({"batch_size": 1}, [[0], [1], [2], [3], [4], [5], [6]]),
        ({"batch_size": 3}, [[0, 1, 2], [3, 4, 5], [6]]),  # the batches of one process, so that the numbers are its own
        ({"stream": True}, [[1, 3], [0, 2, 6], [4, 5]]),  # whole scenes
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_every_sample_once_and_in_order(nobody_waits, tmp_path: Path, options, groups, count: int) -> None:
    assert groups_of(_Split(), **options) == groups
    sizes = [len(group) for group in groups]
    for rank in reversed(range(count)):
        processes = Processes(rank, count)
        rows = list(gathered((i for group in processes.share(groups) for i in group), sizes, tmp_path, processes))
        assert rows == ([i for group in groups for i in group] if rank == 0 else [])
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_leaves_no_rows_of_the_main_one(nobody_waits, tmp_path: Path) -> None:
    def failing():
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(gathered(failing(), [1, 1], tmp_path, Processes(0, 2)))
    assert not list(tmp_path.iterdir())
