"""Export every recipe, run it beside PyTorch, and write a table: seconds, sizes, differences.

    python tools/export_report.py                                  # all, at reduced input size
    python tools/export_report.py --native bevdet-r50 bevdet-tiny  # some, at the size of the recipe
    python tools/export_report.py --precision fp16 bevdet-r50

Every recipe runs in a process of its own, with weights that are drawn. What was measured is kept in runs/export and not
measured again; docs/benchmarks/export-DATE.md is written anew after every recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import onnx
import torch

from bev_deploy import ExportOptions, export_model, load
from bev_deploy.compare import Agreement, agreement_of_streams, compared, draw_statistics, drive
from bev_zoo import create_model, list_recipes, nuscenes_rig

ROOT = Path(__file__).resolve().parents[1]
REDUCED = (128, 352)  # height, width; the smallest that every backbone's windows and strides like
LONG_DRIVE = 20  # frames of the tiny recipes' drive
SHORT_DRIVE = 2
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One export."""

    recipe: str
    input_size: tuple[int, int]
    native: bool
    precision: str
    export_s: float
    megabytes: float
    nodes: int
    torch_s: float
    onnxruntime_s: float
    whole: Agreement
    stream: Agreement | None
    stream_frames: int
    peak_gib: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="default: all")
    parser.add_argument("--native", action="store_true", help="at the recipe's own input size")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "export", help="where measurements are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the table")
    parser.add_argument("--one", metavar="JSON", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one is not None:
        measured = measure(options.recipes[0], native=options.native, precision=options.precision)
        options.one.write_text(json.dumps(dataclasses.asdict(measured)))
        return 0
    options.runs.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.recipes or list_recipes() if not _kept(name, options)]
    for name in failed:
        print(f"export_report: {name} failed, see above", file=sys.stderr)
    return int(bool(failed))


def measure(name: str, *, native: bool, precision: str) -> Measurement:
    """Export a recipe to a temporary folder and compare."""
    torch.manual_seed(0)
    tiny = name.startswith("bevdet-tiny")
    model = create_model(name, input_size=None if native or tiny else REDUCED).eval()
    draw_statistics(model)
    recipe = model.recipe
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        manifest = export_model(model, folder, ExportOptions(raw=True, precision=precision))
        seconds = time.perf_counter() - start
        file = Path(folder) / manifest.model
        size, nodes = file.stat().st_size / 1e6, len(onnx.load(file, load_external_data=False).graph.node)
        exported = load(folder)
        images = torch.cat([frame for frame, _ in drive(model, recipe.frames)], dim=1)
        rig = nuscenes_rig(recipe.input_size, frames=recipe.frames, now=recipe.frames, rolling=True)
        with torch.no_grad():
            torch_s, wanted = _timed(model, images, rig)
        ort_s, outputs = _timed(exported.outputs, images, rig)
        whole = compared(model, exported, wanted, outputs)
        frames = 0 if recipe.temporal.history == 0 else LONG_DRIVE if tiny else SHORT_DRIVE
        stream = agreement_of_streams(model, exported, frames) if frames else None
    return Measurement(
        recipe=name,
        input_size=recipe.input_size,
        native=native or tiny,
        precision=precision,
        export_s=seconds,
        megabytes=size,
        nodes=nodes,
        torch_s=torch_s,
        onnxruntime_s=ort_s,
        whole=whole,
        stream=stream,
        stream_frames=frames,
        peak_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def as_table(measurements: Sequence[Measurement]) -> str:
    """Markdown, a row per export."""
    head = (
        "| recipe | input | precision | export s | MB | nodes | peak GiB | PyTorch s | ONNX Runtime s "
        "| raw error, sd | boxes or voxels equal | drive: frames | raw error, sd |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    )
    return "\n".join([*head, *map(_row, measurements)]) + "\n"


def _row(m: Measurement) -> str:
    equal = m.whole.boxes if m.whole.boxes is not None else m.whole.voxels
    drive_cells = f"{m.stream_frames} | {m.stream.raw:.1e}" if m.stream else "– | –"
    return (
        f"| {m.recipe} | {m.input_size[0]}x{m.input_size[1]} | {m.precision} | {m.export_s:.0f} | {m.megabytes:.0f} "
        f"| {m.nodes} | {m.peak_gib:.1f} | {m.torch_s:.1f} | {m.onnxruntime_s:.1f} | {m.whole.raw:.1e} "
        f"| {100 * equal:.2f} % | {drive_cells} |"
    )


def _kept(name: str, options: argparse.Namespace) -> bool:
    """Measure a recipe unless that was done; False if it failed."""
    size = "native" if options.native or name.startswith("bevdet-tiny") else "reduced"
    path = options.runs / f"{name}-{size}-{options.precision}.json"
    if not path.exists():
        partial = path.with_suffix(".partial")
        flags = ["--precision", options.precision, *(["--native"] if options.native else [])]
        done = subprocess.run([sys.executable, __file__, name, *flags, "--one", str(partial)], check=False)
        if done.returncode != 0:
            return False
        partial.replace(path)
    _write_table(options)
    print(_row(_read(path)), flush=True)
    return True


def _write_table(options: argparse.Namespace) -> None:
    order = {name: i for i, name in enumerate(list_recipes())}
    measured = sorted(
        (_read(path) for path in options.runs.glob("*.json")),
        key=lambda m: (m.precision != "fp32", order.get(m.recipe, len(order)), m.native),
    )
    date = datetime.date.today().isoformat()
    title = f"# Exports beside PyTorch, {date}\n\n"
    about = (
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, PyTorch "
        f"{torch.__version__}, ONNX Runtime on the CPU. Written by `python tools/export_report.py`. Weights are drawn; "
        "seconds are of one whole sequence, once, on a machine with other work.\n\n"
        "The raw error is the greatest difference of any raw output, in standard deviations of that output. Boxes are "
        "the best candidates before suppression; equal is every number within 1e-2 (relative beyond 1). A drive is fed "
        "frame by frame to `stream()` of both.\n\n"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"export-{date}.md").write_text(title + about + as_table(measured))


def _read(path: Path) -> Measurement:
    content = json.loads(path.read_text())
    content["whole"] = Agreement(**content["whole"])
    content["stream"] = Agreement(**content["stream"]) if content["stream"] else None
    return Measurement(**content)


def _timed(run: Callable[..., T], *inputs: object) -> tuple[float, T]:
    start = time.perf_counter()
    outputs = run(*inputs)
    return time.perf_counter() - start, outputs


if __name__ == "__main__":
    sys.exit(main())
