"""An occupancy recipe from options to figures, with a model that knows the answers but for one class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bev_eval import EvalOptions
from bev_eval.app import evaluate_recipe
from bev_nuscenes import DataOptions, open_index, read_occupancy, read_prediction
from bev_zoo import TemporalOptions


def _options(data: DataOptions, out: Path, **changes: object) -> EvalOptions:
    base = {"recipe": "bevdet-tiny-occ", "data": data, "untrained": True, "out": out, "workers": 0, "device": "cpu"}
    return EvalOptions(**(base | changes))


def test_predictions_and_figures(occupied, voxel_oracle, tmp_path) -> None:
    evaluation = evaluate_recipe(_options(occupied, tmp_path / "out"))
    index = open_index(occupied)
    (token,) = index.tokens("mini_val")
    assert evaluation.submission == tmp_path / "out" / "occupancy"
    assert [path.name for path in evaluation.submission.iterdir()] == [f"{token}.npz"]
    semantics = read_occupancy(index.occupancy_path(index.position(token))).semantics
    np.testing.assert_array_equal(read_prediction(evaluation.submission, token), np.where(semantics == 4, 3, semantics))
    buses, cars = (int((semantics == label).sum()) for label in (3, 4))
    expected = round(100 * buses / (buses + cars), 2)
    assert (evaluation.metrics.classes["car"], evaluation.metrics.classes["bus"]) == (0.0, expected)
    assert evaluation.metrics.rays is None
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (figures["recipe"], figures["checkpoint"], figures["stream"]) == ("bevdet-tiny-occ", None, False)
    assert (figures["mIoU"], figures["IoU"]["bus"], figures["samples"]) == (evaluation.metrics.miou, expected, 1)
    assert not (tmp_path / "out" / "results_nusc.json").exists()


def test_ray_iou_on_request(occupied, voxel_oracle, tmp_path) -> None:
    evaluation = evaluate_recipe(_options(occupied, tmp_path / "out", ray_iou=True))
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["RayIoU"] == evaluation.metrics.rays.mean
    assert evaluation.metrics.rays.by_class["car"] == (0.0, 0.0, 0.0)


def test_a_stream_gets_one_frame_with_its_time_and_scene(occupied, voxel_oracle, tmp_path) -> None:
    voxel_oracle.recipe = replace(voxel_oracle.recipe, temporal=TemporalOptions(history=1))
    evaluation = evaluate_recipe(_options(occupied, tmp_path / "out", stream=True))
    index = open_index(occupied)
    (position,) = index.split_positions("mini_val")
    assert voxel_oracle.calls == [((1, 1), 1, index.seconds(position), "scene-0103")]
    assert evaluation.metrics.samples == 1
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["stream"] is True


def test_earlier_predictions_are_kept_unless_told_otherwise(occupied, voxel_oracle, tmp_path) -> None:
    old = tmp_path / "out" / "occupancy" / "old.npz"
    old.parent.mkdir(parents=True)
    old.write_text("precious")
    with pytest.raises(ValueError, match=r"occupancy/old.npz exists already.*--overwrite"):
        evaluate_recipe(_options(occupied, tmp_path / "out"))
    assert old.read_text() == "precious"
    evaluate_recipe(_options(occupied, tmp_path / "out", overwrite=True))
    assert not old.exists()


def test_missing_ground_truth_is_noticed_before_predicting(occupied, voxel_oracle, tmp_path) -> None:
    index = open_index(occupied)
    index.occupancy_path(index.split_positions("mini_val")[0]).unlink()
    with pytest.raises(ValueError, match=r"labels.npz is missing; download the folder gts"):
        evaluate_recipe(_options(occupied, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_threshold": 0.1}, "--score-threshold is about boxes, and bevdet-tiny-occ predicts voxels"),
        ({"recipe": "bevdet-tiny", "ray_iou": True}, "--ray-iou is about voxels, and bevdet-tiny predicts boxes"),
        ({"recipe": "bevdet-tiny", "stream": True}, "--stream needs a recipe with history, and bevdet-tiny sees one"),
        ({"stream": True, "batch_size": 2}, "--stream takes one frame after the other: use --batch-size 1, not 2"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_the_data_are_opened(tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_recipe(_options(DataOptions(root="nowhere"), tmp_path / "out", **changes))
