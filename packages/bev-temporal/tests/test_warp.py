"""warp_bev: which cell of then a cell of now reads."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bev_ops import BevGrid
from bev_temporal import warp_bev

GRID = BevGrid(x=(-4.0, 5.0, 0.5), y=(-6.0, 6.0, 1.0), z=(-2.0, 2.0, 2.0))
X, Y, Z = GRID.size


def motion(x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> Tensor:
    """now_to_then (1, 4, 4)."""
    matrix = torch.eye(4)
    matrix[0, 0] = matrix[1, 1] = math.cos(yaw)
    matrix[1, 0], matrix[0, 1] = math.sin(yaw), -math.sin(yaw)
    matrix[:2, 3] = torch.tensor([x, y])
    return matrix[None]


def looked_up(bev: Tensor, now_to_then: Tensor) -> Tensor:
    """The rule, cell by cell: bev (C, Y, X), now_to_then (4, 4)."""
    out = torch.zeros_like(bev, dtype=torch.float64)
    for row in range(Y):
        for column in range(X):
            metres = torch.tensor([-4.0 + 0.5 * column, -6.0 + row, 0.0, 1.0], dtype=torch.float64)
            then = now_to_then.double() @ metres
            x, y = (then[0].item() + 4.0) / 0.5, then[1].item() + 6.0
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    if 0 <= j < Y and 0 <= i < X:
                        out[:, row, column] += (1 - abs(x - i)) * (1 - abs(y - j)) * bev[:, j, i]
    return out


@pytest.mark.parametrize("move", [motion(0.3, -1.7, 0.2), motion(-5.0, 2.0, 3.0), motion(0.1, 0.1), motion(100.0)])
def test_each_cell_reads_where_its_lower_bound_was(move: Tensor) -> None:
    torch.manual_seed(0)
    bev = torch.randn(1, 3, Y, X)
    torch.testing.assert_close(warp_bev(bev, move, GRID)[0].double(), looked_up(bev[0], move[0]), rtol=0, atol=2e-5)


def test_standing_still_changes_nothing() -> None:
    bev = torch.randn(1, 3, Y, X)
    torch.testing.assert_close(warp_bev(bev, motion(), GRID), bev, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("columns", "rows"), [(2, 0), (-3, 0), (0, 4), (5, -2)])
def test_whole_cells_shift_the_map(columns: int, rows: int) -> None:
    bev = torch.randn(1, 3, Y, X)
    warped = warp_bev(bev, motion(0.5 * columns, 1.0 * rows), GRID)
    wanted = torch.zeros_like(bev)
    now = (..., slice(max(0, -rows), Y - max(0, rows)), slice(max(0, -columns), X - max(0, columns)))
    then = (..., slice(max(0, rows), Y - max(0, -rows)), slice(max(0, columns), X - max(0, -columns)))
    wanted[now] = bev[then]
    torch.testing.assert_close(warped, wanted, rtol=0, atol=1e-5)


def test_of_the_motion_only_x_and_y_count() -> None:
    bev, flat = torch.randn(1, 3, Y, X), motion(0.7, -0.4, 0.1)
    tilted = flat.clone()
    tilted[:, 2] = torch.tensor([0.1, 0.2, 0.9, 5.0])
    tilted[:, :2, 2] = 0.3
    assert torch.equal(warp_bev(bev, tilted, GRID), warp_bev(bev, flat, GRID))


def test_voxels_are_warped_layer_by_layer() -> None:
    voxels = torch.randn(2, 3, Z, Y, X)
    moves = torch.cat([motion(0.7, -0.4, 0.1), motion(-1.0)])
    warped = warp_bev(voxels, moves, GRID)
    assert warped.shape == voxels.shape
    for z in range(Z):
        torch.testing.assert_close(warped[:, :, z], warp_bev(voxels[:, :, z], moves, GRID))


def test_all_history_goes_through_one_call() -> None:
    maps, moves = torch.randn(3, 2, Y, X), torch.cat([motion(0.3), motion(yaw=0.2), motion(-1.0, 1.0, -0.1)])
    together = warp_bev(maps, moves, GRID)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], warp_bev(maps[i : i + 1], moves[i : i + 1], GRID))


def test_half_precision_keeps_its_dtype_and_its_positions() -> None:
    bev, move = torch.randn(1, 3, Y, X).bfloat16(), motion(0.7, -0.4, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warped = warp_bev(bev, move, GRID)
    assert warped.dtype == torch.bfloat16
    assert torch.equal(warped, warp_bev(bev.float(), move, GRID).bfloat16())


def test_gradient_goes_back_to_the_cells_that_were_read() -> None:
    grid = BevGrid(x=(0.0, 3.0, 1.0), y=(0.0, 4.0, 1.0), z=(0.0, 1.0, 1.0))
    bev = torch.randn(1, 1, 4, 3, requires_grad=True)
    warped = warp_bev(bev, motion(0.25, 0.5), grid)
    (from_where,) = torch.autograd.grad(warped[0, 0, 1, 1], bev)
    wanted = torch.zeros(1, 1, 4, 3)
    wanted[0, 0, 1:3, 1:3] = torch.tensor([[0.375, 0.125], [0.375, 0.125]])
    torch.testing.assert_close(from_where, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("bev", "move", "message"),
    [
        ((1, 3, X, Y), (1, 4, 4), r"wants \(B, C, 12, 18\) or \(B, C, 2, 12, 18\) for this grid, got \(1, 3, 18, 12\)"),
        ((3, Y, X), (1, 4, 4), r"for this grid, got \(3, 12, 18\)"),
        ((2, 3, Y, X), (1, 4, 4), r"wants now_to_then \(2, 4, 4\) for these maps, got \(1, 4, 4\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(bev: tuple[int, ...], move: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warp_bev(torch.zeros(bev), torch.zeros(move), GRID)
