"""Pooling as look-ups: the index tables that stand for one calibration.

An exported model has no custom operator. It multiplies whole image columns with their depths, takes the few points that
no column run covers one by one, and then only gathers rows and adds them up, a few at a time, until every cell has one.
Which rows is said by tables, which are inputs: the same file serves any calibration.

Letters: B samples, N cameras, D depth bins, h x w feature pixels, V cells of all samples. Tables are int32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bev_ops import PoolPlan

__all__ = ["FANS", "TRACED_SAMPLES", "PoolTables", "TableBounds", "TableOverflowError", "pool_tables"]

# Rows that one sum of the first two levels adds up; the last level adds up whatever is left of a cell.
FANS = (4, 8)
# Samples that an export of any batch is traced with, and its bounds are measured on.
TRACED_SAMPLES = 2


class TableOverflowError(ValueError):
    """A calibration whose tables are larger than the engine was built for."""


class TableBounds(NamedTuple):
    """Sizes of the tables whose size depends on the calibration."""

    points: int  # single points
    sums_1: int  # rows of the first level of sums
    sums_2: int  # rows of the second level
    sums_3: int  # rows of the third level
    width_3: int  # rows that one sum of the third level adds up

    def scaled(self, margin: float) -> TableBounds:
        """The same with room to spare."""
        return TableBounds(*(max(_LEAST, int(size * margin + 0.5)) for size in self))

    def exceeded_by(self, other: TableBounds) -> list[str]:
        """What of another is larger, in words."""
        return [f"{name} {b} > {a}" for name, a, b in zip(self._fields, self, other, strict=True) if b > a]


# Exporters take sizes of 0 and 1 for constants.
_LEAST = 2


class PoolTables(NamedTuple):
    """One calibration, as the exported pooling wants it.

    Rows are counted as they are made: row 0 is zero, then come the column sums ((b*N + n)*w + j)*D + d, the single
    points, and the sums of the first, second and third level, each of which begins with a row of zeros.
    """

    run_first: Tensor  # (B, N, w, D, 1) first row of the run of every column at every depth
    run_end: Tensor  # (B, N, w, D, 1) the row after its last; 0 where there is none
    point_depth: Tensor  # (P,) single points, as positions in depth (B, N, D, h, w)
    point_pixel: Tensor  # (P,) the same, as positions in context laid out (B, N, w, h, C)
    sums_1: Tensor  # (R1, 4) rows of columns and points
    sums_2: Tensor  # (R2, 8) rows of the first level, counted from its own first
    sums_3: Tensor  # (R3, K) rows of the second level, counted from its own first
    cell_row: Tensor  # (V,) the row that holds a cell, counted over all

    @property
    def bounds(self) -> TableBounds:
        """How large these tables are."""
        return TableBounds(
            len(self.point_depth), len(self.sums_1), len(self.sums_2), len(self.sums_3), self.sums_3.shape[1]
        )

    def padded(self, bounds: TableBounds) -> PoolTables:
        """The same tables in the given sizes: what is added reads row 0 and is read by nobody.

        Raises:
            TableOverflowError: these tables are larger.
        """
        larger = bounds.exceeded_by(self.bounds)
        if larger:
            raise TableOverflowError(
                f"the pooling tables of this calibration are larger than the bounds of the model "
                f"({', '.join(larger)}): export it again with a larger --table-margin, or with a rig like this one"
            )
        now = self.bounds
        base = 1 + self.run_first.numel()
        starts = [base + now.points, base + now.points + now.sums_1, base + now.points + now.sums_1 + now.sums_2]
        room = [bounds.points - now.points, bounds.sums_1 - now.sums_1, bounds.sums_2 - now.sums_2]
        cell_row = self.cell_row.clone()
        for start, more in zip(starts, room, strict=True):
            cell_row += (self.cell_row >= start) * more
        return self._replace(
            point_depth=_longer(self.point_depth, bounds.points),
            point_pixel=_longer(self.point_pixel, bounds.points),
            sums_1=_longer(self.sums_1, bounds.sums_1),
            sums_2=_longer(self.sums_2, bounds.sums_2),
            sums_3=_longer(_wider(self.sums_3, bounds.width_3), bounds.sums_3),
            cell_row=cell_row.int(),
        )


def pool_tables(plan: PoolPlan) -> PoolTables:
    """The tables of a pooling plan, on its device."""
    _, _, d, h, w = plan.shape
    runs = plan.column_runs.permute(0, 1, 3, 2).unsqueeze(4)  # (B, N, w, D, 1)
    cells = (plan.entry_start.numel() - 1) // 2
    counts = plan.entry_start.diff().long()
    num_runs, num_entries = int(plan.entry_start[cells]), int(plan.entry_start[-1])
    run, point = plan.entries[:num_runs].long(), plan.entries[num_runs:num_entries].long()
    base = 1 + runs.numel()
    rows = torch.cat([1 + _column_row(run, d, w), base + torch.arange(len(point), device=run.device)])
    owner = torch.arange(cells, device=run.device).repeat(2).repeat_interleave(counts)
    pixel = point // (d * h * w) * (h * w) + point % w * h + point // w % h
    tables, cell_row = _sums(rows, owner, cells, base + max(len(point), _LEAST))
    return PoolTables(
        (runs & 0xFFFF).contiguous(),
        (runs >> 16).contiguous(),
        _longer(point.int(), _LEAST),
        _longer(pixel.int(), _LEAST),
        *tables,
        cell_row.int(),
    )


def _column_row(column: Tensor, d: int, w: int) -> Tensor:
    """Positions in (B, N, D, w) -> positions in (B, N, w, D)."""
    camera, depth, pixel = column // (d * w), column // w % d, column % w
    return (camera * w + pixel) * d + depth


def _sums(rows: Tensor, owner: Tensor, cells: int, base: int) -> tuple[list[Tensor], Tensor]:
    """Three levels of sums, and the row of every cell.

    Args:
        rows: (E,) row of every entry.
        owner: (E,) its cell.
        cells: V.
        base: rows before those of the first level.
    """
    order = torch.argsort(owner, stable=True)
    rows, owner = rows[order], owner[order]
    cell_row = rows.new_zeros(cells)
    tables: list[Tensor] = []
    offset = 0  # of the rows of this level among all
    for level in range(3):
        alone = torch.bincount(owner, minlength=cells)[owner] == 1
        cell_row[owner[alone]] = offset + rows[alone]
        rows, owner = rows[~alone], owner[~alone]
        fan = FANS[level] if level < len(FANS) else None
        table, owner = _one_level(rows, owner, cells, fan)
        offset = base if level == 0 else offset + len(tables[-1])
        tables.append(table)
        rows = 1 + torch.arange(len(owner), device=owner.device)
    cell_row[owner] = offset + rows
    return tables, cell_row


def _one_level(rows: Tensor, owner: Tensor, cells: int, fan: int | None) -> tuple[Tensor, Tensor]:
    """Rows (E,) sorted by owner -> a table of at most ``fan`` rows of one owner each, after a first row of zeros, and
    the owners of the rest."""
    count = torch.bincount(owner, minlength=cells)
    fan = fan or max(int(count.max()) if len(owner) else 0, _LEAST)
    place = torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]
    chunks = (count + fan - 1) // fan
    chunk = (chunks.cumsum(0) - chunks)[owner] + place // fan
    table = rows.new_zeros(max(1 + int(chunks.sum()), _LEAST), fan)
    table[1 + chunk, place % fan] = rows
    return table.int(), torch.arange(cells, device=owner.device).repeat_interleave(chunks)


def _longer(table: Tensor, length: int) -> Tensor:
    return torch.cat([table, table.new_zeros(max(length - len(table), 0), *table.shape[1:])])


def _wider(table: Tensor, width: int) -> Tensor:
    return torch.cat([table, table.new_zeros(len(table), width - table.shape[1])], dim=1)
