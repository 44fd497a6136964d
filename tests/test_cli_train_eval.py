"""bev-train and bev-eval as a user runs them: own processes, real key frames, one model from training to figures."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

KEY_FRAMES = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "nuscenes-keyframes"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
needs_key_frames = pytest.mark.skipif(not KEY_FRAMES.is_dir(), reason=f"needs the real key frames in {KEY_FRAMES}")


def _command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def _run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(module, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=600)


def _training(folder: Path, **options: object) -> list[object]:
    told = {
        "data.root": KEY_FRAMES,
        "data.index": folder.parent / "index.npz",
        "out": folder,
        "epochs": 6,
        "batch-size": 1,
        "workers": 0,
        "log-every": 1,
        "accelerator": "cpu",
    }
    named = {**told, **options}
    return ["bevdet-tiny", *(text for name, value in named.items() for text in (f"--{name}", value))]


@pytest.mark.parametrize("program", ["bev-train", "bev-eval"])
def test_module_and_program_are_one(program: str) -> None:
    installed = Path(sys.executable).with_name(program)
    if not installed.exists():
        pytest.skip(f"{program} is not installed beside this Python")
    told = subprocess.run([installed, "--help"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert told.stdout == _run(program.replace("-", "_"), "--help").stdout
    assert told.stdout.startswith(f"usage: {program} ")


@needs_key_frames
def test_from_training_to_figures(tmp_path: Path) -> None:
    trained = _run("bev_train", *_training(tmp_path / "run"))
    assert trained.returncode == 0, trained.stderr
    assert "6 steps done" in trained.stdout
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    data = [
        "--data.root",
        KEY_FRAMES,
        "--data.index",
        tmp_path / "index.npz",
        "--workers",
        0,
        "--out",
        tmp_path / "eval",
    ]
    evaluated = _run("bev_eval", "bevdet-tiny", "--checkpoint", tmp_path / "run" / "model.safetensors", *data)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "mAP over classes present" in evaluated.stdout
    figures = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert figures["split"] == "mini_val"
    assert figures["classes"]["car"]["ground_truth"] > 0


@needs_key_frames
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_process_resumes_with_the_same_numbers(tmp_path: Path, number: signal.Signals) -> None:
    assert _run("bev_train", *_training(tmp_path / "whole")).returncode == 0
    folder = tmp_path / "broken"
    process = subprocess.Popen(
        _command("bev_train", *_training(folder, workers=1)),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (folder / "model.safetensors").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)  # loading workers too, as a terminal or a batch system does
    assert process.wait(timeout=60) == (-number if number == signal.SIGKILL else 128 + number)
    resumed = _run("bev_train", *_training(folder), "--resume")
    assert resumed.returncode == 0, resumed.stderr
    expected, found = (load_file(path / "model.safetensors") for path in (tmp_path / "whole", folder))
    assert all((expected[name] == found[name]).all() for name in expected)
