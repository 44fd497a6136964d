"""Evaluation with own boxes, by the matching and averaging of the official devkit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..devkit import import_devkit
from ..errors import DataError
from ..evaluation import ClassMetrics, Metrics, TpErrors, metrics_of, quiet, read_submission
from ..index import NuscenesIndex
from ..submission import MAX_BOXES, boxes_in_global
from ..taxonomy import ATTRIBUTES, CLASSES
from .check import check_description
from .index import OWN, index_of
from .problems import raise_errors
from .read import read_description

__all__ = ["evaluate_own"]


def evaluate_own(submission_path: str | Path, *, root: str | Path, split: str) -> Metrics:
    """Evaluate a submission on own data.

    Configuration, matching and figures are those of nuScenes, its distance limits per class included; boxes with
    ``points: 0`` do not count. Two differences: there are no bicycle racks to leave out, and what no box of a class
    says (velocity, attribute) is not measured for it instead of being an error of 1. NDS needs all five errors.

    Args:
        submission_path: JSON file in the official format.
        root: folder of the data.
        split: split whose samples the submission holds, all of them and no others.

    Raises:
        DataError: wrong root or split; no boxes; submission missing, not JSON, not of this split's samples, or
            with boxes that the devkit would refuse; the devkit is not installed.
    """
    try:
        module = import_devkit("nuscenes.eval.detection.evaluate")
    except ImportError as error:
        raise DataError(f"evaluation is the devkit's, also of own boxes; predictions need none: {error}") from None
    results = read_submission(Path(submission_path))
    data, problems = read_description(root)
    raise_errors([*problems, *check_description(data)])
    index = index_of(data, unknown_velocity=math.nan)
    positions = index.split_positions(split)
    _check_samples(results, index.tokens(split), split)
    truth = {index.token(position): _truth(index, position) for position in positions}
    if not any(truth.values()):
        raise DataError(f"split {split} of {data.file} has no boxes to evaluate against; add boxes, or only predict")
    origins = {index.token(position): index.lidar.ego_to_global[position, :3, 3] for position in positions}
    evaluation = _evaluation(truth, results, origins)
    with quiet():
        figures = module.DetectionEval.evaluate(evaluation)[0]
    return _only_known(metrics_of(evaluation, figures, OWN, split), truth)


def _check_samples(results: dict[str, list], wanted: list[str], split: str) -> None:
    lacking, foreign = set(wanted) - set(results), set(results) - set(wanted)
    if lacking or foreign:
        raise DataError(
            f"the submission lacks {len(lacking)} of {len(wanted)} samples of {split} and has {len(foreign)} others, "
            f"for instance {min(lacking | foreign)}; predict this split of this data"
        )
    most = max(map(len, results.values()), default=0)
    if most > MAX_BOXES:
        raise DataError(f"the submission has {most} boxes for one sample, {MAX_BOXES} are allowed; keep the best")


def _truth(index: NuscenesIndex, position: int) -> list[dict[str, Any]]:
    """Boxes of a frame in the words of the devkit."""
    rows, table = index.box_rows(position), index.boxes
    boxes, pose = table.boxes[rows].astype(np.float64), index.box_to_global(position)
    centres, turns, velocities = boxes_in_global(boxes, pose)
    return [
        {
            "sample_token": index.token(position),
            "translation": centres[number].tolist(),
            "size": boxes[number, [4, 3, 5]].tolist(),
            "rotation": turns[number].tolist(),
            "velocity": velocities[number].tolist(),
            "detection_name": CLASSES[table.labels[row]],
            "attribute_name": "" if table.attributes[row] < 0 else ATTRIBUTES[table.attributes[row]],
        }
        for number, row in enumerate(rows)
    ]


def _evaluation(
    truth: dict[str, list[dict]], results: dict[str, list[dict]], origins: dict[str, np.ndarray]
) -> SimpleNamespace:
    """What the devkit's DetectionEval holds once it has read its tables."""
    config = import_devkit("nuscenes.eval.common.config").config_factory("detection_cvpr_2019")
    eval_boxes = import_devkit("nuscenes.eval.common.data_classes").EvalBoxes
    box = import_devkit("nuscenes.eval.detection.data_classes").DetectionBox

    def in_range(records: dict[str, list[dict]]) -> Any:
        boxes = eval_boxes()
        for token in truth:
            found = [box.deserialize(_seen_from(record, origins[token])) for record in records[token]]
            boxes.add_boxes(token, [b for b in found if b.ego_dist < config.class_range[b.detection_name]])
        return boxes

    try:
        predicted = in_range(results)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"a box of the submission is not as nuscenes-devkit takes it: {type(error).__name__} {error}; "
            "write it with SubmissionWriter"
        ) from None
    return SimpleNamespace(
        gt_boxes=in_range(truth),
        pred_boxes=predicted,
        cfg=config,
        verbose=False,
        sample_tokens=list(truth),
    )


def _seen_from(record: dict[str, Any], origin: np.ndarray) -> dict[str, Any]:
    return {**record, "ego_translation": (np.array(record["translation"]) - origin).tolist()}


def _only_known(metrics: Metrics, truth: dict[str, list[dict]]) -> Metrics:
    """The figures with nan where the ground truth does not say what an error would be measured against."""
    boxes = [box for frame in truth.values() for box in frame]
    moving = {box["detection_name"] for box in boxes if not np.isnan(box["velocity"]).any()}
    described = {box["detection_name"] for box in boxes if box["attribute_name"]}
    classes = tuple(_class_known(entry, entry.name in moving, entry.name in described) for entry in metrics.classes)
    columns = np.array([entry.errors for entry in classes])
    with quiet():
        means = TpErrors(*np.nanmean(columns, axis=0).tolist())
    means = means._replace(
        velocity=means.velocity if moving else math.nan, attribute=means.attribute if described else math.nan
    )
    scores = [max(0.0, 1 - error) for error in means]
    nds = math.nan if any(math.isnan(error) for error in means) else (5 * metrics.mean_ap + sum(scores)) / 10
    return replace(metrics, classes=classes, errors=means, nds=nds)


def _class_known(entry: ClassMetrics, velocity: bool, attribute: bool) -> ClassMetrics:
    if not entry.ground_truth:
        return entry
    errors = entry.errors
    return entry._replace(
        errors=errors._replace(
            velocity=errors.velocity if velocity else math.nan, attribute=errors.attribute if attribute else math.nan
        )
    )
