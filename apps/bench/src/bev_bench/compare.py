"""Two reports side by side."""

from __future__ import annotations

from dataclasses import dataclass

from bev_bench.options import CompareOptions
from bev_bench.report import Figure, Report, layout, read_report

__all__ = ["Compared", "Comparison", "compare_files", "compare_reports"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One figure of both reports."""

    case: str
    setting: str
    first: Figure
    second: Figure

    @property
    def ratio(self) -> Figure:
        """B over A; its bounds are those of the quartiles of two independent runs."""
        a, b = self.first, self.second
        bounds = (_over(b.median, a.median), _over(b.lower, a.upper), _over(b.upper, a.lower))
        median, lower, upper = bounds
        return Figure(name="B / A", unit="", median=median, lower=lower, upper=upper, count=min(a.count, b.count))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All figures that both reports have, and what else differs between them."""

    rows: tuple[Compared, ...]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        head = ["case", "setting", "figure", "A", "B", "B / A"]
        cells = [
            [row.case, row.setting, row.first.column, str(row.first), str(row.second), str(row.ratio)]
            for row in self.rows
        ]
        caution = "two runs, not in turns: ratios near 1 mean little"
        return "\n".join([*layout(head, cells), "", caution, *self.differences])


def compare_files(options: CompareOptions) -> Comparison:
    """Read and compare.

    Raises:
        ValueError: a file that cannot be read, or reports that cannot be compared.
    """
    return compare_reports(read_report(options.first), read_report(options.second), force=options.force)


def compare_reports(first: Report, second: Report, *, force: bool = False) -> Comparison:
    """Ratios of the figures of the same case, setting and name.

    Raises:
        ValueError: measured on different hardware and not forced, or nothing in common.
    """
    if first.machine.hardware != second.machine.hardware and not force:
        raise ValueError(
            f"the reports come from different hardware, A from {first.machine.hardware}, B from "
            f"{second.machine.hardware}: measure again on one machine, or insist with --force"
        )
    theirs = {(row.case, row.setting, f.column): f for row in second.rows for f in row.figures}
    rows = tuple(
        Compared(case=row.case, setting=row.setting, first=figure, second=theirs[key])
        for row in first.rows
        for figure in row.figures
        if (key := (row.case, row.setting, figure.column)) in theirs
    )
    if not rows:
        raise ValueError(
            f"the reports have no figure in common: A is of bev-bench {first.command}, B of bev-bench {second.command}"
        )
    return Comparison(rows=rows, differences=tuple(_differences(first, second)))


def _differences(first: Report, second: Report) -> list[str]:
    ours, theirs = _circumstances(first), _circumstances(second)
    names = list(dict.fromkeys([*ours, *theirs]))
    return [
        f"{name}: A {ours.get(name, '-')}, B {theirs.get(name, '-')}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]


def _circumstances(report: Report) -> dict[str, object]:
    machine = report.machine
    software = {"threads": machine.threads, "python": machine.python, "PyTorch": machine.torch, "CUDA": machine.cuda}
    software |= {"driver": machine.driver, "libraries": ", ".join(machine.libraries)}
    software |= {"kernels": ", ".join(machine.kernels), "hardware": machine.hardware, "date": machine.date}
    return {fact.name: fact.value for fact in report.facts} | software


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("nan")
