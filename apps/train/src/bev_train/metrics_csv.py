"""Logged values as one CSV file that goes on where it was when a run is resumed."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["MetricsCsv"]


class MetricsCsv(Logger):
    """Writes one row per logged step; Lightning's own CSV logger starts the file anew on every start.

    Args:
        path: file to write.
        first_step: rows from this step on are dropped, because they will be logged again.
    """

    def __init__(self, path: Path, *, first_step: int = 0) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = ["step"]
        self._first_step = first_step
        self._opened = False

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self._opened:
            self._open()
        row = {"step": step, **metrics}
        fresh = [name for name in row if name not in self._columns]
        if fresh:
            self._columns += fresh
            self._write_all(self._read())
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(row)

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """options.json holds them."""

    def _open(self) -> None:
        rows = [row for row in self._read() if int(row["step"]) < self._first_step]
        self._columns += [name for name in (rows[0] if rows else ()) if name != "step"]
        self._write_all(rows)
        self._opened = True

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        whole = self.path.read_text().splitlines(keepends=True)
        if whole and not whole[-1].endswith("\n"):  # the process died while it wrote this row
            whole.pop()
        return list(csv.DictReader(whole))

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)
