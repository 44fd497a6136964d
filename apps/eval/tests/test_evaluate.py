"""From options to figures, with a detector that knows the answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bev_eval import EvalOptions
from bev_eval.app import evaluate_recipe
from bev_nuscenes import DataOptions
from bev_nuscenes.unfinished import claim
from bev_zoo import Detections, get_recipe


def _options(data: DataOptions, out: Path, **changes: object) -> EvalOptions:
    base = {"recipe": "bevdet-tiny", "data": data, "untrained": True, "out": out, "workers": 0, "device": "cpu"}
    return EvalOptions(**(base | changes))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_right_answers_score_full_marks(key_frames, oracle, tmp_path, workers) -> None:
    evaluation = evaluate_recipe(_options(key_frames, tmp_path / "out", workers=workers))
    present = [entry for entry in evaluation.metrics.classes if entry.ground_truth]
    assert len(present) > 1
    assert all(entry.ap > 0.99 and entry.errors.translation < 1e-3 for entry in present)
    results = json.loads(evaluation.submission.read_text())
    assert len(results["results"]) == 1
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert figures["recipe"] == "bevdet-tiny"
    assert figures["checkpoint"] is None
    assert figures["mAP"] == evaluation.metrics.mean_ap
    assert set(figures) >= {"NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "classes", "mAP_present", "split"}


def test_score_threshold_leaves_boxes_out(key_frames, oracle, tmp_path) -> None:
    evaluation = evaluate_recipe(_options(key_frames, tmp_path / "out", score_threshold=0.5))
    scores = [
        box["detection_score"]
        for boxes in json.loads(evaluation.submission.read_text())["results"].values()
        for box in boxes
    ]
    assert scores
    assert min(scores) > 0.5


def test_earlier_results_are_kept_unless_told_otherwise(key_frames, oracle, tmp_path) -> None:
    (tmp_path / "metrics.json").write_text("precious")
    with pytest.raises(ValueError, match=r"metrics.json exists already.*--overwrite"):
        evaluate_recipe(_options(key_frames, tmp_path))
    assert (tmp_path / "metrics.json").read_text() == "precious"
    evaluate_recipe(_options(key_frames, tmp_path, overwrite=True))
    assert json.loads((tmp_path / "metrics.json").read_text())["samples"] == 1


def test_what_a_killed_evaluation_left_is_no_result(key_frames, oracle, tmp_path) -> None:
    left = [tmp_path / name for name in (".rows-0.part", ".results_nusc.json.0123abcd.part", "occupancy/.a.npz.1.part")]
    (tmp_path / "occupancy").mkdir()
    for path in left:
        path.write_bytes(b"half")
    evaluate_recipe(_options(key_frames, tmp_path))
    assert not any(path.exists() for path in left)


@pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")
def test_an_evaluation_that_still_runs_is_not_disturbed(key_frames, oracle, tmp_path) -> None:
    with (tmp_path / ".rows-1.part").open("wb") as file:
        claim(file)
        with pytest.raises(ValueError, match=r"rows-1.part exists already"):
            evaluate_recipe(_options(key_frames, tmp_path))


@pytest.mark.parametrize(("in_graph", "size"), [(False, (3, 128, 352)), (True, (900, 1600, 3))])
def test_an_exported_model_is_given_the_images_that_it_takes(key_frames, tmp_path, monkeypatch, in_graph, size) -> None:
    given = []
    nothing = Detections(torch.zeros(0, 9), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    exported = SimpleNamespace(
        recipe=get_recipe("bevdet-tiny"),
        device=torch.device("cpu"),
        manifest=SimpleNamespace(preprocessing=SimpleNamespace(in_graph=in_graph), batch=1),
        predict=lambda images, rig: given.append(images) or [nothing],
    )
    monkeypatch.setitem(sys.modules, "bev_deploy", SimpleNamespace(load=lambda *_, **__: exported))
    evaluate_recipe(_options(key_frames, tmp_path / "out", untrained=False, model=Path("export")))
    assert given[0].shape == (1, 1, 6, *size)
    assert given[0].dtype == (torch.uint8 if in_graph else torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"untrained": False}, "--checkpoint FILE, --model DIR, or --untrained"),
        ({"checkpoint": Path("x.pth")}, "exclude each other"),
        ({"model": Path("x")}, "--checkpoint, --model and --untrained exclude each other"),
        ({"backend": "onnxruntime"}, "--backend onnxruntime runs exported models"),
        ({"untrained": False, "model": Path("x"), "input_size": (64, 96)}, "leave out --input-size"),
        ({"untrained": False, "model": Path("x")}, "x holds no manifest.json"),
        ({"batch_size": 0}, "--batch-size must be above 0"),
        ({"score_threshold": 1.5}, "--score-threshold must be in 0 to 1"),
        ({"data": DataOptions(root="nowhere", version="v9")}, "no validation split is known for version v9"),
    ],
)
def test_contradictions_are_refused_at_once(tmp_path, changes, message) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate_recipe(_options(**({"data": DataOptions(root="nowhere"), "out": tmp_path} | changes)))
