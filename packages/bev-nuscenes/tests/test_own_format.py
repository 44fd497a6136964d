"""The own format: what it says, what is refused and in which words."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bev_nuscenes import CLASSES, DataError, DataOptions, NuscenesDataset, NuscenesIndex, open_index
from bev_nuscenes.files import read_image
from bev_nuscenes.own import build_own_index, check_data, read_description, write_description
from bev_nuscenes.own.__main__ import main
from bev_nuscenes.own.document import open_document

SIZES = {"front": (64, 36), "rear": (48, 48)}
FORWARD = [[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]]  # a level camera that looks along x
BACKWARD = [[0, 0, -1, -0.5], [1, 0, 0, 0], [0, -1, 0, 1.4], [0, 0, 0, 1]]


def at(x: float, y: float = 0.0, yaw: float = 0.0) -> list[list[float]]:
    """Pose of an ego at a place."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    return [[cos, -sin, 0, x], [sin, cos, 0, y], [0, 0, 1, 0], [0, 0, 0, 1]]


def content() -> dict:
    """A description of two drives with two cameras: the first of three frames, the second of one."""
    car = {"class": "car", "centre": [10, 2, 1], "size": [4.5, 1.9, 1.6], "yaw": 0.1, "frame": "ego"}
    frames = [
        {
            "timestamp": 100.0 + 0.5 * n,
            "ego_to_global": at(50.0 + 2 * n, 20.0, math.pi / 2),
            "images": {"front": f"{n}.jpg", "rear": f"{n}.png"},
            "lidar": f"{n}.bin",
            "boxes": [car | {"velocity": [3, 0], "points": 7}, car | {"class": "Van", "centre": [-5, 0, 1]}],
        }
        for n in range(3)
    ]
    other = {"timestamp": 7.0, "ego_to_global": at(0), "images": {"front": "0.jpg", "rear": "0.png"}}
    return {
        "cameras": {
            "front": _camera("front", FORWARD),
            "rear": _camera("rear", BACKWARD),
        },
        "lidar": {"folder": "points", "lidar_to_ego": {"rotation": [1, 0, 0, 0], "translation": [0, 0, 1.8]}},
        "classes": {"Van": "truck", "DontCare": None},
        "splits": {"train": ["a"], "val": ["b"]},
        "scenes": [{"name": "a", "frames": frames}, {"name": "b", "frames": [other]}],
    }


