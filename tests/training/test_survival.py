"""Killed at any step, terminated, or left with a damaged checkpoint: the numbers are those of an undisturbed run.

Real processes on a synthetic world.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import ENVIRONMENT, assert_same_end, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(training, tmp_path_factory) -> Path:
    """The folder of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = run(training(folder))
    assert done.returncode == 0, done.stderr
    return folder


def _signal_in_the_middle(command: list[str], folder: Path, number: signal.Signals, delay: float) -> int:
    """Start a run and send it a signal, to it and its workers, some time after it has begun to train.

    Every start writes metrics.csv anew with its first row.
    """
    before = _written(folder / "metrics.csv")
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while _written(folder / "metrics.csv") == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is None:
        os.killpg(process.pid, number)
    return process.wait(timeout=120)


def _written(path: Path) -> int | None:
    """When a file was last written, nanoseconds; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_several_times_at_random_moments(training, undisturbed, tmp_path, seed) -> None:
    rng, folder = random.Random(seed), tmp_path / "killed"
    options = {"checkpoint_every_steps": 1, "workers": seed}
    for kill in range(3):
        command = training(folder, *(["--resume"] if (folder / "options.json").exists() else []), **options)
        status = _signal_in_the_middle(command, folder, signal.SIGKILL, rng.uniform(0, 1.5))
        assert status in (-signal.SIGKILL, 0), f"kill {kill}"
    done = run(training(folder, "--resume", **options))
    assert done.returncode == 0, done.stderr
    assert_same_end(undisturbed, folder)


def test_terminated_it_saves_and_says_so(training, undisturbed, tmp_path) -> None:
    folder = tmp_path / "terminated"
    status = _signal_in_the_middle(training(folder), folder, signal.SIGTERM, 0.1)
    assert status == 128 + signal.SIGTERM
    assert (folder / "checkpoints" / "last.ckpt").exists()
    done = run(training(folder, "--resume"))
    assert done.returncode == 0, done.stderr
    assert_same_end(undisturbed, folder)


def test_a_truncated_checkpoint_falls_back_loudly(training, undisturbed, tmp_path) -> None:
    folder = tmp_path / "truncated"
    assert run(training(folder, max_steps=3, checkpoint_every_steps=1)).returncode == 0
    last = folder / "checkpoints" / "last.ckpt"
    os.truncate(last, last.stat().st_size // 2)
    done = run(training(folder, "--resume"))
    assert done.returncode == 0, done.stderr
    assert f"bev-train: warning: {last} is damaged: going on from {last.with_name('previous.ckpt')}" in done.stderr
    assert_same_end(undisturbed, folder)
