"""What a measurement says: a frozen dataclass, a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bev_bench.machine import Machine

__all__ = ["Fact", "Figure", "Report", "Row", "as_markdown", "as_table", "layout", "read_report", "to_json"]

_FORMAT = 1  # of the JSON file; a change that old files do not survive counts it up


@dataclass(frozen=True, kw_only=True)
class Fact:
    """Something said about the whole report, such as which weights were used."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a row: median and quartiles of ``count`` rounds; a count of 1 has no spread."""

    name: str
    unit: str
    median: float
    lower: float
    upper: float
    count: int = 1

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Figure:
        """Median and quartiles of at least one value."""
        lower, median, upper = (float(q) for q in np.percentile(values, (25, 50, 75)))
        return cls(name=name, unit=unit, median=median, lower=lower, upper=upper, count=len(values))

    @classmethod
    def exact(cls, name: str, unit: str, value: float) -> Figure:
        """A number that was counted, or measured once."""
        return cls(name=name, unit=unit, median=value, lower=value, upper=value)

    @property
    def column(self) -> str:
        """What stands above it in a table."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def __str__(self) -> str:
        if self.count == 1:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.lower)} to {_number(self.upper)})"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The figures of one thing: what was done, and by whom or with which setting."""

    case: str
    setting: str
    figures: tuple[Figure, ...]

    def figure(self, name: str) -> Figure:
        """The figure of that name.

        Raises:
            KeyError: there is none.
        """
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(name)


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a command found out."""

    command: str
    facts: tuple[Fact, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    machine: Machine


def as_table(report: Report) -> str:
    """Text for a terminal."""
    facts = [f"{fact.name}: {fact.value}" for fact in report.facts]
    return "\n".join([f"bev-bench {report.command}", *facts, "", *layout(*_cells(report.rows)), "", *_closing(report)])


def as_markdown(report: Report) -> str:
    """The same as Markdown."""
    head, rows = _cells(report.rows)
    lines = [f"# bev-bench {report.command}", ""]
    lines += [f"- {fact.name}: {fact.value}" for fact in report.facts]
    lines += ["", _markdown_row(head), _markdown_row(["---"] * len(head)), *map(_markdown_row, rows), ""]
    return "\n".join([*lines, *(f"{line}  " for line in _closing(report))]) + "\n"


def to_json(report: Report) -> str:
    """Everything, for :func:`read_report`; numbers that are not finite become null."""
    content = {"format": _FORMAT, **asdict(report)}
    return json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n"


def read_report(path: Path) -> Report:
    """A report from its JSON file.

    Raises:
        ValueError: no such file, or not one of ours.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no report at {path}: write one with --json {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}): a file written by --json is wanted") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is no report of this version of bev-bench: a file written by --json is wanted")
    try:
        return _report(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is a damaged report ({error}): measure again") from error


def layout(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns: names to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    numeric = [all(_is_numeric(row[i]) for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        aligned = zip(cells, widths, numeric, strict=True)
        return "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in aligned).rstrip()

    ruler = "-" * len(line([" " * (w - 1) + "x" for w in widths]))
    return [line(head), ruler, *map(line, rows)]


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    columns = list(dict.fromkeys(figure.column for row in rows for figure in row.figures))
    cells = []
    for row in rows:
        by_column = {figure.column: str(figure) for figure in row.figures}
        cells.append([row.case, row.setting, *(by_column.get(column, "-") for column in columns)])
    return ["case", "setting", *columns], cells


def _closing(report: Report) -> Iterable[str]:
    spread = any(figure.count > 1 for row in report.rows for figure in row.figures)
    quartiles = ("median (lower to upper quartile)",) if spread else ()
    return (*report.notes, *quartiles, *report.machine.lines())


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    """Three digits that count, whole numbers as they are."""
    if not math.isfinite(value):
        return "-"
    if value == round(value) and abs(value) < 1e9:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 9)}f}"


def _is_numeric(cell: str) -> bool:
    return cell == "-" or cell[:1].isdigit() or cell[:2].lstrip("-")[:1].isdigit()


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, (list, tuple)) else value


def _report(content: dict[str, Any]) -> Report:
    machine = {field.name: content["machine"][field.name] for field in fields(Machine)}
    machine |= {name: tuple(machine[name]) for name in ("libraries", "kernels")}
    return Report(
        command=content["command"],
        facts=tuple(Fact(**fact) for fact in content["facts"]),
        rows=tuple(
            Row(case=row["case"], setting=row["setting"], figures=tuple(map(_figure, row["figures"])))
            for row in content["rows"]
        ),
        notes=tuple(content["notes"]),
        machine=Machine(**machine),
    )


def _figure(content: dict[str, Any]) -> Figure:
    numbers = {n: math.nan if content[n] is None else content[n] for n in ("median", "lower", "upper")}
    return Figure(name=content["name"], unit=content["unit"], count=content["count"], **numbers)
