"""Run the published systems on the two real key frames at their native input size: shapes, finite values, time, memory.

    python tools/run_key_frames.py                      # all twenty, one after the other, each in a process of its own
    python tools/run_key_frames.py bevdet-r50           # some
    python tools/run_key_frames.py --threads 2          # compute threads of each (default: PyTorch's choice)

Weights are made by the rule of the reference folder and loaded as a published checkpoint. What was measured is kept in
runs/key-frames/NAME.json and not measured again; runs/key-frames/table.md is written anew after every system.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bev_heads import CenterOutput, Detections
from bev_nuscenes import DataOptions, NuscenesDataset, collate, open_index
from bev_zoo import CameraRig, Detector, Recipe, create_model, get_recipe, list_recipes, load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SPLITS = ("mini_train", "mini_val")  # one key frame each
QUICK_S = 20.0  # a prediction that takes less is timed three times


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What came out for one key frame."""

    split: str
    seconds: list[float]  # of one or three predictions, by the clock
    cpu_seconds: list[float]  # of all threads, which other programs on the machine do not lengthen as much
    raw: dict[str, list[int]]  # shape of each output of the head
    finite: bool  # all of them
    found: dict[str, int]  # boxes or voxels per class, most frequent first


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One system on all key frames."""

    recipe: str
    frames: int
    input_size: tuple[int, int]
    device: str
    threads: int
    weights_mib: float
    loaded_mib: float  # peak memory of the process before it predicted
    peak_mib: float  # peak memory of the process
    key_frames: list[Frame]


def main() -> int:
    """Measure the systems that are asked for, and print the table; 1 if a process failed."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(asdict(measure(get_recipe(options.only), options.data, options.reference))))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.recipes or published_recipes() if not _run(name, options)]
    print((options.out / "table.md").read_text() if (options.out / "table.md").exists() else "nothing was measured")
    return int(bool(failed))


def published_recipes() -> list[str]:
    """The twenty systems that have a published result."""
    return [name for name in list_recipes() if get_recipe(name).published is not None]


def measure(recipe: Recipe, data: Path, reference: Path) -> Measurement:
    """Predict every key frame with a system, in this process."""
    model = create_model(recipe).eval()
    load_checkpoint(model, _weights_by_rule(recipe.name, reference))
    samples = {split: _sample(recipe, data, split) for split in SPLITS}
    loaded = _peak_mib()
    warm_up, timed = (partial(_key_frame, model, split, *sample) for split, sample in samples.items())
    key_frames = [warm_up(), timed(repeat=True)]
    return Measurement(
        recipe=recipe.name,
        frames=recipe.frames,
        input_size=recipe.input_size,
        device="cpu",
        threads=torch.get_num_threads(),
        weights_mib=sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20,
        loaded_mib=loaded,
        peak_mib=_peak_mib(),
        key_frames=key_frames,
    )


def as_table(measurements: Sequence[Measurement]) -> str:
    """Markdown: time and memory of every system, and what it gave for the second key frame."""
    head = (
        "| recipe | frames | input | seconds | CPU seconds | peak MiB | weights MiB | output | finite | found |",
        "|---|---|---|---|---|---|---|---|---|---|",
    )
    return "\n".join([*head, *map(_row, measurements)]) + "\n"


# -- one key frame -----------------------------------------------------------------------------------------------------


def _key_frame(model: Detector, split: str, images: Tensor, rig: CameraRig, *, repeat: bool = False) -> Frame:
    """Predict a key frame, or three times where that is quick."""
    raw: dict[str, Tensor] = {}
    hook = model.head.register_forward_hook(lambda _module, _inputs, output: raw.update(_named(output)))
    predictions = [_timed(model, images, rig)]
    hook.remove()
    if repeat and predictions[0].seconds < QUICK_S:
        predictions += [_timed(model, images, rig) for _ in range(2)]
    found = predictions[0].found
    everything = [*raw.values(), *((found.boxes, found.scores) if isinstance(found, Detections) else ())]
    return Frame(
        split=split,
        seconds=[prediction.seconds for prediction in predictions],
        cpu_seconds=[prediction.cpu_seconds for prediction in predictions],
        raw={name: list(tensor.shape) for name, tensor in raw.items()},
        finite=all(bool(tensor.isfinite().all()) for tensor in everything),
        found=histogram(found.labels if isinstance(found, Detections) else found, model.recipe.classes),
    )


