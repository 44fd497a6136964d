"""PoolPlan: which points fall into which cell, in the published way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bev_ops import BevGrid, PoolPlan, _kernels, reference
from bev_ops.plan import LONG_CELL, MIN_RUN, min_run

TABLES = ("entry_start", "entries", "column_runs", "long_cells", "cell_of_point")
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=["reference", "kernels"])
def build(request: pytest.FixtureRequest, device: str):
    """Builds a plan on a device, by the plain-PyTorch path or by the operator."""
    if request.param == "kernels":
        if not _kernels.load(device):
            pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
        return lambda points, grid: PoolPlan.from_points(points.to(device), grid)

    def by_reference(points: Tensor, grid: BevGrid) -> PoolPlan:
        tables = reference.pool_plan(
            points.float().to(device), grid.lower, grid.step, grid.size, LONG_CELL, min_run(grid)
        )
        return PoolPlan(*tables, grid=grid, shape=tuple(points.shape[:5]))

    return by_reference


def members(plan: PoolPlan) -> list[list[int]]:
    """Points of every cell, read from the list of entries: those of its runs, then the others."""
    starts, entries = plan.entry_start.tolist(), plan.entries.tolist()
    cells = (len(starts) - 1) // 2
    found = []
    for cell in range(cells):
        runs = entries[starts[cell] : starts[cell + 1]]
        points = [point for column in runs for point in points_of_run(plan, column)]
        found.append(points + entries[starts[cells + cell] : starts[cells + cell + 1]])
    return found


def points_of_run(plan: PoolPlan, column: int) -> list[int]:
    """Numbers of the points of a column's run, the topmost first."""
    *_, height, width = plan.shape
    run = plan.column_runs.flatten()[column].item()
    top = column // width * height * width + column % width
    return [top + row * width for row in range(run % 65536, run // 65536)]


def one_point(x: float, y: float, z: float) -> Tensor:
    return torch.tensor([x, y, z]).view(1, 1, 1, 1, 1, 3)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (1, 6, 5, 3, 4), (2, 1, 7, 2, 3), (3, 2, 4, 1, 5), (1, 7, 3, 2, 2), (2, 2, 5, 17, 3)]
)
@pytest.mark.parametrize("spread", [0.0, 0.9, 1.5, 40.0])
def test_is_the_oracle(build, make_inputs, oracle, shape, spread) -> None:
    b, n, d, h, w = shape
    inputs = make_inputs(b, n, d, 1, h, w, spread=spread, seed=b + n + d)
    plan, want = build(inputs.points, inputs.plan.grid), oracle.plan(inputs.points, inputs.plan.grid)
    assert [sorted(cell) for cell in members(plan)] == want
    assert plan.num_points == sum(len(cell) for cell in want)
    assert plan.num_cells == sum(bool(cell) for cell in want)
    assert plan.shape == shape
    cell_of_point = {point: cell for cell, points_ in enumerate(want) for point in points_}
    assert plan.cell_of_point.flatten().tolist() == [cell_of_point.get(i, -1) for i in range(b * n * d * h * w)]


def test_kernels_build_the_tables_of_the_reference(make_inputs, device) -> None:
    for rows in (3, 17):
        inputs = make_inputs(2, 2, 5, 1, rows, 4, device=device)
        grid = inputs.plan.grid
        want = reference.pool_plan(inputs.points, grid.lower, grid.step, grid.size, LONG_CELL, min_run(grid))
        plan = PoolPlan.from_points(inputs.points, grid)
        for name, table in zip(TABLES, want, strict=True):
            got = getattr(plan, name)
            if name == "long_cells":  # in any order
                got, table = got.sort().values, table.sort().values
            assert torch.equal(got, table), name


def columns_of(cells: str) -> Tensor:
    """Points of one image column: each letter a cell of the flat grid, a dot a point outside of it."""
    x = torch.tensor([-100.0 if cell == "." else ord(cell) - ord("a") - 3.5 for cell in cells])
    return torch.stack((x, torch.zeros_like(x), torch.zeros_like(x)), dim=-1).view(1, 1, 1, -1, 1, 3)


@pytest.mark.parametrize(
    ("column", "run"),
    [
        pytest.param("aaa", range(3), id="as many as make a run"),
        pytest.param("aa", None, id="one too few"),
        pytest.param("aaabbbb", range(3, 7), id="the longer of two"),
        pytest.param("aaabbb", range(3), id="the topmost of equals"),
        pytest.param("..aaaa.", range(2, 6), id="points outside above and below"),
        pytest.param("aa.aa", None, id="cut by a point outside"),
        pytest.param("aaabaaaa", range(4, 8), id="the same cell twice"),
        pytest.param(".....", None, id="nothing inside"),
    ],
)
def test_run_of_a_column(build, column, run) -> None:
    plan = build(columns_of(column), BevGrid(x=(-4.0, 4.0, 1.0), y=(-3.0, 3.0, 1.0), z=(-5.0, 3.0, 8.0)))
    assert points_of_run(plan, 0) == list(run or ())
    kept = sum(cell != "." for cell in column)
    assert int(plan.entry_start[-1]) == (kept if run is None else kept - len(run) + 1)
    assert MIN_RUN == 3


def test_cells_above_each_other_have_no_runs(build, grid) -> None:
    plan = build(torch.zeros(1, 1, 1, 40, 1, 3), grid)
    assert not plan.column_runs.any()
    assert plan.num_points == 40


