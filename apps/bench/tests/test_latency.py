"""What can be compared with what."""

from __future__ import annotations

import pytest
import torch

from bev_bench.latency import _Candidate
from bev_bench.system import Inputs
from bev_zoo import nuscenes_rig

PREPARED, CAMERA = torch.zeros(1, 1, 6, 3, 64, 96), torch.zeros(1, 1, 6, 900, 1600, 3, dtype=torch.uint8)


def _candidate(images: torch.Tensor, *, raw: bool = True) -> _Candidate:
    outputs = torch.zeros(1) if raw else None
    inputs = Inputs(images, nuscenes_rig((64, 96)))
    return _Candidate("some", inputs, list, list, list, outputs, outputs, own_memory=False)


@pytest.mark.parametrize(
    ("one", "other", "comparable"),
    [
        (_candidate(PREPARED), _candidate(PREPARED), True),
        (_candidate(CAMERA), _candidate(CAMERA), True),
        (_candidate(PREPARED), _candidate(CAMERA), False),  # other noise: outputs differ, and say nothing
        (_candidate(PREPARED), _candidate(PREPARED, raw=False), False),
    ],
)
def test_raw_outputs_of_the_same_images_are_compared(one: _Candidate, other: _Candidate, comparable: bool) -> None:
    assert one.is_comparable(other) == other.is_comparable(one) == comparable
