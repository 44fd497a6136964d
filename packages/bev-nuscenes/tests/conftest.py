"""A fabricated v1.0-mini data set of a few kilobytes per image, and the reference that stands beside the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import CAMERAS, NuscenesIndex, build_index

SIZE = (160, 90)  # width, height of the fabricated images
SCENES = {"scene-0061": 3, "scene-0553": 2, "scene-0103": 3}  # name -> key frames; the last is in mini_val
FIRST_TIME = 1_500_000_000_000_000  # microseconds

# Objects of each scene: category, first position in the global frame, velocity, yaw, attribute, LiDAR points.
# Key frame i is half a second after key frame i - 1. The car drives and the unseen truck has no point in it.
OBJECTS = [
    ("vehicle.car", (14.0, 3.0, 1.0), (4.0, 0.0), 0.0, "vehicle.moving", 20),
    ("human.pedestrian.adult", (9.0, -4.0, 1.0), (0.0, 0.0), 1.0, "pedestrian.standing", 5),
    ("movable_object.barrier", (-12.0, 6.0, 0.5), (0.0, 0.0), 2.0, None, 9),
    ("vehicle.truck", (-20.0, -8.0, 1.5), (0.0, 0.0), -2.0, "vehicle.parked", 0),
    ("animal", (5.0, 5.0, 0.3), (0.0, 0.0), 0.0, None, 3),
]
EMPTY_FRAME = ("scene-0553", 1)  # a key frame without annotations


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: long parity or training runs (run with: pytest -m slow)")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with recorded figures of the published systems."""
    return _beside_repository("reference")


@pytest.fixture(scope="session")
def real_root() -> Path:
    """Two real key frames laid out as v1.0-mini."""
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    return _beside_repository("data") / "nuscenes-keyframes"


@pytest.fixture(scope="session")
def real_index(real_root: Path) -> NuscenesIndex:
    return build_index(real_root, "v1.0-mini", progress=False)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fabricated data set, shared by all tests: do not change it."""
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    root = tmp_path_factory.mktemp("tiny")
    _write_tiny(root)
    return root


@pytest.fixture
def own_root(tiny_root: Path, tmp_path: Path) -> Path:
    """A copy of the fabricated data set that a test may damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "data"))


@pytest.fixture(scope="session")
def tiny_index(tiny_root: Path) -> NuscenesIndex:
    return build_index(tiny_root, "v1.0-mini", progress=False)


@pytest.fixture
def edit_table(own_root: Path):
    """Function (table, change): apply ``change`` to the list of records of a table of ``own_root``."""

    def edit(table: str, change) -> None:
        path = own_root / "v1.0-mini" / f"{table}.json"
        records = json.loads(path.read_text())
        change(records)
        path.write_text(json.dumps(records))

    return edit


def _beside_repository(name: str) -> Path:
    path = Path(__file__).resolve().parents[4] / "shared" / name
    if not path.is_dir():
        pytest.skip(f"the recorded figures and data (shared/{name} beside the repository) are absent")
    return path


def _write_tiny(root: Path) -> None:
    channels = (*CAMERAS, "LIDAR_TOP")
    tables = {name: [] for name in ("calibrated_sensor", "ego_pose", "sample", "sample_data", "scene")}
    tables |= {"sample_annotation": [], "instance": []}
    tables["sensor"] = [{"token": f"sensor-{c}", "channel": c, "modality": _modality(c)} for c in channels]
    tables["log"] = [{"token": "log", "logfile": "", "vehicle": "", "date_captured": "", "location": ""}]
    tables["map"] = [{"token": "map", "log_tokens": ["log"], "category": "", "filename": "maps/blank.png"}]
    tables["visibility"] = [{"token": str(level), "level": "", "description": ""} for level in range(1, 5)]
    names = sorted({entry[4] for entry in OBJECTS if entry[4]})
    tables["attribute"] = [{"token": f"attribute-{name}", "name": name, "description": ""} for name in names]
    categories = [entry[0] for entry in OBJECTS]
    tables["category"] = [{"token": f"category-{name}", "name": name, "description": ""} for name in categories]
    for channel in channels:
        tables["calibrated_sensor"].append(_calibration(channel))
    for number, (scene, frames) in enumerate(SCENES.items()):
        _write_scene(root, tables, scene, number, frames)
    (root / "maps").mkdir()
    Image.new("L", (4, 4)).save(root / "maps/blank.png")
    (root / "v1.0-mini").mkdir()
    for name, records in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))


def _modality(channel: str) -> str:
    return "lidar" if channel == "LIDAR_TOP" else "camera"


