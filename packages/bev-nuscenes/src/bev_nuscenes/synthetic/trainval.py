"""A data set of the shape of v1.0-trainval for load tests: a small world again and again, under other names.

The files are links to those of the world, so that the disk holds them once; the tables are written row by row, so that
memory holds no more than those of the small world.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .schedule import KEY_INTERVAL_US
from .tables import VERSION as BASE_VERSION
from .tables import Tables
from .trainval_names import trainval_names
from .world import MANIFEST, finished_or_absent

VERSION = "v1.0-trainval"
SAMPLES = {"train": 28_130, "val": 6_019}  # key frames of the real data set
SCENE_GAP_US = 100_000_000  # between the beginnings of two scenes, more where one lasts longer

Row = dict[str, Any]
MARK = "<<<mask>>>"  # stands where the mask of a lap goes; as long as that
_STATIC = ("attribute", "category", "sensor", "visibility")
_GROWING = ("calibrated_sensor", "ego_pose", "instance", "log", "sample", "sample_annotation", "sample_data", "scene")


@dataclass(frozen=True)
class TrainvalSummary:
    """What was written: rows by table, links by kind, and the time it took."""

    root: Path
    rows: dict[str, int]
    links: int
    seconds: float

    def __str__(self) -> str:
        rows = ", ".join(f"{count} {name}" for name, count in sorted(self.rows.items()))
        return f"{self.root}: made in {self.seconds:.0f} s; {self.links} linked files; {rows}"


def make_trainval(
    out: Path | str,
    base: Path | str,
    *,
    scenes: dict[str, int] | None = None,
    samples: dict[str, int] | None = None,
    progress: bool = True,
) -> TrainvalSummary:
    """Write a data set with the scene names and the numbers of key frames of v1.0-trainval.

    Every scene repeats a scene of the base: its images, sweeps, occupancy, poses and boxes belong together. A base
    scene that is shorter is played again from its start: the ego car jumps back and all objects are new instances.

    Args:
        out: folder to make; it must not exist.
        base: a finished world of `make_world`; it must stay where it is if `out` is on another device.
        scenes: how many scenes of "train" and "val"; all 700 and 150 by default.
        samples: how many key frames they share; by default 28,130 and 6,019, or 40 per scene if `scenes` is given.
        progress: show a progress bar.

    Raises:
        ValueError: `base` holds no world, or no scene is wanted, or more than there are names.
        FileExistsError: `out` exists.
    """
    started, out, base = time.monotonic(), Path(out), Path(base)
    if not (base / MANIFEST).is_file() or not (base / BASE_VERSION).is_dir():
        raise ValueError(f"{base} is not a finished synthetic world: make one there, or name another as the base")
    if out.exists():
        raise FileExistsError(f"{out} exists: name another folder, or delete it")
    plan = _plan(scenes, samples)
    out.parent.mkdir(parents=True, exist_ok=True)
    with finished_or_absent(out) as building:
        writer = _Writer(building, base)
        with writer:
            for number, (name, count) in enumerate(tqdm(plan, desc="scenes", disable=not progress)):
                writer.add_scene(number, name, count)
        wanted = {"like": VERSION, "base": json.loads((base / MANIFEST).read_text())}
        (building / MANIFEST).write_text(json.dumps(wanted, indent=2) + "\n")
    return TrainvalSummary(out, writer.rows, writer.links, time.monotonic() - started)


def _plan(scenes: dict[str, int] | None, samples: dict[str, int] | None) -> list[tuple[str, int]]:
    """Names of the scenes with their numbers of key frames, as equal as they can be."""
    plan = []
    for split, total in SAMPLES.items():
        names = trainval_names(split)
        count = len(names) if scenes is None else scenes.get(split, 0)
        if not 0 <= count <= len(names):
            raise ValueError(f"{split} has {len(names)} scene names, so scenes must be from 0 to that, not {count}")
        if samples is not None:
            total = samples.get(split, 0)
        elif scenes is not None:
            total = 40 * count
        plan += [(name, total // count + (k < total % count)) for k, name in enumerate(names[:count])]
    plan = [(name, length) for name, length in plan if length]
    if not plan:
        raise ValueError("no scene is wanted: ask for at least one of train or val")
    return plan


@dataclass(frozen=True)
class _Lap:
    """The rows of one base scene, or of its first key frames, with the links that lead out of it cut."""

    rows: dict[str, list[Row]]
    texts: dict[str, tuple[int, str]]  # number and JSON of the rows of the large tables, with MARK for a mask
    frames: tuple[str, ...]  # sample tokens
    ends: dict[str, tuple[str, str]]  # first and last token by chain: "sample", or a calibrated_sensor token


class _Base:
    """The small world: its tables, cut into scenes."""

    def __init__(self, root: Path) -> None:
        names = vars(Tables())
        self.tables = {name: json.loads((root / BASE_VERSION / f"{name}.json").read_text()) for name in names}
        self.scenes: list[Row] = self.tables["scene"]
        self.lap = lru_cache(maxsize=64)(self._lap)

    def _lap(self, scene: int, count: int) -> _Lap:
        """The first `count` key frames of a scene."""
        token = self.scenes[scene]["token"]
        samples = sorted((r for r in self.tables["sample"] if r["scene_token"] == token), key=lambda r: r["timestamp"])
        kept = {row["token"] for row in samples[:count]}
        data = [row for row in self.tables["sample_data"] if row["sample_token"] in kept]
        poses = {row["ego_pose_token"] for row in data}
        boxes = [row for row in self.tables["sample_annotation"] if row["sample_token"] in kept]
        rows = {
            "sample": _cut(samples[:count]),
            "sample_data": _cut(data),
            "ego_pose": [row for row in self.tables["ego_pose"] if row["token"] in poses],
        }
        texts = {
            "sample_annotation": _to_text(_cut(boxes), _BOX_TOKENS),
            "instance": _to_text(_instances(self.tables["instance"], boxes), _INSTANCE_TOKENS),
        }
        ends = {"sample": (samples[0]["token"], samples[min(count, len(samples)) - 1]["token"])}
        for row in sorted(data, key=lambda row: row["timestamp"]):
            key = row["calibrated_sensor_token"]
            ends[key] = ends.get(key, (row["token"],))[0], row["token"]
        return _Lap(rows, texts, tuple(row["token"] for row in samples[:count]), ends)


def _cut(rows: Sequence[Row]) -> list[Row]:
    """The rows without links to others than themselves."""
    tokens = {row["token"] for row in rows}
    return [row | {key: row[key] if row[key] in tokens else "" for key in ("prev", "next")} for row in rows]


def _instances(instances: Sequence[Row], boxes: Sequence[Row]) -> list[Row]:
    """The instances of some boxes, with the ends of what is left of their chains; boxes are in order of time."""
    chains: dict[str, list[str]] = {}
    for row in boxes:
        chains.setdefault(row["instance_token"], []).append(row["token"])
    return [
        row
        | {
            "nbr_annotations": len(chains[row["token"]]),
            "first_annotation_token": chains[row["token"]][0],
            "last_annotation_token": chains[row["token"]][-1],
        }
        for row in instances
        if row["token"] in chains
    ]


class _Writer:
    """Writes scene after scene to all tables at once, and links its files."""

    def __init__(self, root: Path, base: Path) -> None:
        self._root, self._base_root, self._base = root, base, _Base(base)
        self._stack, self._files = ExitStack(), {}
        self._map_logs: dict[str, list[str]] = {row["token"]: [] for row in self._base.tables["map"]}
        self._begin = min(row["timestamp"] for row in self._base.tables["sample"])  # of the next scene
        self.rows = dict.fromkeys(vars(Tables()), 0)
        self.links = 0

    def __enter__(self) -> None:
        (self._root / VERSION).mkdir()
        for name in _GROWING:
            self._files[name] = self._stack.enter_context((self._root / VERSION / f"{name}.json").open("w"))
            self._files[name].write("[")
        for table in ("samples", "sweeps"):
            for folder in (self._base_root / table).iterdir():
                (self._root / table / folder.name).mkdir(parents=True)

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files.values():
            file.write("\n]\n")
        self._stack.close()
        if kind is None:
            self._write_static()

    def add_scene(self, number: int, name: str, count: int) -> None:
        """Add a scene of `count` key frames, which begins when all scenes before it are over."""
        base = number % len(self._base.scenes)
        row = self._base.scenes[base]
        length, scene_mask = row["nbr_samples"], _mask(name)
        laps = [
            (self._base.lap(base, min(length, count - first)), _mask(f"{name}/{first}"), first)
            for first in range(0, count, length)
        ]
        ends = {"first_sample_token": _mix(laps[0][0].frames[0], laps[0][1])}
        ends["last_sample_token"] = _mix(laps[-1][0].frames[-1], laps[-1][1])
        about = {"name": name, "nbr_samples": count, "token": _mix(row["token"], scene_mask)}
        log = _mix(row["log_token"], scene_mask)
        self._write("scene", [row | about | ends | {"log_token": log}])
        old_log = next(r for r in self._base.tables["log"] if r["token"] == row["log_token"])
        logfile = f"{old_log['logfile']}-as-{name[-4:]}"
        self._write("log", [old_log | {"token": log, "logfile": logfile}])
        self._note_map(row["log_token"], log)
        sensors = {r["calibrated_sensor_token"] for r in laps[0][0].rows["sample_data"]}
        rigs = [r for r in self._base.tables["calibrated_sensor"] if r["token"] in sensors]
        self._write("calibrated_sensor", [r | {"token": _mix(r["token"], scene_mask)} for r in rigs])
        later = self._begin - laps[0][0].rows["sample"][0]["timestamp"]
        for place in range(len(laps)):
            self._add_lap(laps, place, scene_mask, name, logfile, later)
        self._begin += max(SCENE_GAP_US, (count + 1) * KEY_INTERVAL_US)

    def _add_lap(
        self, laps: list[tuple[_Lap, str, int]], place: int, scene_mask: str, name: str, logfile: str, later: int
    ) -> None:
        lap, mask, first = laps[place]
        shift = later + first * KEY_INTERVAL_US
        before = laps[place - 1][:2] if place else None
        after = laps[place + 1][:2] if place + 1 < len(laps) else None
        samples = list(_relink(lap, "sample", mask, before, after))
        for row in samples:
            row["scene_token"] = _mix(row["scene_token"], scene_mask)
            row["timestamp"] += shift
        self._write("sample", samples)
        for table, (count, text) in lap.texts.items():
            self._append(table, count, text.replace(MARK, mask))
        poses = list(_remixed(lap.rows["ego_pose"], mask, ("token",)))
        for row in poses:
            row["timestamp"] += shift
        self._write("ego_pose", poses)
        data = list(_relink(lap, "sample_data", mask, before, after))
        for row in data:
            row["sample_token"], row["ego_pose_token"] = (
                _mix(row[key], mask) for key in ("sample_token", "ego_pose_token")
            )
            row["calibrated_sensor_token"] = _mix(row["calibrated_sensor_token"], scene_mask)
            row["timestamp"] += shift
            source, folder = row["filename"], Path(row["filename"]).parent
            ending = source.partition(".")[2]
            row["filename"] = f"{folder}/{logfile}__{folder.name}__{row['timestamp']}.{ending}"
            self._link(source, row["filename"])
        self._write("sample_data", data)
        self._link_occupancy(lap, mask, name)

    def _link_occupancy(self, lap: _Lap, mask: str, name: str) -> None:
        scene = next(r["name"] for r in self._base.scenes if r["token"] == lap.rows["sample"][0]["scene_token"])
        for token in lap.frames:
            source, target = f"gts/{scene}/{token}", f"gts/{name}/{_mix(token, mask)}"
            (self._root / target).mkdir(parents=True)
            self._link(f"{source}/labels.npz", f"{target}/labels.npz")

    def _link(self, source: str, target: str) -> None:
        try:
            os.link(self._base_root / source, self._root / target)
        except OSError as error:  # another device, a file with as many links as may be, or a file system without them
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.ENOTSUP):
                raise
            (self._root / target).symlink_to((self._base_root / source).resolve())
        self.links += 1

    def _note_map(self, old_log: str, new_log: str) -> None:
        for row in self._base.tables["map"]:
            if old_log in row["log_tokens"]:
                self._map_logs[row["token"]].append(new_log)

    def _write(self, table: str, rows: Iterator[Row] | Sequence[Row]) -> None:
        for row in rows:
            self._append(table, 1, json.dumps(row))

    def _append(self, table: str, count: int, text: str) -> None:
        file: TextIOWrapper = self._files[table]
        if count:
            file.write((",\n" if self.rows[table] else "\n") + text)
            self.rows[table] += count

    def _write_static(self) -> None:
        maps = [row | {"log_tokens": self._map_logs[row["token"]]} for row in self._base.tables["map"]]
        maps = [row for row in maps if row["log_tokens"]]
        (self._root / "maps").mkdir()
        for row in maps:
            self._link(row["filename"], row["filename"])
        for name, rows in [*((name, self._base.tables[name]) for name in _STATIC), ("map", maps)]:
            (self._root / VERSION / f"{name}.json").write_text(json.dumps(rows, indent=0) + "\n")
            self.rows[name] = len(rows)


_INSTANCE_TOKENS = ("token", "first_annotation_token", "last_annotation_token")
_BOX_TOKENS = ("token", "sample_token", "instance_token", "prev", "next")


def _to_text(rows: Sequence[Row], keys: Sequence[str]) -> tuple[int, str]:
    """Number and JSON of rows, ready for the mask of any lap: filling in text is much faster than writing JSON."""
    return len(rows), ",\n".join(json.dumps(row) for row in _remixed(rows, MARK, keys))


def _remixed(rows: Sequence[Row], mask: str, keys: Sequence[str]) -> Iterator[Row]:
    """Copies of rows whose tokens are those of a lap."""
    for row in rows:
        yield row | {key: _mix(row[key], mask) for key in keys}


def _relink(
    lap: _Lap, table: str, mask: str, before: tuple[_Lap, str] | None, after: tuple[_Lap, str] | None
) -> Iterator[Row]:
    """Copies of the samples or recordings of a lap, the first and the last chained to the laps beside it."""
    for row in _remixed(lap.rows[table], mask, ("token", "prev", "next")):
        chain = "sample" if table == "sample" else row["calibrated_sensor_token"]
        if not row["prev"] and before:
            row["prev"] = _mix(before[0].ends[chain][1], before[1])
        if not row["next"] and after:
            row["next"] = _mix(after[0].ends[chain][0], after[1])
        yield row


def _mask(name: str) -> str:
    return md5(name.encode(), usedforsecurity=False).hexdigest()[: len(MARK)]


def _mix(token: str, mask: str) -> str:
    """Another token: the mask and what it leaves of the old one, which still tells tokens apart. None stays none."""
    return mask + token[len(mask) :] if token else ""
