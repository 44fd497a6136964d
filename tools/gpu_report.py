"""Builds the GPU kernels of bev-ops, checks them on fresh inputs, times them beside public ways, and writes a report.

    python tools/gpu_report.py [--out docs/benchmarks] [--quick] [--only pool plan …]

Runs on any machine with a CUDA device, nvcc, PyTorch and Triton; needs bev-ops, bev-lss, bev-temporal and bev-heads.
Every ratio comes from one run, in which the ways take turns. Rows that could not run say why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from gpu_baselines import decode_rows, measure, pool_rows, stereo_rows
from gpu_baselines.report import Row, markdown, report_name

SECTIONS = {
    "pool": pool_rows.pool,
    "lift": pool_rows.lift,
    "backward": pool_rows.backward,
    "plan": pool_rows.plan,
    "stereo": stereo_rows.stereo,
    "warp": stereo_rows.warp,
    "decode": decode_rows.decode,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"), help="folder of the report")
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that everything runs")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="sections to run")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu_report: this machine has no CUDA device: nothing was run", file=sys.stderr)
        return 1
    clock = measure.Clock(repetitions=5 if options.quick else 30)
    rows: list[Row] = []
    for name in options.only:
        for row in SECTIONS[name](clock):
            print(row, flush=True)
            rows.append(row)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / report_name()
    path.write_text(markdown(rows))
    print(f"wrote {path}")
    return 0 if all(row.correct for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
