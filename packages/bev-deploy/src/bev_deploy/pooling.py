"""Lift-splat pooling in operators that every runtime has: products of matrices, gathering of rows, sums.

Letters: B samples, N cameras, D depth bins, C channels, h x w feature pixels, grid Z x Y x X.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bev_ops import BevGrid

from .tables import PoolTables

__all__ = ["pool_by_plugin", "pool_by_tables"]


def pool_by_tables(
    depth: Tensor,  # (B, N, D, h, w)
    context: Tensor,  # (B, N, C, h, w)
    tables: PoolTables,
    grid: BevGrid,
) -> Tensor:
    """What :func:`bev_ops.bev_pool` gives, to rounding: (B, C, Z, Y, X).

    The points of an image column that lie under each other in one cell are one product with the column's context, for
    all depths at once: the bulk of the points never exists one by one. Sums have a fixed order.
    """
    return _pooled(depth, _columns(context), tables, grid.size).permute(0, 4, 1, 2, 3)


def pool_by_plugin(depth: Tensor, context: Tensor, tables: PoolTables, grid: BevGrid) -> Tensor:
    """The same with one operator ``bev_deploy::bev_pool``, which an export keeps as one node.

    The operator takes and gives channels last, (B, N, w, h, C) and (B, Z, Y, X, C): the order in which its kernel reads
    and writes whole lines of memory. The two transpositions stay outside, where a compiler can join them with others.
    """
    columns = _columns(context).contiguous()
    return torch.ops.bev_deploy.bev_pool.default(depth, columns, *tables, *grid.size).permute(0, 4, 1, 2, 3)


def _columns(context: Tensor) -> Tensor:
    """(B, N, C, h, w) -> (B, N, w, h, C)."""
    return context.permute(0, 1, 4, 3, 2)


def _pooled(depth: Tensor, columns: Tensor, tables: PoolTables, size: tuple[int, int, int]) -> Tensor:
    """(B, N, D, h, w) and (B, N, w, h, C) -> (B, Z, Y, X, C)."""
    rows, channels = columns.shape[3:]
    row = torch.arange(rows, device=depth.device, dtype=torch.int32)
    in_run = (row >= tables.run_first) & (row < tables.run_end)  # (B, N, w, D, h)
    weight = torch.where(in_run, depth.permute(0, 1, 4, 2, 3), 0.0)
    runs = (weight @ columns).reshape(-1, channels)
    pixel = _rows(columns.reshape(-1, channels), tables.point_pixel)
    points = pixel * _rows(depth.reshape(-1), tables.point_depth)[:, None]
    entries = torch.cat([runs.new_zeros(1, channels), runs, points])
    first = _sums(entries, tables.sums_1)
    second = _sums(first, tables.sums_2)
    third = _sums(second, tables.sums_3)
    cells = _rows(torch.cat([entries, first, second, third]), tables.cell_row)
    x, y, z = size
    return cells.reshape(-1, z, y, x, channels)


def _pool(depth: Tensor, columns: Tensor, *tables_and_size: Any) -> Tensor:
    *tables, x, y, z = tables_and_size
    return _pooled(depth, columns, PoolTables(*tables), (x, y, z))


def _fake_pool(depth: Tensor, columns: Tensor, *tables_and_size: Any) -> Tensor:
    *_, x, y, z = tables_and_size
    return columns.new_empty(columns.shape[0], z, y, x, columns.shape[4])


_library = torch.library.Library("bev_deploy", "DEF")
_library.define(
    f"bev_pool(Tensor depth, Tensor columns, {', '.join(f'Tensor {name}' for name in PoolTables._fields)}, "
    "int cells_x, int cells_y, int cells_z) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.impl("bev_pool", _pool, "CompositeExplicitAutograd")
torch.library.register_fake("bev_deploy::bev_pool", _fake_pool, lib=_library)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of a table, as one Gather."""
    return torch.index_select(values, 0, index)


def _sums(values: Tensor, table: Tensor) -> Tensor:
    """Rows (R, C) -> sums of rows (S, C), which of them in ``table`` (S, K)."""
    return _rows(values, table.reshape(-1)).reshape(-1, table.shape[1], values.shape[1]).sum(1)