def histogram(labels: Tensor, classes: Sequence[str]) -> dict[str, int]:
    """How often each class is in labels of any shape, most frequent first, absent ones left out."""
    counts = dict(zip(classes, labels.flatten().long().bincount(minlength=len(classes)).tolist(), strict=True))
    return dict(sorted(((name, n) for name, n in counts.items() if n), key=lambda item: -item[1]))


def _named(output: list[CenterOutput] | Tensor) -> dict[str, Tensor]:
    """Raw outputs of a head, by name."""
    if isinstance(output, Tensor):
        return {"logits": output}
    return {f"task {t} {name}": tensor for t, task in enumerate(output) for name, tensor in task._asdict().items()}


class _Prediction(NamedTuple):
    found: Detections | Tensor
    seconds: float
    cpu_seconds: float


def _timed(model: Detector, images: Tensor, rig: CameraRig) -> _Prediction:
    start, cpu_start = time.perf_counter(), time.process_time()
    found = model.predict(images, rig)[0]
    return _Prediction(found, time.perf_counter() - start, time.process_time() - cpu_start)


def _peak_mib() -> float:
    """The most memory this process has had in use so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere


# -- inputs ------------------------------------------------------------------------------------------------------------


def _sample(recipe: Recipe, data: Path, split: str) -> tuple[Tensor, CameraRig]:
    """The key frame of a split as a batch: images (1, T, N, 3, H, W) and the rig."""
    index = open_index(DataOptions(root=str(data), split=split), progress=False)
    dataset = NuscenesDataset(
        index,
        split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
    )
    batch = collate([dataset[0]])
    return batch.images, CameraRig(**batch.cameras)


def _weights_by_rule(name: str, reference: Path) -> dict[str, Tensor]:
    sys.path.insert(0, str(ROOT))
    from tests.parity.published import Published  # the rule stands with the tests that need it most

    return Published(reference, "forward", name).checkpoint()


# -- processes and the table -------------------------------------------------------------------------------------------


def _run(name: str, options: argparse.Namespace) -> bool:
    """Measure a system in a process of its own, unless that was done before."""
    kept = options.out / f"{name}.json"
    if not kept.exists():
        print(f"{name} …", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--only", name, "--data", options.data, "--reference", options.reference]
        if options.threads:
            command += ["--threads", str(options.threads)]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"{name} failed with exit code {done.returncode}", file=sys.stderr)
            return False
        kept.write_text(done.stdout)
    _write_table(options.out)
    return True


def _write_table(folder: Path) -> None:
    kept = [folder / f"{name}.json" for name in published_recipes()]
    rows = [_read(path) for path in kept if path.exists()]
    (folder / "table.md").write_text(as_table(rows))


def _read(path: Path) -> Measurement:
    values = json.loads(path.read_text())
    values["key_frames"] = [Frame(**frame) for frame in values["key_frames"]]
    return Measurement(**values)


def _row(measured: Measurement) -> str:
    height, width = measured.input_size
    last = measured.key_frames[-1]
    cells = (
        f"`{measured.recipe}`",
        str(measured.frames),
        f"{height}x{width}",
        f"{statistics.median(last.seconds):.1f}",
        f"{statistics.median(last.cpu_seconds):.1f}",
        f"{measured.peak_mib:.0f}",
        f"{measured.weights_mib:.0f}",
        _output(last.raw),
        "yes" if all(frame.finite for frame in measured.key_frames) else "**no**",
        _found(last.found),
    )
    return f"| {' | '.join(cells)} |"


def _output(raw: dict[str, list[int]]) -> str:
    if "logits" in raw:
        return f"logits {'x'.join(map(str, raw['logits'][1:]))}"
    maps = list(raw.values())
    tasks = len({name.split()[1] for name in raw})
    return f"{tasks} task{'s' * (tasks > 1)}, {len(maps)} maps of {'x'.join(map(str, maps[0][2:]))}"


def _found(found: dict[str, int], shown: int = 3) -> str:
    parts = [f"{name} {count}" for name, count in list(found.items())[:shown]]
    more = [f"{len(found) - shown} more classes"] if len(found) > shown else []
    return f"{sum(found.values())}: {', '.join(parts + more)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared"
    parser.add_argument("recipes", nargs="*", metavar="NAME", help="systems to measure (default: all published ones)")
    parser.add_argument("--data", type=Path, default=shared / "data" / "nuscenes-keyframes", help="the key frames")
    parser.add_argument("--reference", type=Path, default=shared / "reference", help="where the manifests lie")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "key-frames", help="folder of the results")
    parser.add_argument("--threads", type=int, help="compute threads of each process")
    parser.add_argument("--only", metavar="NAME", help="measure one in this process and print it as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
