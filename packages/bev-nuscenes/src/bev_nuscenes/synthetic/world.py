"""Make a whole world: record every key frame in worker processes, write the tables, and put the result in place."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from .actors import CATEGORIES
from .calibration import LIDAR, RENDERED_CAMERAS
from .catalog import KIND_OF_CATEGORY
from .recorder import Sightings, record_frame
from .schedule import MINI_VAL, WorldOptions, make_record, scene_names
from .tables import VERSION, Tables, make_tables, write_map_mask

GENERATOR = 1  # raise it with every change that changes the bytes of a world
MANIFEST = "synthetic.json"

_KIND_OF_CATEGORY = (
    KIND_OF_CATEGORY
    | {category: kind for kind, category in CATEGORIES.items()}
    | {"human.pedestrian.construction_worker": "pedestrian"}
)
_DEFAULTS = WorldOptions()


@dataclass(frozen=True)
class WorldSummary:
    """What a world contains. `created` is false when it was already there."""

    root: Path
    options: WorldOptions
    created: bool
    seconds: float
    samples: int
    images: int
    sweeps: int  # LiDAR files, key frames included
    annotations: dict[str, dict[str, int]]  # split, then class, then how many boxes

    def __str__(self) -> str:
        boxes = sum(sum(classes.values()) for classes in self.annotations.values())
        verb = f"made in {self.seconds:.0f} s" if self.created else "already there"
        return (
            f"{self.root}: {verb}; {self.options.scenes} scenes, {self.samples} samples, {self.images} images, "
            f"{self.sweeps} LiDAR sweeps, {boxes} boxes"
        )


def make_world(
    out: Path | str,
    *,
    scenes: int = 10,
    samples_per_scene: int = 10,
    seed: int = 0,
    sweeps: int = 1,
    camera_sweeps: int = 0,
    density: float = 1.0,
    weather: str = "clear",
    sensor_noise: float = 0.0,
    variety: float = 0.0,
    intersections: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> WorldSummary:
    """Render a driving world as a v1.0-mini nuScenes data set at `out`.

    Args:
        out: folder to make. If it already holds the world of the same options, nothing is done.
        scenes: 1 to 10; the names are those of the official mini split, so mini_train and mini_val apply.
        samples_per_scene: key frames per scene, half a second apart.
        seed: same seed and options, same bytes, whatever the number of workers.
        sweeps: LiDAR sweeps between two key frames.
        camera_sweeps: images per camera between two key frames.
        density: part of the optional objects that are placed; less is faster; up to 3 adds parked rows and crowds.
        weather: clear, overcast, rain, fog, dusk, night or night-rain for all scenes, or mixed: one of them for each.
        variety: part of the objects, from 0 to 1, that have other than the plain shapes: saloons, vans, taxis,
            articulated buses, tankers, cranes, children, umbrellas, wheelchairs, …
        intersections: every scene is at a junction with traffic lights: vehicles cross, turn, stop and start, and the
            ego car goes straight on, waits, or turns.
        sensor_noise: from 0, perfect cameras, to 1: noise, vignetting and motion blur as real ones have.
        workers: processes; by default one per core. Scripts that use more than one need the usual
            `if __name__ == "__main__":`, since the processes import the calling module anew.
        progress: show a progress bar.

    Raises:
        ValueError: an option is out of its range.
        FileExistsError: `out` exists and is something else.
    """
    out = Path(out)
    options = WorldOptions(
        scenes=scenes,
        samples_per_scene=samples_per_scene,
        seed=seed,
        sweeps=sweeps,
        camera_sweeps=camera_sweeps,
        density=density,
        weather=weather,
        variety=variety,
        intersections=intersections,
        sensor_noise=sensor_noise,
    )
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if _is_there(out, options):
        return _summarise(out, options, _read_tables(out), created=False, seconds=0.0)
    started = time.monotonic()
    out.parent.mkdir(parents=True, exist_ok=True)
    with finished_or_absent(out) as building:
        tables = _build(building, options, workers or os.cpu_count() or 1, progress)
    return _summarise(out, options, tables, created=True, seconds=time.monotonic() - started)


def _is_there(out: Path, options: WorldOptions) -> bool:
    """True if the wanted world is at `out`, false if nothing is; anything else is refused."""
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not out.exists() and not out.is_symlink():
        return False
    wanted = _manifest(options)
    manifest = out / MANIFEST
    if not manifest.is_file():
        raise FileExistsError(f"{out} exists and is not a synthetic world: name another folder, or empty this one")
    try:
        found = json.loads(manifest.read_text())
    except ValueError:
        found = None
    if found != wanted:
        raise FileExistsError(
            f"{out} holds a synthetic world of other options ({manifest}): name another folder, or delete it"
        )
    return True


def _manifest(options: WorldOptions) -> dict[str, object]:
    """What was asked for; options that came later are named only where they ask for something."""
    chosen, later = asdict(options), {"weather", "sensor_noise", "variety", "intersections"}
    kept = {name: chosen[name] for name in chosen if name not in later or chosen[name] != getattr(_DEFAULTS, name)}
    return {"generator": GENERATOR, "options": kept}


@contextmanager
def finished_or_absent(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well and vanishes when it does not."""
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield building
        building.chmod(0o755)
        building.rename(out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _build(root: Path, options: WorldOptions, workers: int, progress: bool) -> Tables:
    names = scene_names(options.scenes)
    for channel in (LIDAR, *RENDERED_CAMERAS):
        for folder in ("samples", "sweeps"):
            (root / folder / channel).mkdir(parents=True)
    tasks = [(name, frame) for name in names for frame in range(options.samples_per_scene)]
    seen = dict(zip(tasks, _record_all(root, options, tasks, workers, progress), strict=True))
    records = [make_record(options, name) for name in names]
    frames = range(options.samples_per_scene)
    tables = make_tables(options, [(record, [seen[record.name, frame] for frame in frames]) for record in records])
    (root / VERSION).mkdir()
    tables.write(root / VERSION)
    (root / "maps").mkdir()
    for record, row in zip(records, tables.map, strict=True):
        write_map_mask(root / str(row["filename"]), record)
    (root / MANIFEST).write_text(json.dumps(_manifest(options), indent=2) + "\n")
    return tables


def _record_all(
    root: Path, options: WorldOptions, tasks: Sequence[tuple[str, int]], workers: int, progress: bool
) -> list[Sightings]:
    """Record every (scene, frame), in this process or in several, and return what was seen, in order."""
    with tqdm(total=len(tasks), desc="rendering", unit="frame", disable=not progress) as bar:
        if workers == 1:
            return [_advance(bar, record_frame(root, options, name, frame)) for name, frame in tasks]
        with _single_threaded_children(), ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            futures: list[Future[Sightings]] = [pool.submit(record_frame, root, options, *task) for task in tasks]
            try:
                return [_advance(bar, future.result()) for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _advance(bar: tqdm, sightings: Sightings) -> Sightings:
    bar.update()
    return sightings


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Let processes started in the block compute in one thread each; their number is the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _read_tables(root: Path) -> Tables:
    return Tables(**{name: json.loads((root / VERSION / f"{name}.json").read_text()) for name in vars(Tables())})


def _summarise(out: Path, options: WorldOptions, tables: Tables, *, created: bool, seconds: float) -> WorldSummary:
    split = {row["token"]: "mini_val" if row["name"] in MINI_VAL else "mini_train" for row in tables.scene}
    sample_split = {row["token"]: split[row["scene_token"]] for row in tables.sample}
    category = {row["token"]: row["name"] for row in tables.category}
    kind = {row["token"]: _KIND_OF_CATEGORY[category[row["category_token"]]] for row in tables.instance}
    counts: dict[str, Counter[str]] = {"mini_train": Counter(), "mini_val": Counter()}
    for row in tables.sample_annotation:
        counts[sample_split[row["sample_token"]]][kind[row["instance_token"]]] += 1
    images = sum(row["fileformat"] == "jpg" for row in tables.sample_data)
    boxes = {name: {kind: classes[kind] for kind in CATEGORIES} for name, classes in counts.items()}
    return WorldSummary(
        out, options, created, seconds, len(tables.sample), images, len(tables.sample_data) - images, boxes
    )
