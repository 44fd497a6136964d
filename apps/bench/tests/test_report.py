"""Figures, tables, files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bev_bench import Figure, Report, as_markdown, as_table, read_report
from bev_bench.machine import this_machine
from bev_bench.report import to_json


def test_a_figure_has_median_and_quartiles() -> None:
    figure = Figure.of("time", "ms", [5.0, 1.0, 2.0, 3.0, 4.0])
    assert (figure.lower, figure.median, figure.upper, figure.count) == (2, 3, 4, 5)
    assert str(figure) == "3 (2 to 4)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234.567, "1235"),
        (123.456, "123"),
        (12.3456, "12.3"),
        (0.0123456, "0.0123"),
        (1e-14, "0.000000000"),
        (0.0, "0"),
        (7.0, "7"),
        (math.nan, "-"),
    ],
)
def test_three_digits_count(value: float, text: str) -> None:
    assert str(Figure.exact("time", "ms", value)) == text


def test_the_table_shows_every_figure_and_where_it_was_measured(report: Report) -> None:
    lines = as_table(report).splitlines()
    assert lines[:2] == ["bev-bench latency", "weights: random"]
    assert lines[3].split() == ["case", "setting", "time,", "ms", "ratio"]
    assert lines[5] == "model  plain     10 (9.50 to 11)              -"
    assert lines[6] == "model  fused    5 (4.50 to 5.50)  2 (2 to 2.12)"
    assert "a note" in lines
    assert "A processor (8 cores), 32 GiB, 4 threads, load 0.5" in lines
    assert "bev_ops on cpu: compiled kernels" in lines
    assert lines[-1] == "2026-01-01T00:00:00+00:00"


def test_markdown_holds_the_same(report: Report) -> None:
    text = as_markdown(report)
    assert "| case | setting | time, ms | ratio |\n| --- | --- | --- | --- |\n" in text
    assert "| model | fused | 5 (4.50 to 5.50) | 2 (2 to 2.12) |" in text
    assert "A processor (8 cores)" in text


def test_json_comes_back_as_it_went(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(to_json(report))
    assert read_report(path) == report


def test_what_is_not_finite_is_null_in_json(report: Report, tmp_path: Path) -> None:
    figure = Figure.exact("difference", "std", math.nan)
    path = tmp_path / "report.json"
    path.write_text(to_json(replace(report, rows=(replace(report.rows[0], figures=(figure,)),))))
    assert json.loads(path.read_text())["rows"][0]["figures"][0]["median"] is None
    assert math.isnan(read_report(path).rows[0].figure("difference").median)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no report at"),
        ("not JSON", "is not JSON"),
        ("[1]", "is no report of this version"),
        ('{"format": 0}', "is no report of this version"),
        ('{"format": 1, "command": "ops"}', "is a damaged report"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_report(path)


def test_this_machine_is_known() -> None:
    machine = this_machine(torch.device("cpu"))
    assert machine.cpu
    assert machine.cores >= 1
    assert machine.threads == torch.get_num_threads()
    assert machine.torch == torch.__version__
    assert machine.gpu is None
    assert any(library.startswith("bev-bench ") for library in machine.libraries)
    assert machine.hardware == f"{machine.cpu} ({machine.cores} cores)"
