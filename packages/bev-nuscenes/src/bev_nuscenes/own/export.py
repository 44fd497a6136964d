"""From an index, of nuScenes or of a synthetic world, to the own format: an example of it and a test of its reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..index import NuscenesIndex
from ..taxonomy import ATTRIBUTES, CLASSES
from .description import OwnBox, OwnCamera, OwnData, OwnFrame, OwnLidar, OwnReading, OwnScene
from .write import write_description

__all__ = ["export_scenes"]


def export_scenes(index: NuscenesIndex, scenes: list[str], out: str | Path) -> OwnData:
    """Write some scenes to a folder in the own format, with copies of their images and LiDAR files.

    Args:
        index: index of the data.
        scenes: names of scenes; splits are kept as far as these scenes are in them.
        out: folder to write; its description is ``dataset.json``.

    Raises:
        DataError: no such scene, or a file that is missing.
    """
    out = Path(out)
    positions = {name: _positions(index, name) for name in scenes}
    everything = np.concatenate(list(positions.values()))
    data = OwnData(
        root=out,
        file=out / "dataset.json",
        cameras=_cameras(index, everything[0]),
        reference_camera=index.info.box_camera,
        scenes=tuple(
            OwnScene(
                name=name,
                frames=tuple(_frame(index, int(k), n) for n, k in enumerate(found)),
                cameras=_cameras(index, found[0]),
                lidar=_lidar(index, found),
            )
            for name, found in positions.items()
        ),
        splits=_splits(index, scenes),
    )
    for position in everything:
        _copy_files(index, int(position), out)
    write_description(data)
    return data


def _positions(index: NuscenesIndex, scene: str) -> np.ndarray:
    found = np.flatnonzero(index.scenes.names[index.frames.scenes] == scene.encode())
    if not len(found):
        raise DataError(f"{index.info.version} under {index.info.root} has no scene {scene!r} with key frames")
    return found


def _splits(index: NuscenesIndex, scenes: list[str]) -> dict[str, tuple[str, ...]]:
    """Splits that hold some of the scenes, mini_train and mini_val under their short names."""
    listed = {
        name.removeprefix("mini_"): [scene for scene in scenes if scene in members]
        for name, members in index.info.splits.items()
    }
    return {"all": tuple(scenes)} | {name: tuple(found) for name, found in listed.items() if found}


def _cameras(index: NuscenesIndex, position: int) -> tuple[OwnCamera, ...]:
    """The rig of a scene by one of its frames: nuScenes calibrates once per drive."""
    table = index.cameras
    return tuple(
        OwnCamera(
            name=name,
            folder=f"images/{name}",
            size=(int(table.sizes[position, n, 0]), int(table.sizes[position, n, 1])),
            intrinsics=np.array(table.intrinsics[position, n]),
            cam_to_ego=np.array(table.cam_to_ego[position, n]),
        )
        for n, name in enumerate(index.info.cameras)
    )


def _lidar(index: NuscenesIndex, positions: np.ndarray) -> OwnLidar | None:
    recorded = positions[index.lidar.files[positions] != b""]
    if not len(recorded):
        return None
    return OwnLidar(folder="lidar", lidar_to_ego=np.array(index.lidar.lidar_to_ego[recorded[0]]))


def _frame(index: NuscenesIndex, position: int, number: int) -> OwnFrame:
    cameras = index.cameras
    images = {
        name: OwnReading(
            file=_base(cameras.files[position, n]),
            timestamp=_seconds(cameras.timestamps[position, n]),
            ego_to_global=np.array(cameras.ego_to_global[position, n]),
        )
        for n, name in enumerate(index.info.cameras)
    }
    return OwnFrame(
        number=number,
        timestamp=_seconds(index.frames.timestamps[position]),
        ego_to_global=index.box_to_global(position),
        images=images,
        lidar=_lidar_reading(index, position),
        boxes=tuple(_box(index, int(row)) for row in index.box_rows(position, valid_only=False)),
    )


def _lidar_reading(index: NuscenesIndex, position: int) -> OwnReading | None:
    name = index.lidar.files[position]
    if not name:
        return None
    pose = np.array(index.lidar.ego_to_global[position])
    return OwnReading(file=_base(name), timestamp=_seconds(index.lidar.timestamps[position]), ego_to_global=pose)


def _box(index: NuscenesIndex, row: int) -> OwnBox:
    table = index.boxes
    x, y, z, length, width, height, yaw, vx, vy = (float(value) for value in table.boxes[row])
    attribute = int(table.attributes[row])
    return OwnBox(
        name=CLASSES[table.labels[row]],
        centre=(x, y, z),
        size=(length, width, height),
        yaw=yaw,
        frame="ego",
        velocity=(vx, vy),
        points=int(table.valid[row]),
        track=table.instance_tokens[table.instances[row]].decode(),
        attribute=None if attribute < 0 else ATTRIBUTES[attribute],
    )


def _copy_files(index: NuscenesIndex, position: int, out: Path) -> None:
    for n, name in enumerate(index.info.cameras):
        _copy(index.camera_path(position, n), out / "images" / name)
    if index.lidar.files[position]:
        _copy(index.lidar_path(position), out / "lidar")


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, folder / source.name)
    except FileNotFoundError:
        raise DataError(f"{source} is missing; is that part of the data set unpacked?") from None


def _base(name: bytes) -> str:
    return name.decode().rpartition("/")[2]


def _seconds(microseconds: np.integer) -> float:
    return int(microseconds) / 1e6
