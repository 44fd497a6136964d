"""Two reports side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bev_bench import Fact, Figure, Report, Row, compare_reports


def _scaled(report: Report, factor: float) -> Report:
    def scaled(row: Row) -> Row:
        figures = (
            replace(f, median=factor * f.median, lower=factor * f.lower, upper=factor * f.upper) for f in row.figures
        )
        return replace(row, figures=tuple(figures))

    return replace(report, rows=tuple(map(scaled, report.rows)))


def test_ratios_of_equal_figures_with_the_range_that_the_quartiles_allow(report: Report) -> None:
    comparison = compare_reports(report, _scaled(report, 0.5))
    first = comparison.rows[0]
    assert (first.setting, first.first.name, first.ratio.median) == ("plain", "time", 0.5)
    assert (first.ratio.lower, first.ratio.upper) == pytest.approx((0.5 * 9.5 / 11, 0.5 * 11 / 9.5))
    assert len(comparison.rows) == 3
    assert "0.500 (0.432 to 0.579)" in str(comparison)


def test_rows_of_one_report_only_are_left_out(report: Report) -> None:
    comparison = compare_reports(report, replace(report, rows=report.rows[1:]))
    assert {row.setting for row in comparison.rows} == {"fused"}


def test_what_else_differs_is_said(report: Report) -> None:
    other = replace(report, facts=(Fact(name="weights", value="best.pth"),), machine=replace(report.machine, threads=1))
    differences = compare_reports(report, other).differences
    assert differences == ("weights: A random, B best.pth", "threads: A 4, B 1")


@pytest.mark.parametrize("change", [{"cpu": "Another"}, {"cores": 2}, {"gpu": "A GPU", "gpu_memory_gib": 80.0}])
def test_different_hardware_is_refused_unless_forced(report: Report, change: dict) -> None:
    other = replace(report, machine=replace(report.machine, **change))
    with pytest.raises(ValueError, match=r"different hardware, A from A processor \(8 cores\), B from .*--force"):
        compare_reports(report, other)
    forced = compare_reports(report, other, force=True)
    assert any(line.startswith("hardware: A A processor") for line in forced.differences)


def test_nothing_in_common_is_refused(report: Report) -> None:
    rows = (Row(case="pool", setting="ours", figures=(Figure.exact("time", "ms", 1.0),)),)
    with pytest.raises(ValueError, match="no figure in common: A is of bev-bench latency, B of bev-bench ops"):
        compare_reports(report, replace(report, command="ops", rows=rows))
