"""Submissions and their evaluation by the official devkit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bev_nuscenes import (
    CLASSES,
    DataError,
    NuscenesDataset,
    SubmissionWriter,
    attribute_names,
    build_index,
    evaluate,
    write_submission,
)

# boxes, scores, labels, box_to_global
GOOD = (np.ones((2, 9)), np.ones(2), np.zeros(2, dtype=int), np.eye(4))
EMPTY = (np.zeros((0, 9)), np.zeros(0), np.zeros(0), np.eye(4))


def perfect_detections(index, split):
    """The ground truth of a split as detections (token, boxes, scores, labels, box_to_global)."""
    for token in index.tokens(split):
        position = index.position(token)
        rows = index.box_rows(position)
        scores = np.linspace(1, 0.5, len(rows))
        box_to_global = index.box_to_global(position)
        yield token, index.boxes.boxes[rows], scores, index.boxes.labels[rows], box_to_global


def run(index, split, path, **options):
    root = index.info.root
    return evaluate(path, root=root, version="v1.0-mini", split=split, **options)


@pytest.mark.parametrize(("split", "classes", "boxes"), [("mini_train", 5, 33), ("mini_val", 3, 32)])
def test_perfect_detections_on_real_key_frames(real_index, tmp_path, split, classes, boxes):
    path = tmp_path / "results.json"
    write_submission(path, perfect_detections(real_index, split), real_index.tokens(split))
    metrics = run(real_index, split, path)
    present = [entry for entry in metrics.classes if entry.ground_truth]
    assert metrics.mean_ap_present == pytest.approx(1.0)
    assert metrics.mean_ap == pytest.approx(classes / 10)
    assert (len(present), sum(entry.ground_truth for entry in present)) == (classes, boxes)
    assert all(entry.errors.translation < 1e-4 and entry.errors.scale < 1e-4 for entry in present)
    assert all(not entry.errors.orientation > 1e-3 for entry in present)


def test_submission_round_trip_through_the_devkit(tiny_index, tmp_path, capfd):
    path = tmp_path / "results.json"
    write_submission(path, perfect_detections(tiny_index, "mini_train"), tiny_index.tokens("mini_train"))
    content = json.loads(path.read_text())
    assert content["meta"] == {
        "use_camera": True,
        "use_lidar": False,
        "use_radar": False,
        "use_map": False,
        "use_external": False,
    }
    assert list(content["results"]) == tiny_index.tokens("mini_train")
    assert content["results"]["scene-0553-1"] == []  # a sample without boxes is there all the same
    car = content["results"]["scene-0061-1"][0]
    np.testing.assert_allclose(car["translation"], [16.0, 3.0, 1.0], atol=1e-5)
    np.testing.assert_allclose(car["size"], [1.9, 4.5, 1.6], atol=1e-6)
    np.testing.assert_allclose(np.abs(car["rotation"]), [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(car["velocity"], [4.0, 0.0], atol=1e-5)
    assert (car["detection_name"], car["attribute_name"]) == ("car", "vehicle.moving")
    metrics = run(tiny_index, "mini_train", path, out_dir=tmp_path / "out")
    assert metrics.mean_ap_present == pytest.approx(1.0)
    summary = json.loads((tmp_path / "out" / "metrics_summary.json").read_text())
    assert summary["mean_ap"] == metrics.mean_ap and summary["nd_score"] == metrics.nds
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_metrics_as_json_and_as_table(tiny_index, tmp_path):
    path = tmp_path / "results.json"
    write_submission(path, perfect_detections(tiny_index, "mini_val"))
    metrics = run(tiny_index, "mini_val", path)
    content = json.loads(metrics.to_json(tmp_path / "metrics.json"))
    assert content == json.loads((tmp_path / "metrics.json").read_text())
    assert content["mAP"] == metrics.mean_ap and content["NDS"] == metrics.nds
    assert content["mAP_present"] == metrics.mean_ap_present
    assert content["classes"]["traffic_cone"]["AVE"] is None and math.isnan(metrics.classes[9].errors.velocity)
    assert set(content["classes"]) == set(CLASSES)
    assert {"mATE", "mASE", "mAOE", "mAVE", "mAAE"} < set(content)
    table = metrics.table().splitlines()
    assert len(table) == 13
    assert table[1].split() == ["car", "1.000", "0.000", "0.000", "0.000", "0.000", "0.000", "3"]
    assert metrics.classes[0].errors.velocity < 1e-4
    assert table[10].split()[1] == "-"  # no cone in the ground truth, so no AP
    assert "v1.0-mini mini_val, 3 key frames: mAP 0.300" in table[-1]


def test_nothing_detected_scores_nothing(tiny_index, tmp_path):
    path = tmp_path / "results.json"
    write_submission(path, ((token, *EMPTY) for token in tiny_index.tokens("mini_val")))
    metrics = run(tiny_index, "mini_val", path)
    assert metrics.mean_ap == metrics.mean_ap_present == metrics.nds == 0.0
    assert [entry.detections for entry in metrics.classes] == [0] * 10
    assert sum(entry.ground_truth for entry in metrics.classes) == 9


def test_a_split_without_boxes_cannot_be_evaluated(own_root, edit_table, tmp_path):
    edit_table("sample_annotation", lambda records: [records.remove(r) for r in records[:] if "0103" in r["token"]])
    edit_table("instance", lambda records: [records.remove(r) for r in records[:] if "0103" in r["token"]])
    index = build_index(own_root, "v1.0-mini", progress=False)
    path = tmp_path / "results.json"
    for detections in (GOOD, EMPTY):
        write_submission(path, ((token, *detections) for token in index.tokens("mini_val")))
        with pytest.raises(DataError, match="mini_val has no annotated boxes to evaluate against"):
            run(index, "mini_val", path)


def test_tensors_of_a_sample_are_accepted(tiny_index, tmp_path):
    sample = NuscenesDataset(tiny_index, "mini_train", input_size=(32, 96))[0]
    scores = torch.ones(len(sample.boxes), requires_grad=True)
    write_submission(tmp_path / "a.json", [(sample.token, sample.boxes, scores, sample.labels, sample.box_to_global)])
    records = json.loads((tmp_path / "a.json").read_text())["results"][sample.token]
    assert [record["detection_name"] for record in records] == ["car", "pedestrian", "barrier"]


@pytest.mark.parametrize(
    ("name", "speed", "attribute"),
    [
        ("car", 0.21, "vehicle.moving"),
        ("car", 0.19, "vehicle.parked"),
        ("construction_vehicle", 0.0, "vehicle.parked"),
        ("bus", 5.0, "vehicle.moving"),
        ("bus", 0.0, "vehicle.stopped"),
        ("bicycle", 0.3, "cycle.with_rider"),
        ("motorcycle", 0.1, "cycle.without_rider"),
        ("pedestrian", 1.0, "pedestrian.moving"),
        ("pedestrian", 0.1, "pedestrian.standing"),
        ("barrier", 3.0, ""),
        ("traffic_cone", 0.0, ""),
    ],
)
def test_attributes_follow_the_speed(name, speed, attribute):
    velocity = np.array([[0.6 * speed, -0.8 * speed]])
    assert attribute_names(np.array([CLASSES.index(name)]), velocity) == [attribute]


def test_the_best_500_boxes_are_kept(tmp_path):
    scores = np.random.default_rng(0).random(700)
    with SubmissionWriter(tmp_path / "a.json") as writer:
        writer.add("token", np.ones((700, 9)), scores, np.zeros(700, dtype=int), np.eye(4))
    records = json.loads((tmp_path / "a.json").read_text())["results"]["token"]
    assert [record["detection_score"] for record in records] == sorted(scores, reverse=True)[:500]


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([("a", *GOOD)], DataError, "lacks 1 of 2 samples, for instance b; predict every sample"),
        ([("a", *GOOD), ("a", *GOOD)], DataError, "sample a was already added"),
        ([("c", *GOOD)], DataError, "sample c is not in the split"),
        ([("a", np.full((2, 9), np.nan), *GOOD[1:])], ValueError, "are not finite; has the model diverged"),
        ([("a", np.ones((2, 7)), *GOOD[1:])], ValueError, r"boxes \(M, 9\), .* got \(\(2, 7\)"),
        ([("a", *GOOD[:2], np.array([0, 10]), np.eye(4))], ValueError, r"labels must be 0 to 9, got 0..10"),
    ],
)
def test_a_wrong_submission_leaves_no_file(tmp_path, entries, error, message):
    with pytest.raises(error, match=message):
        write_submission(tmp_path / "a.json", entries, tokens=["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_submission_keeps_the_one_before(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), SubmissionWriter(path) as writer:
        writer.add("a", *GOOD)
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def _drop_last(content):
    content["results"].popitem()


def _add_foreign(content):
    content["results"]["other"] = []


def _break_record(content):
    next(iter(content["results"].values()))[0].pop("size")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_last, "lacks 1 of 3 samples of mini_val, for instance scene-0103-2"),
        (_add_foreign, "has 1 samples that are not in mini_val; was it made for another split"),
        (lambda content: content.pop("results"), "needs the fields meta and results"),
        (lambda content: content.pop("meta"), "needs the fields meta and results"),
        (lambda content: content.update(results=None), "are no lists of boxes by sample"),
        (lambda content: content["results"].update({"scene-0103-0": None}), "are no lists of boxes by sample"),
        (_break_record, "was refused by nuscenes-devkit: KeyError 'size'"),
    ],
)
def test_a_submission_the_devkit_refuses_is_explained(tiny_index, tmp_path, change, message):
    path = tmp_path / "results.json"
    write_submission(path, perfect_detections(tiny_index, "mini_val"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        run(tiny_index, "mini_val", path)
    assert "\n" not in str(error.value)


def test_wrong_file_or_split(tiny_index, tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(DataError, match="is missing; predict the split first"):
        run(tiny_index, "mini_val", path)
    path.write_text('{"meta": {}, "resu')
    with pytest.raises(DataError, match=r"is not valid JSON; was writing it cut short"):
        run(tiny_index, "mini_val", path)
    with pytest.raises(DataError, match=r"v1.0-mini has no split 'val'; it has mini_train, mini_val"):
        run(tiny_index, "val", path)
