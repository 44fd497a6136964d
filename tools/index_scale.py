"""How the index of a data set of the size of v1.0-trainval behaves: time to open it, and memory per loading worker.

The tables of a small data set are tiled: copies of its scenes under new names and tokens, until there are as many key
frames as asked for. The files of the copies are those of the original. By default the index is tiled; with --tables the
JSON tables are, and the index is built from them through nuscenes-devkit, as a user's is.

    python tools/index_scale.py --root /data/nuscenes --version v1.0-mini
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bev_nuscenes import (
    BoxTable,
    DataOptions,
    EpochSampler,
    FrameTable,
    NuscenesDataset,
    NuscenesIndex,
    SceneTable,
    build_index,
    open_index,
)

TRAINVAL_FRAMES = 28_130 + 6_019
TRAINVAL_BOXES = 1_100_000
_SPLIT = "train"


class Memory(NamedTuple):
    """Of one process, MB."""

    own: float  # written by it: copies that nobody shares
    share: float  # that, and its share of pages that several processes or the page cache have (PSS)


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        path = Path(folder) / "index.npz"
        index = _from_tables(options, Path(folder)) if options.tables else _from_index(options)
        index.save(path)
        print(f"index: {len(index)} key frames, {len(index.boxes.labels)} boxes, {path.stat().st_size / 1e6:.0f} MB")
        times = [_seconds_to_open(path) for _ in range(5)]
        print(f"opening it: {1e3 * min(times):.0f} ms (the slowest of five: {1e3 * max(times):.0f} ms)")
        index = NuscenesIndex.load(path)
        dataset = NuscenesDataset(index, _SPLIT, input_size=(256, 704), training=True)
        begin = time.perf_counter()
        draws = list(EpochSampler(dataset, num_replicas=1, rank=0))
        print(f"split {_SPLIT}: {len(dataset)} samples; an epoch's order in {time.perf_counter() - begin:.2f} s")
        print("memory per worker after it has read everything in the index, MB more than a worker without it:")
        for method in ("fork", "spawn"):
            for count in options.workers:
                print(f"  {method} {count:2d} workers: {_memory_line(dataset, method, count)}", flush=True)
        assert len({draw.index for draw in draws}) == len(dataset)


def tiled(index: NuscenesIndex, frames: int, boxes: int) -> NuscenesIndex:
    """Copies of an index's scenes, all of one split, until it has so many key frames; boxes are repeated within their
    key frame until there are about as many as asked for."""
    copies = -(-frames // len(index))
    index = _with_boxes(index, max(1, round(boxes / copies / max(len(index.boxes.labels), 1))))
    shift = np.arange(copies)

    def repeated(table, **columns):
        return type(table)(*(columns.get(name, np.concatenate([a] * copies)) for name, a in table._asdict().items()))

    def renamed(names: np.ndarray) -> np.ndarray:
        return np.concatenate([np.char.add(b"%05d-" % copy, names) for copy in shift])

    def moved(positions: np.ndarray, step: int) -> np.ndarray:
        return np.concatenate([np.where(positions < 0, -1, positions + copy * step) for copy in shift]).astype(np.int32)

    own = index.frames
    scenes = SceneTable(renamed(index.scenes.names), renamed(index.scenes.tokens))
    starts = np.concatenate([index.boxes.offsets[:-1] + copy * index.boxes.offsets[-1] for copy in shift])
    return replace(
        index,
        info=replace(index.info, splits={_SPLIT: [name.decode() for name in scenes.names]}),
        scenes=scenes,
        frames=FrameTable(
            renamed(own.tokens),
            np.concatenate([own.timestamps + copy * 10**9 for copy in shift]),
            moved(own.scenes, len(index.scenes.names)),
            moved(own.previous, len(index)),
            moved(own.next, len(index)),
        ),
        cameras=repeated(index.cameras),
        lidar=repeated(index.lidar),
        boxes=repeated(
            index.boxes,
            offsets=np.append(starts, copies * index.boxes.offsets[-1]),
            instances=moved(index.boxes.instances, len(index.boxes.instance_tokens)),
            instance_tokens=renamed(index.boxes.instance_tokens),
        ),
        path=None,
    )


def _with_boxes(index: NuscenesIndex, times: int) -> NuscenesIndex:
    """An index with each key frame's boxes several times."""
    offsets = index.boxes.offsets
    rows = np.concatenate([np.tile(np.arange(a, b), times) for a, b in pairwise(offsets)])
    columns = {
        name: array if name == "instance_tokens" else array[rows]
        for name, array in index.boxes._asdict().items()
        if name != "offsets"
    }
    return replace(index, boxes=BoxTable(offsets=offsets * times, **columns))


def _from_index(options: argparse.Namespace) -> NuscenesIndex:
    begin = time.perf_counter()
    index = tiled(open_index(DataOptions(root=options.root, version=options.version)), options.frames, options.boxes)
    print(f"tiled the index in {time.perf_counter() - begin:.1f} s")
    return index


