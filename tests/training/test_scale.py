"""Several processes, parts of a batch, parts of a model: the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ENVIRONMENT, HERE, TORCHRUN, column, run

TINY = str(HERE / "tiny_train.py")


def _tiny(folder: Path, *arguments: object, processes: int = 1, **environment: str) -> Path:
    start = (*TORCHRUN, TINY) if processes == 2 else (TINY,)
    command = [sys.executable, *start, str(folder), *map(str, arguments)]
    told = {**ENVIRONMENT, **environment}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder


def _checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole_batch(tmp_path_factory) -> Path:
    """A run of one process with batches of four: three epochs of four steps."""
    return _tiny(tmp_path_factory.mktemp("tiny") / "whole", 4, 1)


def test_two_processes_with_half_the_batch_each_reproduce_one(whole_batch, tmp_path) -> None:
    halves = _tiny(tmp_path / "ddp", 2, 1, "ddp", processes=2)
    for name in ("loss", "gradient_norm"):
        assert column(halves, name) == pytest.approx(column(whole_batch, name), rel=1e-5)
    assert column(halves, "learning_rate") == column(whole_batch, "learning_rate")


def test_two_half_batches_accumulated_equal_one(whole_batch, tmp_path) -> None:
    """Average and schedule count optimiser steps, not forward passes."""
    accumulated = _checkpoint(_tiny(tmp_path / "accumulated", 2, 2))
    whole = _checkpoint(whole_batch)
    torch.testing.assert_close(accumulated["state_dict"], whole["state_dict"], rtol=1e-6, atol=1e-6)
    average, expected = (state["callbacks"]["EmaWeights"] for state in (accumulated, whole))
    torch.testing.assert_close(average["average"], expected["average"], rtol=1e-6, atol=1e-6)
    assert average["updates"] == expected["updates"] == 3 + 12
    assert accumulated["lr_schedulers"][0]["last_epoch"] == whole["lr_schedulers"][0]["last_epoch"] == 12


@pytest.mark.slow
def test_shares_of_the_model_equal_whole_ones_and_resume(whole_batch, tmp_path) -> None:
    """FSDP on two processes: the losses of one, one checkpoint file with whole tensors, exact resume."""
    sharded = _tiny(tmp_path / "fsdp", 2, 1, "fsdp", processes=2)
    assert column(sharded, "loss") == pytest.approx(column(whole_batch, "loss"), rel=1e-5)
    broken = tmp_path / "broken"
    _tiny(broken, 2, 1, "fsdp", processes=2, MAX_STEPS="5")
    _tiny(broken, 2, 1, "fsdp", processes=2)
    first, second, whole = map(_checkpoint, (sharded, broken, whole_batch))
    for key in ("state_dict", "optimizer_states", "callbacks"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
    for key in ("state_dict", "callbacks"):
        torch.testing.assert_close(first[key], whole[key], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_torchrun_trains_a_detector_as_one_process_does(training, tmp_path) -> None:
    program = (str(HERE / "frozen_norm_train.py"),)
    one = run(training(tmp_path / "one", program=program, batch_size=2))
    two = run(training(tmp_path / "two", program=(*TORCHRUN, *program), batch_size=1, devices=2, strategy="ddp"))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    losses = [column(tmp_path / name, "loss")[:3] for name in ("two", "one")]  # Adam amplifies rounding after that
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    plain = run(training(tmp_path / "plain", program=(*TORCHRUN, "-m", "bev_train"), batch_size=1, devices=2, epochs=1))
    assert plain.returncode == 0, plain.stderr


def _evaluated(world: Path, out: Path, *flags: str, recipe: str, processes: int) -> Path:
    start = (*TORCHRUN, "-m", "bev_eval") if processes == 2 else ("-m", "bev_eval")
    data = ["--data.root", str(world), "--data.index", str(world.parent / "index.npz"), "--data.split", "mini_train"]
    options = ["--untrained", "--workers", "0", "--device", "cpu", "--out", str(out)]
    done = run([sys.executable, *start, recipe, *data, *options, *flags])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("figures in") == 1
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "flags"),
    [("bevdet-tiny", ("--batch-size", "3")), ("bevdet-tiny-4d", ("--stream",)), ("bevdet-tiny-occ", ())],
)
def test_evaluation_on_two_processes_is_that_on_one(world, tmp_path, recipe, flags) -> None:
    one, two = (_evaluated(world, tmp_path / str(count), *flags, recipe=recipe, processes=count) for count in (1, 2))
    assert (one / "metrics.json").read_bytes() == (two / "metrics.json").read_bytes()
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (one, two)]
    assert names[0] == names[1]
    if recipe != "bevdet-tiny-occ":
        results = [(folder / "results_nusc.json").read_bytes() for folder in (one, two)]
        assert results[0] == results[1]
        assert len(json.loads(results[0])["results"]) == 4


_DYING = """
import os, sys
from bev_eval.__main__ import main
if os.environ["RANK"] == "1":
    os._exit(9)
sys.exit(main())
"""


@pytest.mark.slow
def test_an_evaluation_whose_process_dies_ends_instead_of_waiting(world, tmp_path) -> None:
    script = tmp_path / "dying.py"
    script.write_text(_DYING)
    data = ["--data.root", str(world), "--data.index", str(world.parent / "index.npz"), "--data.split", "mini_train"]
    command = [sys.executable, *TORCHRUN, str(script), "bevdet-tiny", "--untrained", *data, "--workers", "0"]
    done = run([*command, "--device", "cpu", "--out", str(tmp_path / "out")], timeout=120)
    assert done.returncode != 0
    assert "exitcode" in done.stderr  # torchrun names the process
    assert not (tmp_path / "out" / "metrics.json").exists()
