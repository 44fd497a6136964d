"""The door to nuscenes-devkit: imported only when needed, opened quietly, its complaints in one line."""

from __future__ import annotations

import hashlib
import importlib
import json
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import DataError
from .remote import DataPath, FileFacts, RemotePath, data_path
from .remote_tables import copied_tables, remote_facts

if TYPE_CHECKING:
    from nuscenes import NuScenes

__all__ = [
    "TABLES",
    "VELOCITIES",
    "devkit_version",
    "import_devkit",
    "open_tables",
    "table_fingerprint",
    "version_splits",
]

TABLES = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)

VELOCITIES = "velocities.json"
"""Optional file in the root: annotation token -> [vx, vy] in the global frame, m/s, where the tables cannot tell."""

_SPLITS = {
    "v1.0-mini": ("mini_train", "mini_val"),
    "v1.0-trainval": ("train", "val", "train_detect", "train_track"),
    "v1.0-test": ("test",),
}


def import_devkit(module: str) -> ModuleType:
    """A module of nuscenes-devkit.

    Raises:
        ImportError: the devkit is not installed; the message says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "nuscenes":
            raise
    raise ImportError('nuscenes-devkit is needed for this: pip install "bev-nuscenes[devkit]"')


def devkit_version() -> str:
    """Version of the installed nuscenes-devkit."""
    return installed_version("nuscenes-devkit")


def version_splits(version: str) -> dict[str, list[str]]:
    """Names of the official splits of a version, each with the names of its scenes."""
    scenes = import_devkit("nuscenes.utils.splits").create_splits_scenes()
    return {split: list(scenes[split]) for split in _SPLITS[version]}


def open_tables(root: str | DataPath, version: str) -> NuScenes:
    """The devkit's database of one version, opened without printing.

    Raises:
        DataError: wrong root or version, a table that is missing, not JSON, or refers to a record that is not there.
        ImportError: the devkit is not installed.
    """
    nuscenes = import_devkit("nuscenes")
    place = data_path(root)
    if isinstance(place, RemotePath):
        place = copied_tables(place, version, _remote_facts(place, version))
    folder = check_tables(place, version)
    try:
        return nuscenes.NuScenes(version=version, dataroot=str(place), verbose=False)
    except json.JSONDecodeError:
        raise DataError(
            f"table {_broken_table(folder)} is not valid JSON; fetch the metadata of {version} again"
        ) from None
    except KeyError as error:
        raise DataError(
            f"tables in {folder} do not fit together: no record {error}; fetch the metadata again"
        ) from None
    except AssertionError as error:
        raise DataError(f"nuscenes-devkit refuses {root}: {error}") from None


def table_fingerprint(root: str | DataPath, version: str) -> str:
    """Digest of the names, sizes and modification times (or ETags) of the tables, and of ``velocities.json``.

    Raises:
        DataError: wrong root or version, or a table that is missing.
    """
    place = data_path(root)
    if isinstance(place, RemotePath):
        return hashlib.sha256(json.dumps(_remote_facts(place, version)).encode()).hexdigest()
    folder = check_tables(place, version)
    files = [folder / f"{name}.json" for name in TABLES]
    files += [path for path in [place / VELOCITIES] if path.is_file()]
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def check_tables(root: str | Path, version: str) -> Path:
    """The folder of a version's tables, after checking that root, version and all tables are there."""
    _check_version(version)
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder; give the folder that holds samples/ and {version}/")
    folder = root / version
    if not folder.is_dir():
        described = next(root.glob("dataset.*"), None)
        if described is not None:
            raise DataError(f"data root {root} has no {version}/ but {described.name}: name the version own")
        found = ", ".join(sorted(path.name for path in root.glob("v1.0-*"))) or "no v1.0-* folder"
        raise DataError(f"data root {root} has no {version}/ (found {found}); check root and version")
    missing = [f"{name}.json" for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; unpack the metadata of {version} there")
    return folder


def _check_version(version: str) -> None:
    if version not in _SPLITS:
        raise DataError(f"unknown version {version!r}; choose one of {', '.join(_SPLITS)}, or own for data of your own")


def _remote_facts(root: RemotePath, version: str) -> dict[str, FileFacts]:
    _check_version(version)
    return remote_facts(root, tuple(f"{version}/{name}.json" for name in TABLES), VELOCITIES)


def _broken_table(folder: Path) -> Path:
    for name in TABLES:
        try:
            json.loads((folder / f"{name}.json").read_bytes())
        except ValueError:
            return folder / f"{name}.json"
    raise AssertionError("a table failed to parse and now parses")
