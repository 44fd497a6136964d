"""Where the values of a run go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from bev_train.metrics_csv import MetricsCsv
from bev_train.run_folder import RunFolder

__all__ = ["build_loggers"]

_PROJECT = "bevkit"


def build_loggers(names: tuple[str, ...], folder: RunFolder) -> list[Logger]:
    """The loggers of a run. A resumed run goes on in the same files and the same run of wandb; mlflow gets another run.

    Only the first of several processes logs: the others have none, so that they do not make MLflow's data base, too.

    Raises:
        ValueError: an unknown name, or a logger whose package is not installed or that cannot be written to.
    """
    makers: dict[str, Callable[[RunFolder], Logger]] = {
        "csv": lambda folder: MetricsCsv(folder.metrics, first_step=folder.step),
        "tensorboard": _tensorboard,
        "wandb": _wandb,
        "mlflow": _mlflow,
    }
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise ValueError(f"--loggers must be among {', '.join(makers)}, got {', '.join(unknown)}")
    if rank_zero_only.rank != 0:
        return []
    return [_made(makers[name], name, folder) for name in dict.fromkeys(names)]


def _made(make: Callable[[RunFolder], Logger], name: str, folder: RunFolder) -> Logger:
    try:
        return make(folder)
    except ImportError as error:
        raise ValueError(f"--loggers {name} needs a package: pip install 'bev-train[{name}]'") from error


def _tensorboard(folder: RunFolder) -> Logger:
    return TensorBoardLogger(folder.path, name="tensorboard", version="", purge_step=folder.step or None)


def _wandb(folder: RunFolder) -> Logger:
    """The account, and whether to send anything at all, follow wandb's own environment (WANDB_API_KEY, WANDB_MODE)."""
    options: dict[str, Any] = {"project": _PROJECT, "name": folder.path.name, "id": _run_id(folder), "resume": "allow"}
    return WandbLogger(save_dir=folder.path, **options)


def _mlflow(folder: RunFolder) -> Logger:
    """The server is that of MLFLOW_TRACKING_URI, else a data base in the run folder."""
    from mlflow.exceptions import MlflowException  # here, because few have it

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.path.resolve() / 'mlflow.db'}"
    try:
        logger = MLFlowLogger(_PROJECT, run_name=folder.path.name, tracking_uri=uri)
        assert logger.run_id  # begins the run, before hours are spent on what cannot be logged
    except MlflowException as error:
        raise ValueError(f"--loggers mlflow cannot log to {uri} (MLFLOW_TRACKING_URI): {error}") from error
    return logger


def _run_id(folder: RunFolder) -> str:
    """The same for every start of a run."""
    return hashlib.sha256(str(folder.path.resolve()).encode()).hexdigest()[:12]
