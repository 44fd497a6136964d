"""BevGrid: one place for range, step and size."""

from __future__ import annotations

import dataclasses

import pytest

from bev_ops import BevGrid

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("x", "y", "z", "size"),
    [
        ((-51.2, 51.2, 0.8), (-51.2, 51.2, 0.8), (-5, 3, 8), (128, 128, 1)),
        ((-51.2, 51.2, 0.4), (-51.2, 51.2, 0.4), (-5, 3, 8), (256, 256, 1)),
        ((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4), (200, 200, 16)),
        ((0, 3, 1), (0, 2, 1), (0, 1, 1), (3, 2, 1)),
    ],
)
def test_size_of_published_grids(x, y, z, size) -> None:
    grid = BevGrid(x=x, y=y, z=z)
    assert grid.size == size
    assert grid.num_cells == size[0] * size[1] * size[2]


def test_bounds_are_listed_per_axis() -> None:
    grid = BevGrid(x=(-4, 5, 1), y=(-3, 6, 3), z=(-2, 8, 5))
    assert grid.lower == (-4.0, -3.0, -2.0)
    assert grid.upper == (5.0, 6.0, 8.0)
    assert grid.step == (1.0, 3.0, 5.0)
    assert grid.bev_bounds == (-4.0, -3.0, 5.0, 6.0)


def test_is_a_value() -> None:
    grid = BevGrid(x=[0, 3, 1], y=(0, 2, 1), z=(0, 1, 1))
    assert grid == BevGrid(x=(0.0, 3.0, 1.0), y=(0, 2, 1), z=(0, 1, 1))
    assert len({grid, dataclasses.replace(grid), dataclasses.replace(grid, x=(0, 4, 1))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.x = (0, 1, 1)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((0, 3), r"BevGrid.x must be \(lower, upper, step\)"),
        ("wide", r"BevGrid.x must be \(lower, upper, step\)"),
        (5, r"BevGrid.x must be \(lower, upper, step\)"),
        ((0, INF, 1), "finite"),
        ((0, NAN, 1), "finite"),
        ((0, 3, 0), "step > 0"),
        ((0, 3, -1), "step > 0"),
        ((3, 0, 1), "lower < upper"),
        ((0, 1, 3), "whole number of steps.*upper bound of 3 would fit"),
        ((-50, 50, 0.3), "whole number of steps.*upper bound of 49.9 would fit"),
    ],
)
def test_refuses(x, message) -> None:
    with pytest.raises(ValueError, match=message):
        BevGrid(x=x, y=(0, 2, 1), z=(0, 1, 1))
