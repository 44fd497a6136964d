"""The shape of v1.0-trainval, made of a few rendered key frames."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from bev_nuscenes import build_index
from bev_nuscenes.synthetic import TrainvalSummary, make_trainval, make_world
from bev_nuscenes.synthetic.trainval import SAMPLES, _plan
from bev_nuscenes.synthetic.trainval_names import trainval_names

TOOL = Path(__file__).resolve().parents[3] / "tools" / "make_synthetic_nuscenes.py"
SHAPE = {"scenes": {"train": 3, "val": 2}, "samples": {"train": 13, "val": 6}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "world"
    return make_world(out, scenes=2, samples_per_scene=2, seed=1, density=0.0, workers=1, progress=False).root


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainvalSummary:
    return make_trainval(tmp_path_factory.mktemp("like") / "trainval", base, progress=False, **SHAPE)


@pytest.fixture(scope="module")
def tables(made: TrainvalSummary) -> dict[str, list[dict]]:
    return {path.stem: json.loads(path.read_text()) for path in (made.root / "v1.0-trainval").glob("*.json")}


def test_names_are_the_official_ones() -> None:
    splits = pytest.importorskip("nuscenes.utils.splits", reason="needs bev-nuscenes[devkit]")
    assert (trainval_names("train"), trainval_names("val")) == (splits.train, splits.val)


def test_the_whole_has_as_many_key_frames_as_the_real_one() -> None:
    plan = _plan(None, None)
    lengths = dict(plan)
    assert len(plan) == len(lengths) == 850
    assert {split: sum(lengths[name] for name in trainval_names(split)) for split in SAMPLES} == SAMPLES
    assert sum(SAMPLES.values()) == 34_149
    assert set(lengths.values()) == {40, 41}


def test_thirteen_tables_with_unique_tokens(made: TrainvalSummary, tables: dict[str, list[dict]]) -> None:
    assert len(tables) == 13
    for name, rows in tables.items():
        assert len({row["token"] for row in rows}) == len(rows) == made.rows[name] > 0, name
    assert (len(tables["scene"]), len(tables["sample"])) == (5, 19)
    assert len({row["filename"] for row in tables["sample_data"]}) == len(tables["sample_data"])


def test_every_reference_resolves(tables: dict[str, list[dict]]) -> None:
    known = {name: {row["token"] for row in rows} for name, rows in tables.items()}
    targets = {
        "scene": {"log_token": "log", "first_sample_token": "sample", "last_sample_token": "sample"},
        "sample": {"scene_token": "scene", "prev": "sample", "next": "sample"},
        "sample_data": {
            "sample_token": "sample",
            "ego_pose_token": "ego_pose",
            "calibrated_sensor_token": "calibrated_sensor",
            "prev": "sample_data",
            "next": "sample_data",
        },
        "sample_annotation": {
            "sample_token": "sample",
            "instance_token": "instance",
            "prev": "sample_annotation",
            "next": "sample_annotation",
        },
        "instance": {
            "category_token": "category",
            "first_annotation_token": "sample_annotation",
            "last_annotation_token": "sample_annotation",
        },
        "calibrated_sensor": {"sensor_token": "sensor"},
    }
    for table, fields in targets.items():
        for row in tables[table]:
            for field, target in fields.items():
                assert row[field] in known[target] or (row[field] == "" and field in ("prev", "next")), (table, field)
    assert {token for row in tables["map"] for token in row["log_tokens"]} == known["log"]


@pytest.mark.parametrize("table", ["sample", "sample_data", "sample_annotation"])
def test_chains_are_whole_and_run_forward_in_time(tables: dict[str, list[dict]], table: str) -> None:
    rows = {row["token"]: row for row in tables[table]}
    times = {row["token"]: row["timestamp"] for row in tables["sample"] + tables["sample_data"]}
    for row in rows.values():
        if row["next"]:
            after = rows[row["next"]]
            assert after["prev"] == row["token"]
            time, later = (times[r["sample_token" if table == "sample_annotation" else "token"]] for r in (row, after))
            assert later > time
    begins = [row for row in rows.values() if not row["prev"]]
    wanted = {"sample": 5, "sample_data": 5 * 7, "sample_annotation": len(tables["instance"])}
    assert len(begins) == wanted[table]


def test_scenes_follow_each_other_in_time(base: Path, tables: dict[str, list[dict]], tmp_path: Path) -> None:
    """Also long ones: an index sorts key frames by time, and the frames of a scene stand together in it."""
    long = (
        make_trainval(tmp_path / "long", base, scenes={"train": 2}, samples={"train": 500}, progress=False).root
        / "v1.0-trainval"
    )
    for scenes, samples in (
        (tables["scene"], tables["sample"]),
        tuple(json.loads((long / f"{name}.json").read_text()) for name in ("scene", "sample")),
    ):
        in_time = sorted(samples, key=lambda row: row["timestamp"])
        order = [scene["token"] for scene in scenes for _ in range(scene["nbr_samples"])]
        assert [row["scene_token"] for row in in_time] == order


def test_instances_count_their_boxes(tables: dict[str, list[dict]]) -> None:
    for instance in tables["instance"]:
        own = [row for row in tables["sample_annotation"] if row["instance_token"] == instance["token"]]
        assert len(own) == instance["nbr_annotations"]
        assert [row["token"] for row in own if not row["prev"]] == [instance["first_annotation_token"]]
        assert [row["token"] for row in own if not row["next"]] == [instance["last_annotation_token"]]


def test_files_are_links_to_the_base(made: TrainvalSummary, base: Path, tables: dict[str, list[dict]]) -> None:
    inodes = {path.stat().st_ino for path in base.rglob("*") if path.is_file()}
    for row in tables["sample_data"]:
        assert (made.root / row["filename"]).stat().st_ino in inodes
    assert len(list(made.root.glob("gts/*/*/labels.npz"))) == len(tables["sample"])


def test_scenes_are_those_of_the_base_under_other_names(made: TrainvalSummary, base: Path) -> None:
    """Through the devkit's eyes: poses, boxes and files of a key frame belong together as in the base."""
    pytest.importorskip("nuscenes", reason="needs bev-nuscenes[devkit]")
    big, small = (
        build_index(root, version, progress=False)
        for root, version in ((made.root, "v1.0-trainval"), (base, "v1.0-mini"))
    )
    assert len(big) == 19
    base_frame = {(base / small.cameras.files[k, 0].decode()).stat().st_ino: k for k in range(len(small))}
    for k in range(len(big)):
        same = base_frame[(made.root / big.cameras.files[k, 0].decode()).stat().st_ino]
        np.testing.assert_array_equal(big.cameras.ego_to_global[k], small.cameras.ego_to_global[same])
        np.testing.assert_array_equal(big.lidar.ego_to_global[k], small.lidar.ego_to_global[same])
        ours, theirs = (
            index.boxes.boxes[index.boxes.offsets[i] : index.boxes.offsets[i + 1]]
            for index, i in ((big, k), (small, same))
        )
        np.testing.assert_array_equal(ours[:, :7], theirs[:, :7])


@pytest.mark.skipif(not TOOL.is_file(), reason="the command line tool is part of the repository, not of the package")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--like", "trainval", "--like-scenes", "1", "1"], "80 sample,"),
        (["--like-scenes", "1", "1"], "options of --like trainval"),
    ],
)
def test_the_command(
    arguments: list[str],
    said: str,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "out"), "--base", str(base), *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name="__main__")
    output = capsys.readouterr()
    assert said in (output.err if stop.value.code else output.out)
    assert stop.value.code == ("--like" not in arguments) == (not (tmp_path / "out").exists())


def test_what_is_no_world_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(ValueError, match="not a finished synthetic world"):
        make_trainval(tmp_path / "out", tmp_path)
    (tmp_path / "full").mkdir()
    with pytest.raises(FileExistsError, match="name another folder"):
        make_trainval(tmp_path / "full", base)
    with pytest.raises(ValueError, match="700 scene names"):
        make_trainval(tmp_path / "out", base, scenes={"train": 701}, progress=False)
    with pytest.raises(ValueError, match="no scene is wanted"):
        make_trainval(tmp_path / "out", base, scenes={"train": 0, "val": 0}, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
