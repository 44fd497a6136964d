"""A small synthetic world, and the programs on it as a user starts them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bev_nuscenes.synthetic import make_world

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of four key frames for training and one for evaluation."""
    root = tmp_path_factory.mktemp("world") / "nuscenes"
    make_world(root, scenes=2, samples_per_scene=4, density=0.3, workers=1)
    return root


@pytest.fixture(scope="session")
def training(world: Path) -> Callable[..., list[str]]:
    """The command that trains bevdet-tiny into a folder: training(folder, program=..., option=value)."""

    def command(folder: Path, *flags: str, program: tuple[str, ...] = ("-m", "bev_train"), **options) -> list[str]:
        told = {
            "data.root": world,
            "data.index": world.parent / "index.npz",
            "out": folder,
            "epochs": 3,
            "batch-size": 2,
            "workers": 0,
            "log-every": 1,
            "warmup-steps": 2,
            "accelerator": "cpu",
        }
        told |= {name.replace("_", "-"): value for name, value in options.items()}
        named = (str(text) for name, value in told.items() for text in (f"--{name}", value))
        return [sys.executable, *program, "bevdet-tiny", "--input-size", "64", "160", *flags, *named]

    return command


def run(command: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)


def column(folder: Path, name: str) -> list[float]:
    """One column of a run's metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def assert_same_end(one: Path, two: Path) -> None:
    """Weights, average, optimiser, schedule and position of two runs are equal, bit for bit."""
    first, second = (torch.load(path / "checkpoints" / "last.ckpt", weights_only=True) for path in (one, two))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "skipped_steps"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, msg=lambda text, key=key: f"{key}: {text}")
    consumed = [state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"] for state in (first, second)]
    assert consumed[0] == consumed[1]
    weights, others = (load_file(path / "model.safetensors") for path in (one, two))
    torch.testing.assert_close(weights, others, rtol=0, atol=0)