def _from_tables(options: argparse.Namespace, folder: Path) -> NuscenesIndex:
    begin = time.perf_counter()
    write_tiled_tables(Path(options.root), options.version, folder / "root", options.frames, options.boxes)
    size = sum(path.stat().st_size for path in (folder / "root").rglob("*.json"))
    print(f"wrote {size / 1e9:.2f} GB of tables in {time.perf_counter() - begin:.0f} s")
    begin = time.perf_counter()
    index = build_index(folder / "root", options.version)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"built the index from them in {time.perf_counter() - begin:.0f} s, {peak:.1f} GB of memory at most; once")
    names = [name.decode() for name in index.scenes.names]
    return replace(index, info=replace(index.info, splits={_SPLIT: names}))


def write_tiled_tables(root: Path, version: str, out: Path, frames: int, boxes: int) -> None:
    """Tables of ``frames`` key frames and about ``boxes`` boxes: copies of those of ``root``, table by table.

    Sensors, maps, categories and the like stay single; the tokens of everything else bear the number of their copy.
    """
    tables = {path.stem: json.loads(path.read_bytes()) for path in sorted((root / version).glob("*.json"))}
    copies = -(-frames // len(tables["sample"]))
    per_copy = max(1, round(boxes / copies / max(len(tables["sample_annotation"]), 1)))
    (out / version).mkdir(parents=True)
    shutil.copytree(root / "maps", out / "maps")
    for name, records in tables.items():
        if name in ("scene", "sample", "sample_data", "ego_pose"):
            copied = (_renamed(record, f"{copy:05d}-") for copy in range(copies) for record in records)
        elif name in ("sample_annotation", "instance"):
            copied = (
                _renamed(record, f"{copy:05d}-", f"{number}-")
                for copy in range(copies)
                for number in range(per_copy)
                for record in records
            )
        else:
            copied = iter(records)
        with (out / version / f"{name}.json").open("w") as file:
            file.write("[")
            for place, record in enumerate(copied):
                file.write(",\n" * bool(place) + json.dumps(record))
            file.write("]")


_OF_COPY = ("sample_token", "scene_token", "ego_pose_token", "first_sample_token", "last_sample_token")
_OF_BOX = ("instance_token", "first_annotation_token", "last_annotation_token")
_OWN = ("token", "prev", "next")


def _renamed(record: dict, copy: str, number: str = "") -> dict:
    """A record whose tokens name its copy, and those of a box and its links also the number of the repetition."""
    changed = {name: copy + record[name] for name in _OF_COPY if record.get(name)}
    changed |= {name: copy + number + record[name] for name in (*_OF_BOX, *_OWN) if record.get(name)}
    if "nbr_samples" in record:
        changed["name"] = copy + record["name"]
    if "timestamp" in record:
        changed["timestamp"] = record["timestamp"] + int(copy[:-1]) * 10**9
    return {**record, **changed}


def _seconds_to_open(path: Path) -> float:
    begin = time.perf_counter()
    index = NuscenesIndex.load(path)
    index.split_positions(_SPLIT)
    return time.perf_counter() - begin


def _memory_line(dataset: NuscenesDataset, method: str, workers: int) -> str:
    """Mean over the workers: what they have more than workers without a data set."""
    without, with_it = (_worker_memory(what, method, workers) for what in (None, dataset))
    own, share = np.mean(with_it, axis=0) - np.mean(without, axis=0)
    return f"own {own:.1f}, with its share of the mapped file {share:.1f}"


def _worker_memory(dataset: NuscenesDataset | None, method: str, workers: int) -> list[Memory]:
    """Memory of processes, measured while all of them are there."""
    context = multiprocessing.get_context(method)
    pipes = [context.Pipe() for _ in range(workers)]
    processes = [context.Process(target=_work, args=(dataset, theirs), daemon=True) for _, theirs in pipes]
    for process in processes:
        process.start()
    for ours, theirs in pipes:
        theirs.close()  # so that a worker that dies ends this instead of being waited for
        ours.recv()
    memory = [_memory_of(process.pid) for process in processes]
    for process, (ours, _) in zip(processes, pipes, strict=True):
        ours.send("end")
        process.join()
    return memory


def _work(dataset: NuscenesDataset | None, pipe: Connection) -> None:
    """Touch everything that reading samples touches, except the files of images."""
    if dataset is not None:
        index = dataset.index
        for k in range(len(dataset)):
            position = dataset.history(k)[0]
            index.box_rows(position), index.box_to_global(position), index.token(position)
            index.camera_path(position, 0), index.lidar.files[position], index.cameras.intrinsics[position].sum()
    pipe.send("ready")
    pipe.recv()


def _memory_of(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in lines)}
    return Memory(kilobytes["Private_Dirty"] / 1e3, kilobytes["Pss"] / 1e3)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--root", required=True, help="a small data set in nuScenes format, to be tiled")
    parser.add_argument("--version", default="v1.0-mini")
    parser.add_argument("--frames", type=int, default=TRAINVAL_FRAMES, help="key frames")
    parser.add_argument("--boxes", type=int, default=TRAINVAL_BOXES, help="boxes, about")
    parser.add_argument("--tables", action="store_true", help="tile the JSON tables and build the index from them")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--scratch", type=Path, default=None, help="folder for temporary files")
    return parser.parse_args()


if __name__ == "__main__":
    main()
