"""Pooling by tables against bev_pool, and what tables hold."""

from __future__ import annotations

import pytest
import torch

from bev_deploy import TableBounds, TableOverflowError, pool_tables
from bev_deploy.pooling import pool_by_tables
from bev_ops import BevGrid, PoolPlan, bev_pool

FLAT = BevGrid(x=(-8.0, 8.0, 1.0), y=(-6.0, 6.0, 1.0), z=(-5.0, 3.0, 8.0))
TALL = BevGrid(x=(-8.0, 8.0, 2.0), y=(-6.0, 6.0, 2.0), z=(-4.0, 4.0, 1.0))
SHAPE = (2, 3, 7, 5, 4)  # B, N, D, h, w


def some_points(spread: float) -> torch.Tensor:
    """Columns that mostly stay in one cell, as image columns do."""
    generator = torch.Generator().manual_seed(0)
    b, n, d, h, w = SHAPE
    column = spread * (torch.rand(b, n, d, 1, w, 3, generator=generator) - 0.5)
    return column + 0.4 * torch.rand(b, n, d, h, w, 3, generator=generator)


CASES = {
    "columns of one cell": (FLAT, some_points(14.0)),
    "voxels": (TALL, some_points(10.0)),
    "one cell takes all": (FLAT, some_points(0.0)),
    "nothing falls into the grid": (FLAT, some_points(1.0) + 100.0),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("margin", [None, 2.0])
def test_pooling_equals_bev_pool(case: str, margin: float | None) -> None:
    grid, points = CASES[case]
    plan = PoolPlan.from_points(points, grid)
    generator = torch.Generator().manual_seed(1)
    depth = torch.rand(SHAPE, generator=generator)
    context = torch.randn(2, 3, 6, 5, 4, generator=generator)
    tables = pool_tables(plan)
    if margin is not None:
        tables = tables.padded(tables.bounds.scaled(margin))
        assert tables.bounds == pool_tables(plan).bounds.scaled(margin)
    torch.testing.assert_close(
        pool_by_tables(depth, context, tables, grid), bev_pool(depth, context, plan), rtol=1e-5, atol=1e-5
    )


def test_every_entry_is_read_once() -> None:
    plan = PoolPlan.from_points(some_points(6.0), FLAT)
    tables = pool_tables(plan)
    ones = torch.ones(SHAPE), torch.ones(2, 3, 1, 5, 4)
    counted = pool_by_tables(*ones, tables, FLAT)
    assert int(counted.sum()) == plan.num_points
    assert int((counted > 0).sum()) == plan.num_cells


def test_sums_of_a_calibration_that_outgrows_the_bounds_are_refused() -> None:
    tables = pool_tables(PoolPlan.from_points(some_points(14.0), FLAT))
    bounds = tables.bounds._replace(points=tables.bounds.points - 1, width_3=1)
    with pytest.raises(TableOverflowError, match=rf"points {tables.bounds.points} > {bounds.points}, width_3.*margin"):
        tables.padded(bounds)


def test_bounds_grow_by_the_margin() -> None:
    assert TableBounds(100, 10, 4, 1, 1).scaled(1.5) == TableBounds(150, 15, 6, 2, 2)
