"""The plan of a pooling call: which depth and context entries fall into which cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import reference
from ._library import define_op
from .grid import BevGrid

# Cells with more points than this are pooled by a whole GPU thread block instead of a few lanes.
LONG_CELL = 256
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class PoolPlan:
    """Geometry of one pooling call, computed once per calibration and reusable for any depth and context.

    Letters: B samples, N cameras, D depth bins, h x w feature pixels, P = B*N*D*h*w frustum points. Tables are int32.

    A point falls into cell ``trunc((point - lower) / step)``, computed in float32, and is kept where every index lies
    in [0, size). Truncation is toward zero, as published for BEVDet and BEVPoolv2: points up to one cell *below* a
    lower bound therefore land in cell 0. Points with a coordinate that is NaN or infinite are never kept.

    All tables have sizes that depend on shapes alone, so building a plan never waits for the device and can be traced
    by torch.compile, torch.export and CUDA graphs. ``num_points`` and ``num_cells`` do wait.
    """

    cell_start: Tensor  # (B*Z*Y*X + 1,) points of cell i stand at cell_start[i]:cell_start[i + 1] of the next two lists
    point_depth: Tensor  # (P,) position in the flattened depth, sorted by cell, stable; dropped points at the end
    point_pixel: Tensor  # (P,) position in the flattened (B, N, h, w) pixels, same order
    long_cells: Tensor  # cells with more than LONG_CELL points, filled up with -1
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
            ValueError: if points are not a floating (B, N, D, h, w, 3) tensor, or if there are 2^31 or more points or
                cells (split the batch).
        """
        _check_points(points, grid)
        start, depth, pixel, long, cell = _pool_plan(
            points.detach().float(), grid.lower, grid.step, grid.size, LONG_CELL
        )
        b, n, d, h, w, _ = points.shape
        return cls(start, depth, pixel, long, cell, grid, (b, n, d, h, w))

    @property
    def device(self) -> torch.device:
        """Where the tables are."""
        return self.cell_start.device

    @property
    def num_points(self) -> int:
        """Points that fall into the grid, over all samples."""
        return int(self.cell_start[-1])

    @property
    def num_cells(self) -> int:
        """Cells that at least one point falls into, over all samples."""
        return int((self.cell_start.diff() > 0).sum())

    def to(self, device: torch.device | str) -> PoolPlan:
        """The same plan with its tables on another device."""
        names = ("cell_start", "point_depth", "point_pixel", "long_cells", "cell_of_point")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def _check_points(points: Tensor, grid: BevGrid) -> None:
    if points.ndim != 6 or points.shape[-1] != 3:
        raise ValueError(f"points must be (B, N, D, h, w, 3), got {tuple(points.shape)}")
    if not points.is_floating_point():
        raise ValueError(f"points must be floating-point metres, got {points.dtype}")
    num_cells = points.shape[0] * grid.num_cells
    if points.numel() // 3 >= _INT32_MAX or num_cells >= _INT32_MAX:
        raise ValueError(
            f"a plan holds fewer than 2^31 points and cells, got {points.numel() // 3} points "
            f"({tuple(points.shape)}) and {num_cells} cells: split the batch"
        )


def _fake_pool_plan(
    points: Tensor, lower: Sequence[float], step: Sequence[float], size: Sequence[int], long_cell: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    b, n, d, h, w, _ = points.shape
    count = b * n * d * h * w
    slots = reference.long_cell_slots(count, long_cell)
    tables = (b * size[0] * size[1] * size[2] + 1,), (count,), (count,), (slots,), (b, n, d, h, w)
    start, depth, pixel, long, cell = (points.new_empty(shape, dtype=torch.int32) for shape in tables)
    return start, depth, pixel, long, cell


_pool_plan = define_op(
    "pool_plan",
    "(Tensor points, float[] lower, float[] step, int[] size, int long_cell) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.pool_plan,
    _fake_pool_plan,
)
