"""The index: what it holds, how it is stored and cached, and what it says about tables that are wrong."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bev_nuscenes import ATTRIBUTES, CAMERAS, CLASSES, DataError, DataOptions, NuscenesIndex, build_index, open_index
from bev_nuscenes import build as build_module
from bev_nuscenes.index import BoxTable, CameraTable, FrameTable, LidarTable, SceneTable

TABLES = {"scenes": SceneTable, "frames": FrameTable, "cameras": CameraTable, "lidar": LidarTable, "boxes": BoxTable}


def assert_same(one: NuscenesIndex, other: NuscenesIndex) -> None:
    assert one.info == other.info
    for name, table in TABLES.items():
        for column in table._fields:
            np.testing.assert_array_equal(getattr(getattr(one, name), column), getattr(getattr(other, name), column))


def test_real_boxes_equal_the_published_ground_truth(real_index, reference):
    pipeline = np.load(reference / "data_pipeline.npz")
    rows = real_index.box_rows(0)
    np.testing.assert_allclose(real_index.boxes.boxes[rows], pipeline["gt/boxes"], atol=1e-6)
    np.testing.assert_array_equal(real_index.boxes.labels[rows], pipeline["gt/labels"])


def test_real_calibration_equals_the_published_one(real_index, reference):
    pipeline = np.load(reference / "data_pipeline.npz")
    for frame in range(2):
        for name in ("intrinsics", "cam_to_ego", "ego_to_global"):
            found = getattr(real_index.cameras, name)[frame].astype(np.float32)
            np.testing.assert_array_equal(found, pipeline[f"test/{frame}/256x704/{name}"])


def test_velocities_beside_the_tables_fill_what_the_devkit_cannot_derive(real_index, real_root):
    known = json.loads((real_root / "velocities.json").read_text())
    speeds = np.hypot(*real_index.boxes.boxes[:, 7:].T)
    assert len(known) >= len(speeds) > 0
    assert speeds.max() == pytest.approx(max(np.hypot(*velocity) for velocity in known.values()), rel=0.05)


def test_frames_come_in_order_of_time_with_links_inside_the_scene(tiny_index):
    frames = tiny_index.frames
    assert [tiny_index.scene_name(k) for k in range(len(tiny_index))] == (
        ["scene-0061"] * 3 + ["scene-0553"] * 2 + ["scene-0103"] * 3
    )
    assert (np.diff(frames.timestamps) > 0).all()
    assert frames.previous.tolist() == [-1, 0, 1, -1, 3, -1, 5, 6]
    assert frames.next.tolist() == [1, 2, -1, 4, -1, 6, 7, -1]


def test_boxes_stand_in_the_front_cameras_ego_frame(tiny_index):
    rows = tiny_index.box_rows(1, valid_only=False)
    table = tiny_index.boxes
    assert [CLASSES[label] for label in table.labels[rows]] == ["car", "pedestrian", "barrier", "truck"]
    assert table.valid[rows].tolist() == [True, True, True, False]
    assert [ATTRIBUTES[number] if number >= 0 else "" for number in table.attributes[rows]] == [
        "vehicle.moving",
        "pedestrian.standing",
        "",
        "vehicle.parked",
    ]
    car = table.boxes[rows[0]].astype(np.float64)
    pose = tiny_index.cameras.ego_to_global[1, CAMERAS.index("CAM_FRONT")]
    np.testing.assert_allclose(pose[:3, :3] @ car[:3] + pose[:3, 3], [16.0, 3.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(pose[:2, :2] @ car[7:], [4.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(car[3:6], [4.5, 1.9, 1.6], atol=1e-6)  # length, width, height
    assert car[6] == pytest.approx(-0.5)  # the car heads along the global x axis, the ego turned by 2 * 0.25
    assert table.visibility[rows].tolist() == [4] * 4
    assert len(set(table.instances[rows])) == 4


def test_instances_last_over_a_scene(tiny_index):
    cars = [tiny_index.boxes.instances[tiny_index.box_rows(k)[0]] for k in range(3)]
    assert len(set(cars)) == 1
    assert tiny_index.boxes.instance_tokens[cars[0]] == b"scene-0061-0"


def test_splits_are_the_official_ones(tiny_index):
    assert tiny_index.splits == ("mini_train", "mini_val")
    assert tiny_index.split_positions("mini_val").tolist() == [5, 6, 7]
    assert tiny_index.tokens("mini_train")[-1] == "scene-0553-1"
    assert tiny_index.position("scene-0103-1") == 6
    with pytest.raises(DataError, match=r"v1.0-mini has no split 'val'; it has mini_train, mini_val"):
        tiny_index.split_positions("val")
    with pytest.raises(DataError, match="has no sample 'nobody'"):
        tiny_index.position("nobody")


def test_saved_loaded_and_pickled_indices_are_the_same(tiny_index, tmp_path):
    path = tmp_path / "index.npz"
    tiny_index.save(path)
    loaded = NuscenesIndex.load(path)
    assert_same(loaded, tiny_index)
    assert isinstance(loaded.boxes.boxes, np.memmap)
    assert_same(pickle.loads(pickle.dumps(loaded)), tiny_index)
    assert len(pickle.dumps(loaded)) < 1000  # the path travels to workers, the arrays do not
    assert_same(pickle.loads(pickle.dumps(tiny_index)), tiny_index)
    np.load(path, allow_pickle=False)["boxes.boxes"]  # any numpy reads it, no pickle needed


def test_loading_with_another_root_moves_the_files(tiny_index, tmp_path):
    tiny_index.save(tmp_path / "index.npz")
    moved = NuscenesIndex.load(tmp_path / "index.npz", root="/elsewhere")
    assert str(moved.camera_path(0, 1)) == "/elsewhere/samples/CAM_FRONT/scene-0061-0.jpg"


def _with_info(path, **changes):
    with np.load(path) as archive:
        arrays = dict(archive)
    info = json.loads(bytes(arrays["info"])) | changes
    arrays["info"] = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "index .* is missing; build it"),
        (lambda path: path.write_text("not a zip"), "is not an index file or is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), "is not an index file or is damaged"),
        (lambda path: np.savez(path, a=np.zeros(3)), "is not an index file; name another"),
        (lambda path: np.savez_compressed(path, a=np.zeros(3)), "a.npy is compressed"),
        (lambda path: _with_info(path, format=7), "has format 7, this release reads 1; delete it"),
    ],
    ids=["missing", "text", "truncated", "foreign", "compressed", "format"],
)
def test_a_bad_index_file_is_refused_in_one_line(tiny_index, tmp_path, damage, message):
    path = tmp_path / "index.npz"
    tiny_index.save(path)
    damage(path)
    with pytest.raises(DataError, match=message) as error:
        NuscenesIndex.load(path)
    assert "\n" not in str(error.value)


@pytest.fixture
def count_builds(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builds = []

    def counted(root, version, *, progress):
        builds.append(version)
        return build_index(root, version, progress=False)

    monkeypatch.setattr(build_module, "build_index", counted)
    return builds


def test_open_index_builds_once_and_again_when_a_table_changes(own_root, edit_table, tmp_path, count_builds):
    options = DataOptions(root=str(own_root))
    before = sorted(own_root.rglob("*"))
    assert_same(open_index(options), open_index(options))
    assert len(count_builds) == 1
    edit_table("sample_annotation", lambda records: records[0].update(num_lidar_pts=0))
    assert len(open_index(options).box_rows(0)) == 2
    assert len(count_builds) == 2
    assert sorted(own_root.rglob("*")) == before  # nothing is written into the data
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1


def test_a_damaged_cache_is_rebuilt_but_a_named_file_is_not(own_root, tmp_path, count_builds):
    options = DataOptions(root=str(own_root))
    cached = open_index(options).path
    cached.write_text("damaged")
    assert len(open_index(options)) == 8
    named = tmp_path / "precious.txt"
    named.write_text("not an index")
    with pytest.raises(DataError, match="is not an index file"):
        open_index(DataOptions(root=str(own_root), index=named))
    assert named.read_text() == "not an index"


def test_a_named_index_of_another_version_is_refused(tiny_root, tiny_index, tmp_path):
    path = tmp_path / "index.npz"
    tiny_index.save(path)
    _with_info(path, version="v1.0-trainval")
    with pytest.raises(DataError, match=r"is of v1.0-trainval, not of v1.0-mini; name another file"):
        open_index(DataOptions(root=str(tiny_root), index=path))


def test_an_index_that_cannot_be_written_says_so(tiny_root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot be written .*; name a writable place"):
        open_index(DataOptions(root=str(tiny_root), index=tmp_path / "file" / "index.npz"))


@pytest.mark.parametrize(
    ("root", "version", "message"),
    [
        ("nowhere", "v1.0-mini", "is not a folder; give the folder that holds samples/ and v1.0-mini/"),
        (".", "v1.0-trainval", r"has no v1.0-trainval/ \(found v1.0-mini\); check root and version"),
        ("samples", "v1.0-mini", r"has no v1.0-mini/ \(found no v1.0-\* folder\)"),
        (".", "mini", "unknown version 'mini'; choose one of v1.0-mini, v1.0-trainval, v1.0-test"),
    ],
)
def test_wrong_root_or_version(tiny_root, root, version, message):
    with pytest.raises(DataError, match=message):
        build_index(tiny_root / root, version)


def _set(field, value, place=0):
    return lambda records: records[place].update({field: value})


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("calibrated_sensor", _set("camera_intrinsic", [[0.0] * 3] * 3), "camera_intrinsic of .*, CAM_FRONT_LEFT must"),
        ("calibrated_sensor", _set("camera_intrinsic", [[float("nan")] * 3] * 3), "camera_intrinsic of .* finite"),
        ("calibrated_sensor", _set("rotation", [0.0, 0.0, 0.0, 0.0]), "calibrated_sensor of .* quaternion"),
        ("calibrated_sensor", _set("translation", [float("nan"), 0.0, 0.0], -1), "LIDAR_TOP needs a finite"),
        ("ego_pose", _set("rotation", [float("nan"), 0.0, 0.0, 1.0]), "ego_pose of sample scene-0061-0"),
        ("ego_pose", _set("translation", [float("inf"), 0.0, 0.0]), "ego_pose of sample scene-0061-0"),
        ("sample_annotation", _set("translation", [float("nan"), 0.0, 0.0]), "annotation scene-0061-0-0 is not finite"),
        ("sample_data", lambda records: records.pop(1), "sample scene-0061-0 has no CAM_FRONT image"),
        ("ego_pose", lambda records: records.pop(0), "do not fit together: no record"),
        ("instance", lambda records: records.pop(0), "do not fit together: no record"),
        ("sample", lambda records: records.clear(), "do not fit together|have no samples"),
        ("map", _set("filename", "maps/none.png"), "nuscenes-devkit refuses .*maps/none.png"),
    ],
)
def test_wrong_records_are_named(own_root, edit_table, table, change, message):
    edit_table(table, change)
    with pytest.raises(DataError, match=message) as error:
        build_index(own_root, "v1.0-mini", progress=False)
    assert "\n" not in str(error.value)


def test_missing_and_broken_tables_are_named(own_root):
    table = own_root / "v1.0-mini" / "ego_pose.json"
    table.write_text("[{")
    with pytest.raises(DataError, match=r"ego_pose.json is not valid JSON; fetch the metadata"):
        build_index(own_root, "v1.0-mini")
    table.unlink()
    with pytest.raises(DataError, match=r"lacks ego_pose.json; unpack the metadata of v1.0-mini there"):
        build_index(own_root, "v1.0-mini")


def test_broken_velocities_are_named(own_root):
    (own_root / "velocities.json").write_text("{")
    with pytest.raises(DataError, match=r"velocities.json is not valid JSON"):
        build_index(own_root, "v1.0-mini")


def test_a_cached_index_needs_no_devkit_and_building_says_what_to_install(tiny_root, tiny_index, tmp_path, monkeypatch):
    path = tmp_path / "index.npz"
    tiny_index.save(path)
    monkeypatch.setitem(sys.modules, "nuscenes", None)
    assert len(open_index(DataOptions(root=str(tiny_root), index=path))) == 8
    with pytest.raises(ImportError, match=r'pip install "bev-nuscenes\[devkit\]"'):
        build_index(tiny_root, "v1.0-mini")


def test_importing_the_package_imports_no_devkit():
    code = "import sys, bev_nuscenes; sys.exit('nuscenes' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(
    ("version", "split", "training", "evaluation"),
    [
        ("v1.0-mini", None, "mini_train", "mini_val"),
        ("v1.0-trainval", None, "train", "val"),
        ("own", None, "train", "val"),
        ("v1.0-mini", "mini_val", "mini_val", "mini_val"),
        ("v2.0", "monday", "monday", "monday"),
    ],
)
def test_usual_splits(version, split, training, evaluation):
    options = DataOptions(root="x", version=version, split=split)
    assert (options.training_split, options.evaluation_split) == (training, evaluation)


def test_what_no_split_is_known_for():
    test = DataOptions(root="x", version="v1.0-test")
    assert test.evaluation_split == "test"
    with pytest.raises(ValueError, match=r"no training split is known for version v1.0-test.*--data.split"):
        _ = test.training_split
    with pytest.raises(ValueError, match=r"no validation split is known for version v2.0.*--data.split"):
        _ = DataOptions(root="x", version="v2.0").evaluation_split
