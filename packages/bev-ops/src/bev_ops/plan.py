"""The plan of a pooling call: which depth and context entries fall into which cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import reference
from ._library import define_op
from .grid import BevGrid

# Cells with more entries than this are pooled by a whole GPU thread block each, instead of beside their neighbours.
LONG_CELL = 48
# Points of one cell, one under the other, that make a run: fewer are cheaper one by one.
MIN_RUN = 3
_INT32_MAX = 2**31 - 1
_MAX_ROWS = 2**15


@dataclass(frozen=True, eq=False)
class PoolPlan:
    """Geometry of one pooling call, computed once per calibration and reusable for any depth and context.

    A plan of one sample also serves batches of any size whose samples share its calibration.

    Letters: B samples, N cameras, D depth bins, h x w feature pixels, P = B*N*D*h*w frustum points. Tables are int32.

    A point falls into cell ``trunc((point - lower) / step)``, computed in float32, and is kept where every index lies
    in [0, size). Truncation is toward zero, as published for BEVDet and BEVPoolv2: points up to one cell *below* a
    lower bound therefore land in cell 0. Points with a coordinate that is NaN or infinite are never kept.

    Where the grid has no height (Z = 1), the points of an image column at one depth mostly fall into one cell. The
    longest stretch of them, if it has at least ``MIN_RUN`` points, is one entry of that cell: a run. Other points are
    entries of their own; with Z > 1 all are.

    All tables have sizes that depend on shapes alone, so building a plan never waits for the device and can be traced
    by torch.compile, torch.export and CUDA graphs. ``num_points`` and ``num_cells`` do wait.
    """

    entry_start: Tensor  # (2*B*Z*Y*X + 1,) where the runs of every cell stand in the next list, then its single points
    entries: Tensor  # (B*N*D*w + P,) runs, as positions in column_runs; single points, as positions in depth; the rest
    column_runs: Tensor  # (B, N, D, w) first row of a column's run + 65536 * the row after its last; 0: there is none
    long_cells: Tensor  # cells with more than LONG_CELL entries, filled up with -1
    cell_of_point: Tensor  # (B, N, D, h, w) cell ((b*Z + z)*Y + y)*X + x of each point, -1 where it is dropped
    grid: BevGrid
    shape: tuple[int, int, int, int, int]  # (B, N, D, h, w)

    @classmethod
    def from_points(
        cls,
        points: Tensor,  # (B, N, D, h, w, 3) metres, in the frame of the grid
        grid: BevGrid,
    ) -> PoolPlan:
        """Sorts the frustum points of every camera pixel and depth bin into the cells of a grid.

        Points of another floating type are converted to float32 first. No gradient flows through a plan.

        Raises:
            ValueError: if points are not a floating (B, N, D, h, w, 3) tensor with 0 < h < 32768, or if there are 2^31
                or more points or 2^30 or more cells (split the batch).
        """
        _check_points(points, grid)
        tables = _pool_plan(points.detach().float(), grid.lower, grid.step, grid.size, LONG_CELL, min_run(grid))
        b, n, d, h, w, _ = points.shape
        return cls(*tables, grid, (b, n, d, h, w))

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.cell_of_point.device

    @property
    def num_points(self) -> int:
        """Points that fall into the grid, over all samples."""
        return int((self.cell_of_point >= 0).sum())

    @property
    def num_cells(self) -> int:
        """Cells that at least one point falls into, over all samples."""
        runs, points = self.entry_start.diff().chunk(2)
        return int((runs + points > 0).sum())

    def to(self, device: torch.device | str) -> PoolPlan:
        """The same plan with its tables on another device."""
        names = ("entry_start", "entries", "column_runs", "long_cells", "cell_of_point")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def min_run(grid: BevGrid) -> int:
    """Points that make a run; with cells above each other, columns of points are cut too short to gain by it."""
    return MIN_RUN if grid.size[2] == 1 else _INT32_MAX


def _check_points(points: Tensor, grid: BevGrid) -> None:
    if points.ndim != 6 or points.shape[-1] != 3:
        raise ValueError(f"points must be (B, N, D, h, w, 3), got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"points must be floating-point metres, got {points.dtype}")
    if not 0 < points.shape[3] < _MAX_ROWS:
        raise ValueError(f"points must have 1 to {_MAX_ROWS - 1} feature rows h, got {points.shape[3]}")
    num_cells = points.shape[0] * grid.num_cells
    if points.numel() // 3 >= _INT32_MAX or 2 * num_cells >= _INT32_MAX:
        raise ValueError(
            f"a plan holds fewer than 2^31 points and 2^30 cells, got {points.numel() // 3} points "
            f"({tuple(points.shape)}) and {num_cells} cells: split the batch"
        )


def _fake_pool_plan(
    points: Tensor, lower: Sequence[float], step: Sequence[float], size: Sequence[int], long_cell: int, min_run: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, n, d, h, w, _ = points.shape
    entries = b * n * d * (h + 1) * w
    slots = reference.long_cell_slots(entries, long_cell)
    starts = 2 * b * size[0] * size[1] * size[2] + 1
    shapes = (starts,), (entries,), (b, n, d, w), (slots,), (b, n, d, h, w)
    start, entry, run, long, cell = (points.new_empty(shape, dtype=torch.int32) for shape in shapes)
    return start, entry, run, long, cell


_pool_plan = define_op(
    "pool_plan",
    "(Tensor points, float[] lower, float[] step, int[] size, int long_cell, int min_run) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.pool_plan,
    _fake_pool_plan,
)
