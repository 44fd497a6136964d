"""Training on data of one's own: two cameras of different sizes, boxes and LiDAR, neither nuScenes nor its devkit."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import DataOptions
from bev_train.app import train
from bev_train.options import TrainOptions

SIZES = {"front": (320, 180), "rear": (240, 240)}
MOUNTS = {
    "front": [[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]],
    "rear": [[0, 0, -1, -0.5], [1, 0, 0, 0], [0, -1, 0, 1.4], [0, 0, 0, 1]],
}


@pytest.fixture
def own(tmp_path: Path) -> DataOptions:
    """Three frames with a car and a pedestrian each."""
    cameras, rng = {}, np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        folder = tmp_path / "own" / name
        folder.mkdir(parents=True)
        for n in range(3):
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        intrinsics = [[250, 0, width / 2], [0, 250, height / 2], [0, 0, 1]]
        cameras[name] = {
            "folder": name,
            "size": [width, height],
            "intrinsics": intrinsics,
            "cam_to_ego": MOUNTS[name],
        }
    (tmp_path / "own" / "lidar").mkdir()
    for n in range(3):
        np.save(tmp_path / "own" / "lidar" / f"{n}.npy", rng.uniform((-30, -10, -2), (30, 10, 1), (500, 3)))
    frames = [
        {
            "timestamp": 0.5 * n,
            "ego_to_global": {"rotation": [1, 0, 0, 0], "translation": [2.0 * n, 0, 0]},
            "images": dict.fromkeys(SIZES, f"{n}.png"),
            "lidar": f"{n}.npy",
            "boxes": [_box("car", [12, 2, 0.8], [4.5, 1.9, 1.6]), _box("person", [-8, 1, 0.9], [0.6, 0.6, 1.8])],
        }
        for n in range(3)
    ]
    description = {"cameras": cameras, "classes": {"person": "pedestrian"}, "splits": {"train": ["drive"]}}
    description["lidar"] = {"folder": "lidar", "lidar_to_ego": {"rotation": [1, 0, 0, 0], "translation": [0, 0, 1.8]}}
    description["scenes"] = [{"name": "drive", "frames": frames}]
    (tmp_path / "own" / "dataset.json").write_text(json.dumps(description))
    return DataOptions(root=str(tmp_path / "own"), version="own", index=tmp_path / "index.npz")


def _box(name: str, centre: list[float], size: list[float]) -> dict:
    return {"class": name, "centre": centre, "size": size, "yaw": 0.2, "frame": "ego", "velocity": [1, 0]}


def test_two_steps(own: DataOptions, tmp_path: Path) -> None:
    options = TrainOptions(
        recipe="bevdet-tiny",
        data=own,
        out=tmp_path / "run",
        max_steps=2,
        batch_size=1,
        workers=0,
        accelerator="cpu",
        log_every=1,
    )
    result = train(options)
    assert result.step == 2
    assert result.folder.weights.exists()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2
    assert np.isfinite(losses).all()
