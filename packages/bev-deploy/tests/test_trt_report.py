"""The report on engines: where there is no TensorRT, and what it says of one that can be built."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "trt_report.py"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("needs the repository's tools")
    spec = importlib.util.spec_from_file_location("trt_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so(report, capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert report.main(["--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("trt_report: TensorRT needs a CUDA GPU")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "error", "torch_error", "good"),
    [
        ("fp32", 9e-4, 0.0, True),
        ("fp32", 2e-3, 0.0, False),
        ("fp16", 2e-2, 1.5e-2, True),
        ("fp16", 4e-2, 1.5e-2, False),
    ],
)
def test_errors_that_are_too_large(report, precision: str, error: float, torch_error: float, good: bool) -> None:
    row = report.Row(
        recipe="bevdet-tiny",
        precision=precision,
        pool="native",
        error=error,
        torch_error=torch_error,
        graph_ms=1.0,
        torch_ms=3.0,
    )
    assert row.good == good
    assert (f"**{error:.1e}**" in str(row)) == (not good)
    assert str(row).endswith("| 3.0 |")


def test_a_table(report) -> None:
    same = {"recipe": "bevdet-tiny", "precision": "fp32", "pool": "native"}
    rows = [report.Row(**same, failure="TensorRT cannot read it"), report.Row(**same, graph_ms=1.0)]
    lines = report.as_text(rows, "Some GPU", "10.12.0.36").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert lines[0].startswith("# TensorRT engines on Some GPU, ")
    assert {line.count("|") for line in table} == {table[0].count("|")}
    assert not rows[0].good


def test_the_worst_error_is_that_of_results(report, exported) -> None:
    detector = exported("bevdet-tiny-4d", (64, 192), raw=True).load()
    names = [spec.name for spec in detector.manifest.outputs]
    want = {name: torch.tensor([0.0, 2.0, 4.0]) for name in names}
    got = want | {"task0_height": torch.tensor([0.0, 2.0, 5.0]), "next_history": torch.tensor([0.0, 2.0, 99.0])}
    assert report.worst_error(got, want, detector) == pytest.approx(0.5)