def _calibration(channel: str) -> dict:
    """Cameras look along the direction of their place in CAMERAS; the LiDAR stands level on the roof."""
    record = {"token": f"calibration-{channel}", "sensor_token": f"sensor-{channel}", "camera_intrinsic": []}
    if channel == "LIDAR_TOP":
        return record | {"translation": [0.9, 0.0, 1.8], "rotation": [1.0, 0.0, 0.0, 0.0]}
    heading = np.deg2rad([55, 0, -55, 110, 180, -110][CAMERAS.index(channel)]) / 2
    turn, tilt = np.array([np.cos(heading), 0, 0, np.sin(heading)]), np.array([0.5, -0.5, 0.5, -0.5])
    w, x, y, z = tilt
    rotation = [
        turn[0] * w - turn[3] * z,
        turn[0] * x - turn[3] * y,
        turn[0] * y + turn[3] * x,
        turn[0] * z + turn[3] * w,
    ]
    intrinsic = [[127.0, 0.0, 80.0], [0.0, 127.0, 45.0], [0.0, 0.0, 1.0]]
    return record | {"translation": [1.5, 0.0, 1.6], "rotation": rotation, "camera_intrinsic": intrinsic}


def _write_scene(root: Path, tables: dict[str, list], scene: str, number: int, frames: int) -> None:
    tokens = [f"{scene}-{frame}" for frame in range(frames)]
    tables["scene"].append(
        {
            "token": f"token-{scene}",
            "name": scene,
            "description": "",
            "log_token": "log",
            "nbr_samples": frames,
            "first_sample_token": tokens[0],
            "last_sample_token": tokens[-1],
        }
    )
    for frame, token in enumerate(tokens):
        time = FIRST_TIME + number * 60_000_000 + frame * 500_000
        links = {"prev": tokens[frame - 1] if frame else "", "next": tokens[frame + 1] if frame + 1 < frames else ""}
        tables["sample"].append({"token": token, "timestamp": time, "scene_token": f"token-{scene}"} | links)
        for place, channel in enumerate((*CAMERAS, "LIDAR_TOP")):
            _write_reading(root, tables, token, channel, time - 5000 * place, frame)
        _write_occupancy(root / "gts" / scene / token)
    for number_in_scene, entry in enumerate(OBJECTS):
        _write_object(tables, scene, tokens, number_in_scene, entry)


def _write_reading(root: Path, tables: dict[str, list], token: str, channel: str, time: int, frame: int) -> None:
    lidar = channel == "LIDAR_TOP"
    name = f"samples/{channel}/{token}." + ("pcd.bin" if lidar else "jpg")
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([CAMERAS.index(channel) if not lidar else 9, *token.encode()])
    if lidar:
        rng.uniform((-30, -30, -2, 0, 0), (30, 30, 2, 1, 1), (500, 5)).astype(np.float32).tofile(path)
    else:
        noise = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        noise.resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    key = f"{token}-{channel}"
    angle = 0.05 * frame + 0.2
    tables["ego_pose"].append(
        {
            "token": key,
            "timestamp": time,
            "rotation": [np.cos(angle), 0.0, 0.0, np.sin(angle)],
            "translation": [2.0 * frame, 0.1 * frame, 0.0],
        }
    )
    tables["sample_data"].append(
        {
            "token": key,
            "sample_token": token,
            "ego_pose_token": key,
            "calibrated_sensor_token": f"calibration-{channel}",
            "timestamp": time,
            "fileformat": "pcd" if lidar else "jpg",
            "is_key_frame": True,
            "width": 0 if lidar else SIZE[0],
            "height": 0 if lidar else SIZE[1],
            "filename": name,
            "prev": "",
            "next": "",
        }
    )


def _write_occupancy(folder: Path) -> None:
    """Blocks of 10 x 10 x 4 cells of random labels, differing along every axis."""
    rng = np.random.default_rng([7, *folder.name.encode()])
    blocks = rng.integers(0, [[[[18]], [[2]], [[2]]]], (20, 3, 20, 4)).astype(np.uint8).transpose(1, 0, 2, 3)
    semantics, lidar, camera = blocks.repeat(10, axis=1).repeat(10, axis=2).repeat(4, axis=3)
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "labels.npz", semantics=semantics, mask_lidar=lidar, mask_camera=camera)


def _write_object(tables: dict[str, list], scene: str, tokens: list[str], number: int, entry: tuple) -> None:
    category, start, velocity, yaw, attribute, points = entry
    frames = [frame for frame in range(len(tokens)) if (scene, frame) != EMPTY_FRAME]
    keys = [f"{tokens[frame]}-{number}" for frame in frames]
    instance = f"{scene}-{number}"
    tables["instance"].append(
        {
            "token": instance,
            "category_token": f"category-{category}",
            "nbr_annotations": len(keys),
            "first_annotation_token": keys[0],
            "last_annotation_token": keys[-1],
        }
    )
    for place, (frame, key) in enumerate(zip(frames, keys, strict=True)):
        centre = [start[0] + velocity[0] * 0.5 * frame, start[1] + velocity[1] * 0.5 * frame, start[2]]
        tables["sample_annotation"].append(
            {
                "token": key,
                "sample_token": tokens[frame],
                "instance_token": instance,
                "visibility_token": "4",
                "attribute_tokens": [f"attribute-{attribute}"] if attribute else [],
                "translation": centre,
                "size": [1.9, 4.5, 1.6],
                "rotation": [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)],
                "prev": keys[place - 1] if place else "",
                "next": keys[place + 1] if place + 1 < len(keys) else "",
                "num_lidar_pts": points,
                "num_radar_pts": 0,
            }
        )
