"""Stereo matching by sampling against the operator of bev-ops."""

from __future__ import annotations

import pytest
import torch

from bev_deploy import matching
from bev_deploy.matching import matching_by_sampling
from bev_lss import DepthBins
from bev_ops import matching_probability
from bev_temporal import camera_to_previous, previous_views
from bev_zoo import nuscenes_rig

SIZE, STRIDE = (64, 96), 4
BINS = DepthBins(1.0, 30.0, 1.0, log_spaced=True)


@pytest.mark.parametrize("warped", [1 << 26, 1], ids=["all channels at once", "four at a time"])
def test_probabilities_equal_those_of_the_operator(monkeypatch: pytest.MonkeyPatch, warped: int) -> None:
    monkeypatch.setattr(matching, "_WARPED", warped)
    rig = nuscenes_rig(SIZE, frames=2, rolling=True)
    size = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
    matrices = (camera_to_previous(rig)[0, 0], rig.intrinsics[0, 0], rig.image_aug[0, 0])
    views = previous_views(*matrices, size, STRIDE)
    generator = torch.Generator().manual_seed(0)
    current, previous = torch.rand(2, 6, 12, *size, generator=generator).relu()
    previous[:, :, :3] = 0  # features that are zero count as unseen, as published
    arguments = (views, BINS.values(), STRIDE, 5.0)
    wanted = matching_probability(current, previous, *arguments)
    got = matching_by_sampling(current, previous, *arguments)
    # A position on the very border of the map may be seen by one and not by the other.
    assert ((got - wanted).abs() > 1e-4).float().mean() < 1e-4
    torch.testing.assert_close(got.sum(1), torch.ones(6, *size))
