"""Measure time, memory and operations; every command gives a :class:`Report`."""

from bev_bench.compare import Comparison, compare_reports
from bev_bench.machine import Machine
from bev_bench.report import Fact, Figure, Report, Row, as_markdown, as_table, read_report
from bev_bench.stopwatch import Contender, Repetition, Times, measure

__all__ = [
    "Comparison",
    "Contender",
    "Fact",
    "Figure",
    "Machine",
    "Repetition",
    "Report",
    "Row",
    "Times",
    "as_markdown",
    "as_table",
    "compare_reports",
    "measure",
    "read_report",
]
