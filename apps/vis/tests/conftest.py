"""A nuScenes data set of two key frames, six plain pictures each, made of nothing but its tables."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import CLASSES, DataOptions
from bev_vis.source import open_source

CHANNELS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
    "LIDAR_TOP",
)
YAW_DEG = dict(zip(CHANNELS, (55, 0, -55, 110, 180, -110, 0), strict=True))
SCENES = ("scene-0103", "scene-0916")
INTRINSICS = [[126.6, 0, 80], [0, 126.6, 45], [0, 0, 1]]
GREY = (90, 90, 90)
EGO_AT = (400.0, 1100.0, 0.0)
HEADING = np.pi / 2
"""The ego vehicle stands at ``EGO_AT`` and looks along the global y axis."""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """Root of a v1.0-mini data set with one car 12 m ahead of the ego vehicle in each of two mini_val scenes."""
    root = tmp_path_factory.mktemp("nuscenes")
    (root / "v1.0-mini").mkdir()
    for name, records in _tables().items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(records))
        for record in records if name == "sample_data" else ():
            _write_sensor_file(root / record["filename"])
    (root / "maps").mkdir()
    Image.new("L", (8, 8)).save(root / "maps" / "blank.png")
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where indices go instead of the user's own cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_folders(cache, tmp_path, monkeypatch):
    """Neither an index nor a picture without a name lands in the user's folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def keyframes() -> Path:
    """Root of the two real key frames, beside the repository."""
    root = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "nuscenes-keyframes"
    if not root.is_dir():
        pytest.skip(f"no real key frames at {root}")
    return root


@pytest.fixture(scope="session")
def truth_as_results():
    """A function that writes the true boxes of a split as a submission and returns its path."""
    return _write_truth


def token(*parts: object) -> str:
    """A token that says what it stands for."""
    return "-".join(str(part) for part in parts)


def _write_sensor_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.new("RGB", (160, 90), GREY).save(path)
    else:
        np.array([[0, 20, -1.8, 5, 0]], np.float32).tofile(path)


def _tables() -> dict[str, list[dict]]:
    numbers = range(len(SCENES))
    return {
        "log": [_record("log", logfile="l", vehicle="v", date_captured="2018-01-01", location="singapore-onenorth")],
        "map": [_record("map", log_tokens=["log"], category="semantic_prior", filename="maps/blank.png")],
        "category": [_record("category", name="vehicle.car", description="")],
        "attribute": [_record("attribute", name="vehicle.moving", description="")],
        "visibility": [_record(str(level), level="v", description="") for level in (1, 2, 3, 4)],
        "sensor": [
            _record(token("sensor", channel), channel=channel, modality=_modality(channel)) for channel in CHANNELS
        ],
        "calibrated_sensor": [_calibration(channel) for channel in CHANNELS],
        "ego_pose": [_record("ego", timestamp=0, rotation=_quaternion(HEADING), translation=EGO_AT)],
        "scene": [_scene(number) for number in numbers],
        "sample": [
            _record(token("sample", i), timestamp=i, prev="", next="", scene_token=token("scene", i)) for i in numbers
        ],
        "sample_data": [_sample_data(number, channel) for number in numbers for channel in CHANNELS],
        "instance": [_instance(number) for number in numbers],
        "sample_annotation": [_annotation(number) for number in numbers],
    }


def _record(token: str, /, **fields: object) -> dict:
    return {"token": token, **fields}


def _modality(channel: str) -> str:
    return "camera" if channel.startswith("CAM") else "lidar"


def _quaternion(yaw: float) -> list[float]:
    return [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]


def _camera_quaternion(yaw: float) -> list[float]:
    """Camera axes (x right, y down, z ahead) to the ego frame, for a camera that looks along ``yaw``.

    The product of the turn about z, (c, 0, 0, s), and of the quaternion of a camera that looks ahead,
    (1, -1, 1, -1) / 2.
    """
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    return [(c + s) / 2, (-c - s) / 2, (c - s) / 2, (s - c) / 2]


def _calibration(channel: str) -> dict:
    camera = _modality(channel) == "camera"
    return _record(
        token("calibration", channel),
        sensor_token=token("sensor", channel),
        translation=[0.0, 0.0, 1.5],
        rotation=_camera_quaternion(np.radians(YAW_DEG[channel])) if camera else [1.0, 0.0, 0.0, 0.0],
        camera_intrinsic=INTRINSICS if camera else [],
    )


def _scene(number: int) -> dict:
    first = token("sample", number)
    return _record(
        token("scene", number),
        log_token="log",
        nbr_samples=1,
        first_sample_token=first,
        last_sample_token=first,
        name=SCENES[number],
        description="",
    )


def _sample_data(number: int, channel: str) -> dict:
    camera = _modality(channel) == "camera"
    return _record(
        token("data", number, channel),
        sample_token=token("sample", number),
        ego_pose_token="ego",
        calibrated_sensor_token=token("calibration", channel),
        timestamp=number,
        fileformat="jpg" if camera else "pcd",
        is_key_frame=True,
        height=90 if camera else 0,
        width=160 if camera else 0,
        filename=f"samples/{channel}/{number}.{'jpg' if camera else 'pcd.bin'}",
        prev="",
        next="",
    )


def _instance(number: int) -> dict:
    only = token("annotation", number)
    return _record(
        token("instance", number),
        category_token="category",
        nbr_annotations=1,
        first_annotation_token=only,
        last_annotation_token=only,
    )


def _annotation(number: int) -> dict:
    return _record(
        token("annotation", number),
        sample_token=token("sample", number),
        instance_token=token("instance", number),
        visibility_token="4",
        attribute_tokens=["attribute"],
        translation=[EGO_AT[0], EGO_AT[1] + 12.0, 1.0],
        size=[2.0, 4.0, 1.6],
        rotation=_quaternion(HEADING),
        prev="",
        next="",
        num_lidar_pts=5,
        num_radar_pts=0,
    )


def _write_truth(root, split, path, score=0.9):
    source = open_source(DataOptions(root=str(root), split=split))
    results = {}
    for number, token in enumerate(source.tokens):
        truth = source.frame(number, lidar=False).truth
        results[token] = [
            {
                "sample_token": token,
                "translation": truth.center[i].tolist(),
                "size": truth.size[i, [1, 0, 2]].tolist(),
                "rotation": _quaternion_about_z(truth.rotation[i]),
                "velocity": truth.velocity[i, :2].tolist(),
                "detection_name": CLASSES[truth.label[i]],
                "detection_score": score,
                "attribute_name": "",
            }
            for i in range(len(truth))
        ]
    path.write_text(json.dumps({"meta": {}, "results": results}))
    return path


def _quaternion_about_z(rotation):
    half = np.arctan2(rotation[1, 0], rotation[0, 0]) / 2
    return [float(np.cos(half)), 0.0, 0.0, float(np.sin(half))]