def _camera(name: str, pose: list) -> dict:
    width, height = SIZES[name]
    return {
        "folder": f"images/{name}",
        "size": [width, height],
        "intrinsics": [[50, 0, width / 2], [0, 50, height / 2], [0, 0, 1]],
        "cam_to_ego": pose,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that ``content`` names, and its description."""
    rng = np.random.default_rng(0)
    for name, suffix in (("front", "jpg"), ("rear", "png")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(3):
            pixels = rng.integers(0, 256, (*SIZES[name][::-1], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{n}.{suffix}")
    (tmp_path / "points").mkdir()
    for n in range(3):
        rng.uniform(-20, 20, (50, 4)).astype(np.float32).tofile(tmp_path / "points" / f"{n}.bin")
    _write(tmp_path, content())
    return tmp_path


def _write(folder: Path, description: dict) -> None:
    (folder / "dataset.yaml").write_text(yaml.safe_dump(description, sort_keys=False))


def _change(description: dict, path: str, value: object) -> dict:
    """The description with another value at a path such as ``scenes.0.frames.1.timestamp``; ``...`` removes it."""
    changed = copy.deepcopy(description)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    target = changed
    for part in way:
        target = target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return changed


def test_index_says_what_the_file_says(folder: Path) -> None:
    index = build_own_index(folder)
    assert (index.info.version, index.info.cameras, index.info.box_camera) == ("own", ("front", "rear"), "front")
    assert index.splits == ("all", "train", "val")
    assert index.tokens("all") == ["a-000000", "a-000001", "a-000002", "b-000000"]
    assert index.tokens("val") == ["b-000000"]
    np.testing.assert_array_equal(index.frames.previous, [-1, 0, 1, -1])
    np.testing.assert_array_equal(index.frames.next, [1, 2, -1, -1])
    np.testing.assert_array_equal(index.cameras.sizes[2], [(64, 36), (48, 48)])
    np.testing.assert_array_equal(index.cameras.cam_to_ego[3, 1], BACKWARD)
    np.testing.assert_array_equal(index.box_to_global(1), at(52, 20, math.pi / 2))
    np.testing.assert_array_equal(index.lidar.lidar_to_ego[0][:3, 3], [0, 0, 1.8])
    assert (index.seconds(1), index.scene_name(3)) == (100.5, "b")
    labels = [CLASSES[label] for label in index.boxes.labels[index.box_rows(0)]]
    assert labels == ["car", "truck"]
    np.testing.assert_allclose(index.boxes.boxes[0], [10, 2, 1, 4.5, 1.9, 1.6, 0.1, 3, 0], rtol=1e-6)


def test_cached_index_is_rebuilt_when_the_file_changes(folder: Path, tmp_path: Path) -> None:
    options = DataOptions(root=str(folder), version="own", index=tmp_path / "index.npz")
    assert len(open_index(options)) == 4
    _write(folder, _change(_change(content(), "scenes.1", ...), "splits", {"train": ["a"]}))
    again = open_index(options)
    assert (len(again), again.splits) == (3, ("all", "train"))
    assert NuscenesIndex.load(options.index).info == again.info


@pytest.mark.parametrize("comment", ["", "# no scenes: every image is a frame\n"])
def test_cached_index_is_rebuilt_when_images_are_added(folder: Path, tmp_path: Path, comment: str) -> None:
    (folder / "images").rename(folder / "scenes")
    cameras = content()["cameras"]
    for name, camera in cameras.items():
        camera["folder"] = f"scenes/{name}"
    _write(folder, {"cameras": cameras})
    (folder / "dataset.yaml").write_text(comment + (folder / "dataset.yaml").read_text())
    options = DataOptions(root=str(folder), version="own", index=tmp_path / "index.npz")
    assert len(open_index(options)) == 3
    for path in (folder / "scenes/front/0.jpg", folder / "scenes/rear/0.png"):
        path.with_stem("3").write_bytes(path.read_bytes())
    assert len(open_index(options)) == 4


def test_what_changes_while_files_are_checked_is_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_and_change(*_, **__) -> list:
        _write(folder, _change(content(), "scenes.0.frames.2", ...))
        return []

    options = DataOptions(root=str(folder), version="own", index=tmp_path / "index.npz")
    with monkeypatch.context() as patch:
        patch.setattr("bev_nuscenes.own.index.check_files", check_and_change)
        open_index(options)
    assert len(open_index(options)) == 3


@pytest.mark.parametrize("name", ["0010", "2024-01-05", "2011_09_26", "7"])
@pytest.mark.parametrize("rewritten", [False, True])
def test_names_that_yaml_takes_for_numbers_or_dates_stay_names(folder: Path, name: str, rewritten: bool) -> None:
    text = (folder / "dataset.yaml").read_text().replace("- name: a\n", f"- name: {name}\n")
    (folder / "dataset.yaml").write_text(text.replace("  - a\n", f"  - {name}\n"))
    if rewritten:
        write_description(read_description(folder)[0])
    data, problems = read_description(folder)
    assert not problems
    assert data.splits["train"] == (data.scenes[0].name,) == (name,)


def test_cameras_may_have_numbers(folder: Path) -> None:
    description = _change(content(), "cameras", {0: _camera("front", FORWARD)})
    description["scenes"] = [{"name": "a", "cameras": {0: _camera("front", BACKWARD)}, "frames": []}]
    description["scenes"][0]["frames"] = [{"timestamp": 0, "ego_to_global": at(0), "images": {0: "0.jpg"}}]
    del description["splits"]
    _write(folder, description)
    data, problems = check_data(folder)
    assert not problems
    np.testing.assert_array_equal(data.cameras_of(data.scenes[0])[0].cam_to_ego, BACKWARD)


@pytest.mark.parametrize("spelt", ["images/front", "./images//front/"])
def test_unreadable_files_are_reported_however_folders_are_spelt(folder: Path, spelt: str) -> None:
    _write(folder, _change(content(), "cameras.front.folder", spelt))
    index = build_own_index(folder)
    path = folder / "images/front/1.jpg"
    path.write_bytes(b"rubbish")
    split = NuscenesDataset(index, "train", input_size=(32, 64), training=True, on_error="skip")
    with pytest.warns(UserWarning, match="its samples are replaced"):
        assert split[1].token == "a-000002"
    assert (split.faults.count, split.faults.files) == (1, [str(path)])


@pytest.mark.parametrize("images", ["exact", "fast"])
def test_data_set_reads_images_of_all_sizes_and_kinds(folder: Path, images: str) -> None:
    index = build_own_index(folder)
    dataset = NuscenesDataset(index, "all", input_size=(32, 64), frames=2, with_depth=True, images=images)
    samples = [dataset[i] for i in range(3)]
    assert samples[1].images.shape == (2, 2, *((3, 32, 64) if images == "exact" else (32, 64, 3)))
    assert samples[1].images[1].equal(samples[0].images[0])  # history
    assert (samples[1].depth > 0).any()
    assert samples[1].depth.shape == (2, 32, 64)
    with pytest.raises(DataError, match="b-000000 has no LiDAR"):
        dataset[3]


@pytest.mark.parametrize("name", ["dataset.yaml", "dataset.json"])
def test_written_is_read_as_it_was(folder: Path, tmp_path: Path, name: str) -> None:
    frame = content()["scenes"][0]["frames"][0]["images"]
    frame["rear"] = {"file": "0.png", "timestamp": 1e9 + 1 / 3, "ego_to_global": at(1 / 3, 1e-9, 0.7)}
    _write(folder, _change(content(), "scenes.0.frames.0.images", frame))
    first, problems = read_description(folder)
    assert not problems
    (folder / "dataset.yaml").unlink()
    object.__setattr__(first, "file", folder / name)
    write_description(first)
    second, problems = read_description(folder)
    assert not problems
    assert _plain(second) == _plain(first)


def _plain(value: object) -> object:
    """Nested dataclasses and arrays as dictionaries and lists, to compare."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def test_boxes_in_the_global_frame_are_turned_into_the_ego_frame(folder: Path) -> None:
    box = {"class": "car", "centre": [50, 30, 1], "size": [4, 2, 1.5], "yaw": math.pi / 2, "frame": "global"}
    _write(folder, _change(content(), "scenes.0.frames.0.boxes", [box | {"velocity": [0, 5]}]))
    index = build_own_index(folder)  # the ego of frame 0 stands at (50, 20) and looks along y
    np.testing.assert_allclose(index.boxes.boxes[0], [10, 0, 1, 4, 2, 1.5, 0, 5, 0], atol=1e-6)


def test_velocity_follows_from_a_track(folder: Path) -> None:
    description = content()
    for n, frame in enumerate(description["scenes"][0]["frames"]):  # the ego looks along y, the object drives along y
        box = {"class": "car", "centre": [10 + 4.0 * n, 0, 1], "size": [4, 2, 1.5], "yaw": 0, "frame": "ego"}
        frame["boxes"] = [box | {"track": "7"}, box]
    _write(folder, description)
    velocities = build_own_index(folder).boxes.boxes[:, 7:].reshape(3, 2, 2)
    # Along x of the ego 8 m/s of the object's way in the ego frame; the ego moves across it at 4 m/s.
    np.testing.assert_allclose(velocities[:, 0], [[8, -4]] * 3, atol=1e-5)
    np.testing.assert_array_equal(velocities[:, 1], 0)  # nobody says


def test_frames_without_every_image_are_left_out_and_said(folder: Path) -> None:
    _write(folder, _change(content(), "scenes.0.frames.1.images", {"front": "1.jpg", "rear": None}))
    with pytest.warns(
        UserWarning, match=r"1 of 3 frames lack an image and are left out, the first is frame 1 \(no rear\)"
    ):
        index = build_own_index(folder)
    assert index.tokens("train") == ["a-000000", "a-000002"]


@pytest.mark.parametrize("rate", [None, 10.0])
def test_frames_are_found_in_the_folders_where_none_are_listed(folder: Path, rate: float | None) -> None:
    description = {"cameras": content()["cameras"]} | ({} if rate is None else {"rate_hz": rate})
    _write(folder, description)
    (folder / "images" / "rear" / "1.png").unlink()
    with pytest.warns(UserWarning, match="no rear"):
        index = build_own_index(folder)
    assert index.tokens("all") == ["images-000000", "images-000002"]
    assert index.seconds(1) == pytest.approx(2 / (rate or 2.0))


@pytest.mark.parametrize("rate", [2.0, 29.97, 49.0])
def test_written_is_read_as_it_was_without_listed_frames(folder: Path, rate: float) -> None:
    _write(folder, {"cameras": content()["cameras"], "rate_hz": rate})
    first, _ = read_description(folder)
    write_description(first)
    second, problems = read_description(folder)
    assert not problems
    assert _plain(second) == _plain(first)


def test_single_images_belong_together_whatever_their_names(folder: Path) -> None:
    for n in (1, 2):
        (folder / "images/front" / f"{n}.jpg").unlink()
        (folder / "images/rear" / f"{n}.png").unlink()
    (folder / "images/rear/0.png").rename(folder / "images/rear/IMG_77.PNG")
    _write(folder, {"cameras": content()["cameras"]})
    assert len(build_own_index(folder)) == 1


TURNED = [[0.5, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]]
MIRRORED = [[0, 0, 1, 1.5], [1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]]
TRANSPOSED = np.transpose(FORWARD).tolist()
INVERTED = np.linalg.inv(FORWARD).tolist()
CENTIMETRES = [[0, 0, 1, 150], [-1, 0, 0, 0], [0, -1, 0, 160], [0, 0, 0, 1]]
FRAME = "scenes.0.frames.1"
BOX = f"{FRAME}.boxes.0"

WRONG = [
    # path, value, place, words
    ("cameras.front.cam_to_ego", TURNED, "cameras.front.cam_to_ego", "must be a rotation"),
    ("cameras.front.cam_to_ego", MIRRORED, "cameras.front.cam_to_ego", "mirrors (determinant -1)"),
    ("cameras.front.cam_to_ego", TRANSPOSED, "cameras.front.cam_to_ego", "is the matrix transposed?"),
    ("cameras.front.cam_to_ego", INVERTED, "cameras.front.cam_to_ego", "this looks like ego_to_cam: invert it"),
    ("cameras.front.cam_to_ego", CENTIMETRES, "cameras.front.cam_to_ego", "219.3 m from the ego origin"),
    ("cameras.front.cam_to_ego", {"rotation": [0, 0, 1.57], "translation": [0, 0, 0]}, "rotation", "three numbers"),
    ("cameras.front.cam_to_ego", {"rotation": [1, 0, 0, 1], "translation": [0, 0, 0]}, "rotation", "length 1.414"),
    ("cameras.front.intrinsics", [[50, 0, 900], [0, 50, 18], [0, 0, 1]], "front.intrinsics", "lies outside the 64x36"),
    ("cameras.front.intrinsics", [50, 50, 32, 18], "cameras.front.intrinsics", "3 x 3 finite numbers are needed"),
    ("cameras.front.size", [32, 18], "cameras.front.intrinsics", "lies outside"),
    ("cameras.rear.size", [64, 48], "scenes.a.frames[0].images.rear", "has 48x48 pixels, its calibration is for 64x48"),
    ("cameras.front.focal", 3, "cameras.front", "unknown field 'focal'"),
    ("cameras.front.sise", [64, 36], "cameras.front", "did you mean size?"),
    ("reference_camera", "left", "reference_camera", "one of front, rear is needed, got 'left'"),
    ("scenes.1.cameras", {"front": {"size": [64, 36]}}, "scenes.b.cameras.front", "field 'folder' is missing"),
    ("scenes.1.cameras", {"left": {}}, "scenes.b.cameras", "unknown field 'left'"),
    ("scenes.1.cameras", {"rear": _camera("rear", INVERTED)}, "scenes.b.cameras.rear.cam_to_ego", "ego_to_cam"),
    ("classes.Van", "lorry", "classes.Van", "one of car, truck"),
    ("splits.train", ["a", "c"], "splits.train[1]", "one of a, b is needed, got 'c'"),
    ("scenes.1.name", "a", "scenes.a", "two scenes have this name"),
    ("scenes.1.name", "../b", "scenes.../b.name", "it becomes part of file names"),
    (f"{FRAME}.timestamp", 100.0, "scenes.a.frames[1].timestamp", "the same time as frame 0"),
    (f"{FRAME}.timestamp", 99.0, "scenes.a.frames[1].timestamp", "1 s before frame 0"),
    (f"{FRAME}.timestamp", "soon", "scenes.a.frames[1].timestamp", "a finite number is needed, got \"soon\""),
    (f"{FRAME}.ego_to_global", at(5200, 20), "scenes.a.frames[1].ego_to_global", "are positions in metres"),
    (f"{FRAME}.ego_to_global", ..., "scenes.a.frames[1]", "field 'ego_to_global' is missing"),
    (f"{FRAME}.images.front", "9.jpg", "scenes.a.frames[1].images.front", "9.jpg is missing"),
    (f"{FRAME}.images.left", "0.jpg", "scenes", "scene a has images of left, which is no usable camera"),
    (f"{FRAME}.lidar", "9.pcd", "scenes.a.frames[1].lidar", "9.pcd is neither .bin nor .npy"),
    (f"{FRAME}.lidar", "9.bin", "scenes.a.frames[1].lidar", "9.bin is missing"),
    ("lidar", ..., "scenes.a", "the field lidar (folder, lidar_to_ego) is missing"),
    (f"{BOX}.class", "lorry", "scenes.a.frames[1].boxes[0].class", "translate it under classes"),
    (f"{BOX}.yaw", 90, "scenes.a.frames[1].boxes[0].yaw", "is it in degrees?"),
    (f"{BOX}.size", [450, 190, 160], "scenes.a.frames[1].boxes[0].size", "450 m is too long"),
    (f"{BOX}.size", [4, -1, 1], "scenes.a.frames[1].boxes[0].size", "above 0 is needed"),
    (f"{BOX}.frame", "world", "scenes.a.frames[1].boxes[0].frame", "one of ego, global is needed, got 'world'"),
    (f"{BOX}.centre", [4000, 0, 0], "scenes.a.frames[1].boxes[0].centre", "4000 m from the ego; frame says ego"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "place", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_a_mistake_is_named_with_file_field_and_frame(
    folder: Path, path: str, value: object, place: str, words: str
) -> None:
    _write(folder, _change(content(), path, value))
    _, problems = check_data(folder)
    found = [str(problem) for problem in problems]
    assert any(str(folder / "dataset.yaml") in text and place in text and words in text for text in found), found


def test_deep_grey_images_are_refused_instead_of_cut_off(folder: Path) -> None:
    path = folder / "images/rear/1.png"
    Image.fromarray(np.full(SIZES["rear"], 1000, np.uint16)).save(path)
    (problem,) = check_data(folder)[1]
    assert f"image {path} has more than 8 bits per pixel" in problem.message
    with pytest.raises(DataError, match=r"more than 8 bits .*; scale it to 8"):
        read_image(path, SIZES["rear"])


def test_a_right_description_has_no_problem(folder: Path) -> None:
    assert check_data(folder)[1] == []


@pytest.mark.parametrize(
    ("factor", "words"), [(1e9, "milli-, micro- or nanoseconds"), (1e-3, "were these divided by too much")]
)
def test_time_stamps_in_other_units(folder: Path, factor: float, words: str) -> None:
    description = content()
    for frame in description["scenes"][0]["frames"]:
        frame["timestamp"] *= factor
    _write(folder, description)
    assert any(words in str(problem) for problem in check_data(folder)[1])


def test_numbers_that_yaml_takes_for_texts(folder: Path) -> None:
    _write(folder, content())
    text = (folder / "dataset.yaml").read_text().replace("timestamp: 7.0", "timestamp: 7e0")
    (folder / "dataset.yaml").write_text(text)
    data, problems = read_description(folder)
    assert not problems
    assert data.scenes[1].frames[0].timestamp == 7.0


def test_all_problems_are_listed_and_the_first_three_raised(folder: Path, capsys) -> None:
    description = content()
    for frame in description["scenes"][0]["frames"]:
        frame["images"] = {"front": "none.jpg", "rear": "none.png"}
    _write(folder, description)
    assert main(["check", str(folder)]) == 1
    out = capsys.readouterr().out
    assert out.count("is missing") == 6
    assert "6 errors, 0 warnings" in out
    with pytest.raises(DataError, match=r"and 3 more: python -m bev_nuscenes.own check") as raised:
        build_own_index(folder)
    assert str(raised.value).count("is missing") == 3


def test_check_prints_what_there_is(folder: Path, capsys) -> None:
    assert main(["check", str(folder)]) == 0
    out = capsys.readouterr().out
    for words in (
        "2 cameras, 2 scenes, 4 frames",
        "camera rear: 48x48, 51 degrees wide, at x -0.50 y 0.00 z 1.40 m, looks +180 degrees",
        "scene a: 3 frames",
        "LiDAR: 3 frames",
        "boxes: 3 car, 3 truck",
        "splits: all (2 scenes), train (1 scenes), val (1 scenes)",
        "0 errors, 0 warnings",
    ):
        assert words in out


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda path: path.unlink(), "has no dataset.yaml or dataset.yml or dataset.json"),
        (lambda path: path.write_text("cameras: [a"), "is not valid YAML"),
        (lambda path: path.write_text("cameras: {front: {}, front: {}}"), "'front' occurs twice"),
        (lambda path: path.write_text("[]"), "fields with names are needed"),
        (lambda path: path.write_text("cameras: {}"), "at least one camera is needed"),
        (lambda path: path.write_text("format: 2\ncameras: {}"), "this release reads format 1, got 2"),
    ],
)
def test_unreadable_descriptions(folder: Path, break_it: Callable[[Path], object], words: str) -> None:
    break_it(folder / "dataset.yaml")
    with pytest.raises(DataError, match=words):
        build_own_index(folder)


def test_version_own_is_hinted_at(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no v1.0-mini/ but dataset.yaml: name the version own"):
        open_index(DataOptions(root=str(folder)))


def test_merged_names_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "document.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    assert open_document(path, []).value == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}


def test_json_names_occur_once(tmp_path: Path) -> None:
    path = tmp_path / "document.json"
    path.write_text('{"front": 1, "front": 2}')
    with pytest.raises(DataError, match="'front' occurs twice"):
        open_document(path, [])


def test_json_is_read_too(folder: Path) -> None:
    (folder / "dataset.yaml").unlink()
    (folder / "dataset.json").write_text(json.dumps(content()))
    assert check_data(folder)[1] == []
