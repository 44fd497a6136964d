"""The folder of a run: what it was told, where it ran, what it has reached."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from bev_train.checkpoint import newest_intact, previous_of, replace_durably, saving
from bev_train.options import TrainOptions
from bev_zoo import Recipe

__all__ = ["RunFolder", "RunFolderError", "join_run_folder", "open_run_folder"]

# What may differ between an interrupted run and its continuation: nothing here changes a number.
_FREE = {
    *(
        "options.out",
        "options.resume",
        "options.workers",
        "options.log_every",
        "options.validate_every_epochs",
        "options.strategy",
        "options.accelerator",
        "options.checkpoint_activations",
        "options.max_skipped_steps",
        "options.worker_timeout",
        "options.loggers",
        "options.checkpoint_every_steps",
    ),
    *("options.max_steps", "options.max_minutes", "options.epochs", "recipe.training.epochs"),
    *("options.checkpoint_every_epochs", "options.checkpoint_every_minutes", "options.data.root", "options.data.index"),
    *("options.data.cache", "options.data.cache_gb", "options.data.image_cache_gb"),
    "options.data.on_error",  # a run that stopped at a damaged file goes on without it
}


class RunFolderError(ValueError):
    """A run folder that is taken, or cannot be continued."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where the files of a run lie.

    Attributes:
        path: the folder.
        step: optimiser steps its checkpoint has taken; 0 for a new run.
        resume_from: the checkpoint to go on from; None for a new run, and for one that never saved.
    """

    path: Path
    step: int = 0
    resume_from: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """Everything needed to go on: weights, average, optimiser, schedule, position."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous(self) -> Path:
        """The checkpoint before that one, for the case that it is damaged."""
        return previous_of(self.checkpoint)

    @property
    def damaged(self) -> Path | None:
        """The last checkpoint, if the run had to go on from the one before."""
        return None if self.resume_from in (None, self.checkpoint) else self.checkpoint

    @property
    def weights(self) -> Path:
        """The result: weights alone, averaged if the run averages."""
        return self.path / "model.safetensors"

    @property
    def metrics(self) -> Path:
        """Logged values, one row per logged step."""
        return self.path / "metrics.csv"

    def record(self, options: TrainOptions, recipe: Recipe) -> None:
        """Write options.json, and add this start to environment.json."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        _write_json(self.path / "options.json", _described(options, recipe))
        environment = self.path / "environment.json"
        starts = json.loads(environment.read_text())["starts"] if environment.exists() else []
        _write_json(environment, {"starts": [*starts, {"step": self.step, **_environment()}]})


def open_run_folder(options: TrainOptions, recipe: Recipe) -> RunFolder:
    """Check that the run may live in its folder; nothing is written yet.

    Raises:
        RunFolderError: a new run whose folder is taken; a resumed run that does not exist or was told something else.
    """
    path = options.folder
    if not options.resume:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(
                f"{path} exists already: continue that run with --resume, or choose another folder with --out"
            )
        return RunFolder(path)
    if not (path / "options.json").is_file():
        raise RunFolderError(f"--resume found no run in {path}: name its folder with --out, or start without --resume")
    _check_same(path, _described(options, recipe))
    return _with_checkpoint(path, lambda text: warnings.warn(text, stacklevel=4))


def join_run_folder(options: TrainOptions) -> RunFolder:
    """The folder as the other processes of a run see it, after the first one has checked it (:func:`open_run_folder`).

    Raises:
        ValueError: no checkpoint of a resumed run can be read.
    """
    path = options.folder
    return _with_checkpoint(path, lambda text: None) if options.resume else RunFolder(path)


def _with_checkpoint(path: Path, tell: Callable[[str], None]) -> RunFolder:
    last = RunFolder(path).checkpoint
    saved = newest_intact(last, tell=tell)
    if saved is None:
        tell(f"{last} was never written: the run starts again from step 0")
        return RunFolder(path)
    return RunFolder(path, saved.step, saved.path)


def _check_same(path: Path, now: dict[str, Any]) -> None:
    before, now = _flat(json.loads((path / "options.json").read_text())), _flat(json.loads(json.dumps(now)))
    different = sorted(
        key for key in before.keys() | now.keys() if before.get(key) != now.get(key) and key not in _FREE
    )
    if different:
        told = ", ".join(f"{key.removeprefix('options.')} = {before.get(key)}, now {now.get(key)}" for key in different)
        raise RunFolderError(f"{path} was started with {told}: give the same options to --resume, or another --out")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    joined = ((f"{prefix}.{key}" if prefix else key, value) for key, value in tree.items())
    return {leaf: value for key, branch in joined for leaf, value in _flat(branch, key).items()}


def _described(options: TrainOptions, recipe: Recipe) -> dict[str, Any]:
    tree = {"options": dataclasses.asdict(options), "recipe": dataclasses.asdict(recipe)}
    return json.loads(json.dumps(tree, default=str))


def _environment() -> dict[str, Any]:
    packages = ("bev-train", "bev-zoo", "bev-nuscenes", "bev-heads", "bev-temporal", "bev-lss", "bev-backbones")
    packages += ("bev-ops", "torch", "lightning", "timm", "numpy", "pillow", "nuscenes-devkit")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "gpu": gpu,
        "cpu_threads": torch.get_num_threads(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _write_json(path: Path, content: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    with saving(path, partial):
        partial.write_text(json.dumps(content, indent=2) + "\n")
        replace_durably(partial, path)
