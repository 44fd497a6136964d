"""Builds a TensorRT engine of every recipe, checks it against PyTorch, times it, and writes a table.

    python tools/trt_report.py                                     # all recipes, fp32 and fp16, native and plugin
    python tools/trt_report.py bevdet-r50 --precision fp16 --pool native

Needs a CUDA GPU and TensorRT 10.12 or newer. Weights are drawn. Exports and engines are made anew, in a folder of
runs/trt each; measured times of layers (timing.cache) are kept there. The table is written anew after every engine, as
docs/benchmarks/trt-HARDWARE-DATE.md. Exits with 1 if an engine could not be built or gives other results than PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from bev_deploy import DeployedDetector, ExportOptions, export_model, load
from bev_deploy.compare import draw_statistics
from bev_deploy.step import Step
from bev_deploy.tensorrt import BuildOptions, EngineError, build_engine, latency, step_inputs
from bev_deploy.tensorrt.bindings import current_gpu, import_tensorrt
from bev_deploy.tensorrt.metadata import ENGINE_NAME
from bev_zoo import Detector, create_model, list_recipes

ROOT = Path(__file__).resolve().parents[1]
# Greatest difference of a raw output, in its standard deviations: of fp32; in fp16, so many times that of PyTorch's.
FP32_LIMIT, FP16_FACTOR = 1e-3, 2.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine."""

    recipe: str
    precision: str
    pool: str
    build_s: float = 0.0
    megabytes: float = 0.0
    error: float = 0.0
    torch_error: float = 0.0  # of PyTorch in the same precision
    graph_ms: float = 0.0
    plain_ms: float = 0.0  # without a CUDA graph
    torch_ms: float = 0.0
    failure: str = ""

    @property
    def good(self) -> bool:
        """Whether the engine may be trusted."""
        limit = max(FP32_LIMIT, FP16_FACTOR * self.torch_error) if self.precision == "fp16" else FP32_LIMIT
        return not self.failure and self.error <= limit

    def __str__(self) -> str:
        head = f"| {self.recipe} | {self.precision} | {self.pool} |"
        if self.failure:
            return f"{head} **{self.failure}** | | | | | | | |"
        error = f"{self.error:.1e}" if self.good else f"**{self.error:.1e}**"
        built = f"{self.build_s:.0f} | {self.megabytes:.0f} | {error} | {self.torch_error:.1e}"
        times = f"{self.graph_ms:.2f} | {self.plain_ms:.2f} | {self.torch_ms:.2f}"
        return f"{head} {built} | {times} | {self.torch_ms / self.graph_ms:.1f} |"


class StepSession:
    """The graph before its export, in PyTorch on the GPU, as a :class:`bev_deploy.Session`."""

    fixed_tables = False

    def __init__(self, model: Detector, precision: str, device: torch.device) -> None:
        self.device = device
        self._step = Step(model, precision=precision, raw=True).to(device)
        self._state = torch.float16 if precision == "fp16" else torch.float32

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        placed = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        return self._step(
            {
                name: tensor.to(self._state) if name in ("history", "stereo") else tensor
                for name, tensor in placed.items()
            }
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: all")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "fp16"), default=["fp32", "fp16"])
    parser.add_argument("--pool", nargs="+", choices=("native", "plugin"), default=["native", "plugin"])
    parser.add_argument("--calls", type=int, default=100, help="that are timed")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "trt", help="folder of the engines")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the table")
    options = parser.parse_args(argv)
    try:
        gpu, version = current_gpu(), import_tensorrt().__version__
    except EngineError as error:
        print(f"trt_report: {error}", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    hardware = gpu.name.lower().replace("nvidia", "").strip().replace(" ", "-")
    path = options.out / f"trt-{hardware}-{date.today().isoformat()}.md"
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name in options.recipes or list_recipes():
        for precision in options.precision:
            for pool in options.pool:
                rows.append(measured(name, precision, pool, options.runs, gpu.device, calls=options.calls))
                print(rows[-1], flush=True)
                path.write_text(as_text(rows, gpu.name, version))
    print(f"wrote {path}")
    return 0 if all(row.good for row in rows) else 1


def measured(name: str, precision: str, pool: str, runs: Path, device: torch.device, *, calls: int) -> Row:
    """Export, build, compare and time."""
    try:
        return _measured(name, precision, pool, runs, device, calls=calls)
    except (ValueError, RuntimeError) as error:  # the other engines are tried all the same
        return Row(recipe=name, precision=precision, pool=pool, failure=" ".join(str(error).split()))


def _measured(name: str, precision: str, pool: str, runs: Path, device: torch.device, *, calls: int) -> Row:
    torch.manual_seed(0)
    model = create_model(name).eval()
    draw_statistics(model)
    folder = runs / f"{name}-{precision}-{pool}"
    export_model(model, folder, ExportOptions(precision=precision, pool=pool, raw=True))
    built = build_engine(folder, BuildOptions(timing_cache=runs / "timing.cache"))
    recorded, plain = (load(folder, "tensorrt", cuda_graph=graph) for graph in (True, False))
    wanted, same = (StepSession(model, kind, device) for kind in ("fp32", precision))
    inputs = step_inputs(recorded)
    want = wanted(inputs)
    error, torch_error = (worst_error(session(inputs), want, recorded) for session in (recorded.session, same))
    times = [latency(session, inputs, runs=calls).median_ms for session in (recorded.session, plain.session, same)]
    return Row(
        recipe=name,
        precision=precision,
        pool=pool,
        build_s=built.build_seconds,
        megabytes=(folder / ENGINE_NAME).stat().st_size / 1e6,
        error=error,
        torch_error=torch_error,
        graph_ms=times[0],
        plain_ms=times[1],
        torch_ms=times[2],
    )


def worst_error(got: Mapping[str, Tensor], want: Mapping[str, Tensor], detector: DeployedDetector) -> float:
    """Greatest difference of an output that is no state, in standard deviations of that output."""
    names = [spec.name for spec in detector.manifest.outputs if spec.name not in detector.manifest.state]
    return max(
        ((got[name].float() - want[name].float()).abs().max() / want[name].float().std()).item() for name in names
    )


def as_text(rows: Sequence[Row], gpu: str, version: str) -> str:
    """The report."""
    return "\n".join(
        [
            f"# TensorRT engines on {gpu}, {date.today().isoformat()}",
            "",
            f"TensorRT {version}, PyTorch {torch.__version__}; drawn weights, one step with a full history, batch 1, "
            "medians of calls that are waited for. TF32 is off everywhere. Errors are the greatest of all raw outputs, "
            "in standard deviations of the output, against PyTorch in fp32; bold ones are too large (fp32: above 1e-3; "
            "fp16: above twice that of PyTorch in fp16). Ratios are of the same run.",
            "",
            "| recipe | precision | pooling | build s | plan MB | error | PyTorch's error | ms | ms without CUDA graph "
            "| PyTorch ms | times faster than PyTorch |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *map(str, rows),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
