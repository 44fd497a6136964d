"""What tools/run_key_frames.py tells of the systems it runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "run_key_frames.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_key_frames", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_all_twenty_are_run(tool: ModuleType) -> None:
    assert len(tool.published_recipes()) == 20


def test_classes_are_counted_most_frequent_first(tool: ModuleType) -> None:
    labels = torch.tensor([[2, 0, 2], [2, 0, 3]], dtype=torch.uint8)
    counted = tool.histogram(labels, ("car", "truck", "bus", "trailer", "barrier"))
    assert list(counted.items()) == [("bus", 3), ("car", 2), ("trailer", 1)]
    assert tool.histogram(torch.zeros(0, dtype=torch.int64), ("car", "truck")) == {}


def test_the_table_tells_time_memory_and_what_was_found(tool: ModuleType) -> None:
    frame = tool.Frame(
        split="mini_val",
        seconds=[9.0, 2.0, 3.0],
        cpu_seconds=[9.0, 4.0, 5.0],
        raw={"task 0 heatmap": [1, 1, 128, 128], "task 1 heatmap": [1, 2, 128, 128]},
        finite=True,
        found={"car": 5, "bus": 2, "truck": 1, "trailer": 1},
    )
    measured = tool.Measurement(
        recipe="bevdet-r50",
        frames=1,
        input_size=(256, 704),
        device="cpu",
        threads=2,
        weights_mib=169.04,
        loaded_mib=800.0,
        peak_mib=1437.4,
        key_frames=[frame, frame],
    )
    voxels = replace(frame, raw={"logits": [1, 200, 200, 16, 18]}, finite=False, found={"free": 640000})
    rows = tool.as_table([measured, replace(measured, key_frames=[voxels, frame])]).splitlines()[2:]
    assert rows[0] == (
        "| `bevdet-r50` | 1 | 256x704 | 3.0 | 5.0 | 1437 | 169 | 2 tasks, 2 maps of 128x128 | yes "
        "| 9: car 5, bus 2, truck 1, 1 more classes |"
    )
    assert "| **no** |" in rows[1], "one bad key frame is enough"
    last = tool.as_table([replace(measured, key_frames=[frame, voxels])])
    assert "logits 200x200x16x18 | **no** | 640000: free 640000 |" in last


@pytest.mark.slow
def test_a_published_system_runs_on_the_key_frames(
    tool: ModuleType, keyframes: Path, reference: Path, tmp_path: Path
) -> None:
    folders = ("--data", keyframes, "--reference", reference, "--out", tmp_path)
    done = subprocess.run([sys.executable, SCRIPT, "bevdet-r50", *map(str, folders)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "bevdet-r50.json").read_text())
    assert [frame["split"] for frame in measured["key_frames"]] == ["mini_train", "mini_val"]
    for frame in measured["key_frames"]:
        assert frame["finite"]
        assert frame["raw"]["task 0 heatmap"] == [1, 10, 128, 128]
        assert sum(frame["found"].values()) > 0
    assert "`bevdet-r50`" in done.stdout
