"""Where values go: CSV and TensorBoard by default, others by option and only where they are installed."""

from __future__ import annotations

import importlib.util
import sqlite3

import pytest
from lightning.pytorch.utilities import rank_zero_only

from bev_train.loggers import build_loggers
from bev_train.run_folder import RunFolder


def test_unknown(tmp_path) -> None:
    with pytest.raises(ValueError, match="--loggers must be among csv, tensorboard, wandb, mlflow, got paper"):
        build_loggers(("csv", "paper"), RunFolder(tmp_path))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_one_that_is_not_installed_is_named_with_its_extra(tmp_path, name: str) -> None:
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ValueError, match=rf"--loggers {name} needs a package: pip install 'bev-train\[{name}\]'"):
        build_loggers((name,), RunFolder(tmp_path))


def test_of_several_processes_the_first_logs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert build_loggers(("csv", "mlflow"), RunFolder(tmp_path)) == []


def test_csv_alone(tiny_options, tiny_run) -> None:
    folder = tiny_run(tiny_options(max_steps=1, loggers=("csv",))).folder
    assert folder.metrics.exists()
    assert not (folder.path / "tensorboard").exists()


def test_wandb_offline(tiny_options, tiny_run, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tiny_run(tiny_options(max_steps=2, loggers=("wandb",))).folder
    assert list(folder.path.glob("wandb/offline-run-*/*.wandb"))


def test_where_mlflow_cannot_log_is_named(tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(ValueError, match=r"--loggers mlflow cannot log to nowhere://x \(MLFLOW_TRACKING_URI\)"):
        build_loggers(("mlflow",), RunFolder(tmp_path))


@pytest.mark.slow  # MLflow makes its tables, and migrates them some fifty times
def test_mlflow_in_the_run_folder(tiny_options, tiny_run, monkeypatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tiny_run(tiny_options(max_steps=2, loggers=("mlflow",))).folder
    with sqlite3.connect(folder.path / "mlflow.db") as data:
        logged = {name for (name,) in data.execute("select distinct key from metrics")}
    assert "loss" in logged