def test_sorts_each_list_of_points_into_a_permutation(build, make_inputs) -> None:
    for rows in (3, 17):
        inputs = make_inputs(1, 2, 3, 1, rows, 4)
        plan = build(inputs.points, inputs.plan.grid)
        numbers = [*range(inputs.points.numel() // 3), *range(plan.column_runs.numel())]
        assert sorted(plan.entries.tolist()) == sorted(numbers)
        assert all(getattr(plan, name).dtype == torch.int32 for name in TABLES)


@pytest.mark.parametrize(
    ("point", "cell"),
    [
        pytest.param((-4.0, -3.0, -1.0), 0, id="on the lower corner"),
        pytest.param((-4.999, -3.999, -2.999), 0, id="less than a cell below: truncated to cell 0, as published"),
        pytest.param((-5.0, -3.0, -1.0), None, id="exactly a cell below in x"),
        pytest.param((-4.0, -4.0, -1.0), None, id="exactly a cell below in y"),
        pytest.param((-4.0, -3.0, -3.0), None, id="exactly a cell below in z"),
        pytest.param((3.999, 2.999, 2.999), 95, id="in the last cell"),
        pytest.param((4.0, 2.0, 2.0), None, id="on the upper bound of x"),
        pytest.param((3.0, 3.0, 2.0), None, id="on the upper bound of y"),
        pytest.param((3.0, 2.0, 3.0), None, id="on the upper bound of z"),
        pytest.param((-3.0, -3.0, -1.0), 1, id="x runs fastest"),
        pytest.param((-4.0, -2.0, -1.0), 8, id="then y"),
        pytest.param((-4.0, -3.0, 1.0), 48, id="then z"),
        pytest.param((NAN, 0.0, 0.0), None, id="NaN"),
        pytest.param((0.0, INF, 0.0), None, id="infinite"),
        pytest.param((0.0, 0.0, -INF), None, id="minus infinite"),
        pytest.param((3e38, 0.0, 0.0), None, id="huge"),
        pytest.param((-3e38, 0.0, 0.0), None, id="huge and negative"),
        pytest.param((3e9, 0.0, 0.0), None, id="beyond 32-bit integers"),
    ],
)
def test_cell_of_a_point(build, grid, point, cell) -> None:
    plan = build(one_point(*point), grid)
    assert plan.cell_of_point.item() == (-1 if cell is None else cell)
    assert plan.num_points == (cell is not None)


def test_positions_are_computed_in_float32(build) -> None:
    grid = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5, 3, 8))
    edges = torch.arange(128) * 0.8 - 51.2
    points = torch.stack((edges, torch.zeros(128), torch.zeros(128)), dim=-1).view(1, 1, 1, 1, 128, 3)
    want = ((edges - torch.tensor(-51.2)) / torch.tensor(0.8)).long() + 64 * 128
    assert build(points, grid).cell_of_point.flatten().tolist() == want.tolist()
    assert build(points.double(), grid).cell_of_point.flatten().tolist() == want.tolist()


@pytest.mark.parametrize("count", [LONG_CELL, LONG_CELL + 1, 3 * LONG_CELL])
def test_lists_crowded_cells(build, grid, count) -> None:
    points = torch.zeros(2, 1, count, 1, 1, 3)
    points[0] = 100.0
    plan = build(points, grid)
    crowded = [cell for cell in plan.long_cells.tolist() if cell >= 0]
    middle = grid.num_cells + 3 * 8 + 4  # of the second sample
    assert crowded == ([middle] if count > LONG_CELL else [])
    assert plan.num_points == count
    assert plan.num_cells == 1


def test_list_of_crowded_cells_is_long_enough(grid) -> None:
    centers = torch.tensor([[x + 0.5, y + 0.5, 0.0] for x in range(-4, 4) for y in range(-3, 3)])
    points = centers.repeat_interleave(LONG_CELL + 1, dim=0).view(1, 1, -1, 1, 1, 3)
    plan = PoolPlan.from_points(points, grid)
    assert sorted(cell for cell in plan.long_cells.tolist() if cell >= 0) == list(range(48))


def test_strided_points(build, make_inputs, grid) -> None:
    points = make_inputs().points
    strided = points.movedim(-1, 0).contiguous().movedim(0, -1)
    assert not strided.is_contiguous()
    for name in TABLES:
        assert torch.equal(getattr(build(strided, grid), name), getattr(build(points, grid), name)), name


def test_carries_no_gradient(make_inputs, grid) -> None:
    plan = PoolPlan.from_points(make_inputs().points.requires_grad_(), grid)
    assert not any(getattr(plan, name).requires_grad for name in TABLES)


def test_moves_between_devices(make_inputs, grid, device) -> None:
    plan = make_inputs().plan
    moved = plan.to(device)
    assert moved.device.type == device
    assert (moved.grid, moved.shape, moved.num_points) == (grid, plan.shape, plan.num_points)
    assert plan.to("meta").device.type == "meta"


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(2, 3, 4, 5, 6), r"\(B, N, D, h, w, 3\), got \(2, 3, 4, 5, 6\)"),
        (torch.zeros(1, 1, 1, 1, 1, 4), r"\(B, N, D, h, w, 3\), got \(1, 1, 1, 1, 1, 4\)"),
        (torch.zeros(1, 1, 1, 1, 1, 3, dtype=torch.long), "floating-point metres, got torch.int64"),
        (torch.zeros(1, 1, 1, 0, 4, 3), "1 to 32767 feature rows h, got 0"),
        (torch.zeros(1, 1, 1, 40000, 1, 3), "1 to 32767 feature rows h, got 40000"),
        (torch.zeros(1, device="meta").expand(2048, 64, 128, 32, 64, 3), "split the batch"),
    ],
)
def test_refuses(grid, points, message) -> None:
    with pytest.raises(ValueError, match=message):
        PoolPlan.from_points(points, grid)
