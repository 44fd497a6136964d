"""How programs on this data report mistakes: one line for the user's, a traceback for ours."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from bev_nuscenes import DataError
from bev_nuscenes.command_line import run_program


class _Damaged:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise DataError("image a.jpg is missing: fetch it again")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_data_worker_is_as_short(capsys, workers) -> None:
    assert run_program("bev-x", lambda: next(iter(DataLoader(_Damaged(), num_workers=workers)))) == 2
    assert capsys.readouterr().err == "bev-x: error: image a.jpg is missing: fetch it again\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        run_program("bev-x", lambda: torch.nn.BatchNorm1d(2)(torch.zeros(1, 2)))


def test_debug_shows_the_traceback_of_a_mistake(monkeypatch) -> None:
    monkeypatch.setenv("BEVKIT_DEBUG", "1")
    with pytest.raises(DataError):
        run_program("bev-x", lambda: _Damaged()[0])
