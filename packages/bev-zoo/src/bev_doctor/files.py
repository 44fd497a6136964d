"""Whether a data set and a checkpoint are whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .finding import Finding, State

__all__ = ["check_checkpoint", "check_data"]

_LOOKED_AT = 500  # key frames, spread over the data set


def check_data(root: str, version: str) -> list[Finding]:
    """Tables, splits, and whether the files that they name are there."""
    topic = "data"
    try:
        from bev_nuscenes import DataOptions, open_index

        index = open_index(DataOptions(root=root, version=version), progress=False)
    except Exception as error:
        return [Finding(topic, State.PROBLEM, f"{type(error).__name__}: {error}", _data_advice(error))]
    splits = {}
    for split in index.splits:
        try:
            splits[split] = len(index.split_positions(split))
        except ValueError:
            splits[split] = 0
    found = ", ".join(f"{count} in {split}" for split, count in splits.items() if count)
    tables = Finding(topic, State.OK, f"{root}: {version}, {len(index)} key frames ({found or 'in no official split'})")
    return [tables, *_missing_files(topic, index)]


def _missing_files(topic: str, index: object) -> list[Finding]:
    step = max(1, len(index) // _LOOKED_AT)
    looked_at = range(0, len(index), step)
    kinds = {
        "camera images": lambda k: [index.camera_path(k, n) for n in range(index.cameras.files.shape[1])],
        "LiDAR files": lambda k: [index.lidar_path(k)],
        "occupancy files": lambda k: [index.occupancy_path(k)],
    }
    advice = {
        "camera images": "unpack all parts of the data set into one folder, or mend the root",
        "LiDAR files": "only training with depth supervision and the viewer read them",
        "occupancy files": "only occupancy systems read them: unpack gts of Occ3D-nuScenes into the root",
    }
    findings = []
    for kind, paths in kinds.items():
        there = Counter(_exists(path) for k in looked_at for path in _named(paths, k))
        missing, total = there[False], there[False] + there[True]
        what = f"{kind}: {there[True]} of {total} looked at are there" if total else f"{kind}: the data set names none"
        bad = State.PROBLEM if kind == "camera images" else State.NOTE
        complete = total > 0 and not missing
        findings.append(Finding(topic, State.OK if complete else bad, what, "" if complete else advice[kind]))
    return findings


def _named(paths: object, position: int) -> list[Path]:
    try:
        return paths(position)
    except ValueError:  # the data set names no such file
        return []


def _exists(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _data_advice(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "pip install 'bev-nuscenes[devkit]'"
    return "--data names the folder that holds samples/ and the folder of the version; see docs/troubleshooting.md"


def check_checkpoint(path: Path, recipe: str | None = None) -> list[Finding]:
    """Whether a file holds the whole of a recipe's weights, finite ones."""
    topic = "checkpoint"
    try:
        import torch

        from bev_zoo import create_model, get_recipe, load_checkpoint, looks_like, read_checkpoint, read_recipe_name

        state = read_checkpoint(path)
        name = recipe or read_recipe_name(path) or looks_like(state)
        if name is None:
            what = f"{path}: {len(state)} tensors that look like no known system"
            return [Finding(topic, State.PROBLEM, what, "name the system with --recipe")]
        load_checkpoint(create_model(get_recipe(name)), state)
    except Exception as error:
        return [
            Finding(topic, State.PROBLEM, f"{type(error).__name__}: {error}", "fetch it again, or name its --recipe")
        ]
    bad = [key for key, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if bad:
        what = f"{path}: {name}, {len(bad)} of {len(state)} tensors are not finite ({bad[0]})"
        return [Finding(topic, State.PROBLEM, what, "the run that wrote it diverged, or the file is damaged")]
    size = path.stat().st_size / 2**20
    return [Finding(topic, State.OK, f"{path}: {name}, {len(state)} tensors, {size:.0f} MiB, fits as a whole")]
