"""The pooling cases are true to size: their points pile up as those of a real key frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bev_bench.cases.pool import PoolSize, plain_plan
from bev_lss import DepthBins

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference" / "view_transform.npz"


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"needs {REFERENCE}")
@pytest.mark.parametrize(
    ("system", "size"),
    [
        ("bevdet-r50", PoolSize(input_size=(256, 704), bins=DepthBins(1.0, 60.0, 1.0), cell_m=0.8)),
        (
            "bevdet-r50-4d-stereo-cbgs",
            PoolSize(input_size=(256, 704), bins=DepthBins(1.0, 60.0, 1.0, log_spaced=True), cell_m=0.8),
        ),
        (
            "bevdet-stbase-4d-stereo-512x1408-cbgs",
            PoolSize(input_size=(512, 1408), bins=DepthBins(1.0, 60.0, 0.5, log_spaced=True), cell_m=0.4),
        ),
    ],
    ids=["uniform", "log-spaced", "large, log-spaced"],
)
def test_points_pile_up_as_they_do_on_a_real_key_frame(system: str, size: PoolSize) -> None:
    points, kept, cells, longest, *_ = np.load(REFERENCE)[f"{system}/counts"].tolist()
    frustum = size.points(torch.device("cpu"))
    plan = plain_plan(frustum, size.grid())
    assert frustum.numel() // 3 == points
    assert len(plan.cell) == pytest.approx(kept, rel=0.01)
    assert len(plan.begin) == pytest.approx(cells, rel=0.03)
    assert int(plan.length.max()) == pytest.approx(longest, rel=0.05)
