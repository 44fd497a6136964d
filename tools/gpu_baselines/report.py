"""Rows of the report and how they are written down."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

import torch

DASH = "–"


@dataclass(frozen=True)
class Row:
    """One thing measured: ours, and the ways it is compared with."""

    section: str
    case: str
    ours: float  # microseconds; NaN where it was not run
    others: dict[str, float]  # microseconds by name of the way
    correct: bool = True
    note: str = ""
    targets: dict[str, float] = field(default_factory=dict)  # wanted ratio by name of the way

    def ratio(self, name: str) -> float:
        """How many times longer another way takes."""
        return self.others[name] / self.ours

    def __str__(self) -> str:
        parts = [f"{name} {time:.1f} ({time / self.ours:.1f}x)" for name, time in self.others.items()]
        verdict = "" if self.correct else "  WRONG RESULT"
        return f"{self.section:10} {self.case:58} ours {self.ours:9.1f} us; {'; '.join(parts)} {self.note}{verdict}"


def markdown(rows: Sequence[Row]) -> str:
    """The report: where and when it was measured, then a table per section."""
    lines = [f"# GPU kernels on {torch.cuda.get_device_name()}, {date.today().isoformat()}", "", *_facts(), ""]
    for section in dict.fromkeys(row.section for row in rows):
        lines += [f"## {section}", "", "| case | ours, µs | compared with, µs (times longer) | target | note |"]
        lines.append("|---|---:|---|---|---|")
        lines += [_line(row) for row in rows if row.section == section]
        lines.append("")
    return "\n".join(lines)


def report_name() -> str:
    """HARDWARE-DATE.md."""
    hardware = torch.cuda.get_device_name().lower().replace("nvidia", "").strip().replace(" ", "-")
    return f"{hardware}-{date.today().isoformat()}.md"


def _line(row: Row) -> str:
    others = "; ".join(f"{name} {time:.1f} ({row.ratio(name):.1f}x)" for name, time in row.others.items()) or DASH
    targets = "; ".join(
        f"{name} {wanted:g}x {'reached' if row.ratio(name) >= wanted else 'missed'}"
        for name, wanted in row.targets.items()
    )
    note = row.note if row.correct else f"**wrong result** {row.note}"
    return f"| {row.case} | {row.ours:.1f} | {others} | {targets or DASH} | {note or DASH} |"


def _facts() -> list[str]:
    properties = torch.cuda.get_device_properties(0)
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return [
        f"{properties.multi_processor_count} multiprocessors, {properties.L2_cache_size >> 20} MiB second-level cache, "
        f"driver {driver}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}.",
        "",
        "Medians; the ways of a row took turns in one run. Inputs are drawn afresh and every result is checked against "
        "the plain-PyTorch reference first.",
    ]
