"""Matching is the benchmark's: its figures are the devkit's to the last digit that means something."""

import json

import numpy as np
import pytest

from bev_nuscenes import CLASSES, DataOptions, evaluate
from bev_vis.matching import (
    THRESHOLDS_M,
    average_precision,
    confusion,
    errors_of_pairs,
    frame_scores,
    match,
    mean_ap,
    precision_curve,
)
from bev_vis.objects import Objects, read_objects
from bev_vis.source import open_source
from bev_vis.submission import read_submission

CAR, TRUCK, BARRIER = (CLASSES.index(name) for name in ("car", "truck", "barrier"))


def objects(*rows, **columns):
    """Objects at x, y of a label with a score, in frame 0."""
    x, y, label, score = np.array(rows, float).reshape(-1, 4).T
    count = len(x)
    values = {
        "frame": np.zeros(count, np.intp),
        "center": np.stack([x, y], axis=1),
        "size": np.tile((4.0, 2.0, 1.5), (count, 1)),
        "yaw": np.zeros(count),
        "velocity": np.zeros((count, 2)),
        "label": label.astype(np.int64),
        "score": score,
        "attribute": np.full(count, -1),
        "distance": np.hypot(x, y),
        "visibility": np.full(count, 4),
    }
    return Objects(**{**values, **columns})


@pytest.mark.parametrize(
    ("predicted", "true", "partners"),
    [
        ([(0, 0, CAR, 0.9)], [(0, 1.9, CAR, 1)], [0]),
        ([(0, 0, CAR, 0.9)], [(0, 2.0, CAR, 1)], [-1]),  # nearer than 2 m is wanted
        ([(0, 0, CAR, 0.9)], [(0, 1, TRUCK, 1)], [-1]),
        ([(0, 0, CAR, 0.5), (0, 0.9, CAR, 0.9)], [(0, 0, CAR, 1)], [-1, 0]),  # the best takes it, not the nearest
        ([(0, 0, CAR, 0.9), (0, 0.2, CAR, 0.5)], [(0, 0.3, CAR, 1), (0, 1, CAR, 1)], [0, 1]),  # the next takes the rest
    ],
)
def test_the_best_prediction_takes_the_nearest_free_object(predicted, true, partners):
    assert match(objects(*predicted), objects(*true), 2.0).partner.tolist() == partners


def test_objects_of_other_frames_are_not_taken():
    here = objects((0, 0, CAR, 0.9))
    assert match(here, objects((0, 0, CAR, 1), frame=np.array([1])), 2.0).partner.tolist() == [-1]


def noisy_submission(root, split, path, seed):
    """True boxes moved, turned, doubled and given classes and scores at random."""
    source, rng = open_source(DataOptions(root=str(root), split=split)), np.random.default_rng(seed)
    results = {}
    for number, token in enumerate(source.tokens):
        truth = source.frame(number, lidar=False).truth
        results[token] = [
            {
                "sample_token": token,
                "translation": (truth.center[i] + (*rng.normal(0, 1, 2), 0)).tolist(),
                "size": (truth.size[i, [1, 0, 2]] * rng.uniform(0.7, 1.3, 3)).tolist(),
                "rotation": [np.cos(turn := rng.uniform(0, np.pi)), 0.0, 0.0, np.sin(turn)],
                "velocity": rng.normal(0, 1, 2).tolist(),
                "detection_name": CLASSES[truth.label[i] if rng.random() < 0.9 else rng.integers(10)],
                "detection_score": float(rng.random()),
                "attribute_name": "",
            }
            for i in [*range(len(truth)), *range(len(truth))]
        ]
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    path.write_text(json.dumps({"meta": meta, "results": results}))
    return path


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_average_precision_is_the_devkits(keyframes, tmp_path, split):
    path = noisy_submission(keyframes, split, tmp_path / "results.json", seed=1)
    official = evaluate(path, root=keyframes, version="v1.0-mini", split=split)
    predicted, true = read_objects(open_source(DataOptions(root=str(keyframes), split=split)), read_submission(path))
    assert [entry.ground_truth for entry in official.classes] == np.bincount(true.label, minlength=10).tolist()
    assert [entry.detections for entry in official.classes] == np.bincount(predicted.label, minlength=10).tolist()
    matches = {distance: match(predicted, true, distance) for distance in THRESHOLDS_M}
    assert official.mean_ap > 0.05
    for label, entry in enumerate(official.classes):
        for distance, found in matches.items():
            ours = average_precision(precision_curve(found, label))
            assert ours == pytest.approx(entry.ap_by_distance[distance], abs=1e-6), (entry.name, distance)
    assert mean_ap(matches) == pytest.approx(official.mean_ap_present, abs=1e-6)


def test_predictions_that_took_an_object_of_another_group_do_not_count():
    predicted = objects((0, 0, CAR, 0.9), (20, 0, CAR, 0.8), (40, 0, CAR, 0.7))
    true = objects((0, 0, CAR, 1), (20, 0, CAR, 1))
    found = match(predicted, true, 2.0)
    first = np.array([True, False])
    assert precision_curve(found, CAR, first)[50] == 1.0
    assert precision_curve(found, CAR, ~first)[50] == 1.0
    late = match(objects((0, 0, CAR, 0.9), (40, 0, CAR, 0.95)), objects((0, 0, CAR, 1)), 2.0)
    assert precision_curve(late, CAR)[100] == 0.5
    near = late.predicted.distance < 10
    assert precision_curve(late, CAR, np.array([True]), near)[100] == 1.0


def test_errors_are_the_benchmarks():
    true = objects((0, 0, CAR, 1), (9, 0, BARRIER, 1), attribute=np.array([5, -1]), yaw=np.array([0.0, 0.0]))
    predicted = objects(
        (0.3, 0.4, CAR, 1),
        (9, 0, BARRIER, 1),
        size=np.array([(2.0, 2.0, 1.5), (4.0, 2.0, 1.5)]),
        yaw=np.array([3.0, 3.0]),
        velocity=np.array([(3.0, 4.0), (0.0, 0.0)]),
        attribute=np.array([6, 6]),
    )
    errors = {name.partition(",")[0]: values for name, values in errors_of_pairs(predicted, true).items()}
    np.testing.assert_allclose(errors["translation"], [0.5, 0])
    np.testing.assert_allclose(errors["scale"], [0.5, 0])
    np.testing.assert_allclose(errors["orientation"], [3.0, np.pi - 3.0])  # a barrier has no front
    np.testing.assert_allclose(errors["velocity"], [5, 0])
    np.testing.assert_array_equal(errors["attribute"], [1, np.nan])


def test_confusion_counts_by_class_missed_and_nothing_there():
    predicted = objects((0, 0, TRUCK, 0.9), (50, 0, CAR, 0.9))
    table = confusion(predicted, objects((0, 1, CAR, 1), (9, 0, BARRIER, 1)))
    assert table.sum() == 3
    assert (table[CAR, TRUCK], table[10, CAR], table[BARRIER, 10]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("predicted", "true", "score"),
    [
        ([(0, 0, CAR, 0.6)], [(0, 1, CAR, 1)], 0.6),
        ([(0, 0, CAR, 0.6), (30, 0, CAR, 0.5)], [(0, 1, CAR, 1)], 0.4),
        ([], [(0, 1, CAR, 1)], 0.0),
        ([], [], np.nan),
    ],
)
def test_a_frame_is_as_good_as_its_scores_that_found_something(predicted, true, score):
    np.testing.assert_allclose(frame_scores(match(objects(*predicted), objects(*true), 2.0), 1), [score])
