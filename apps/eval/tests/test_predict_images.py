"""bev-eval predict: from images of own cameras to boxes, with neither nuScenes nor its devkit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_eval.app import evaluate_recipe
from bev_eval.image_options import PredictOptions
from bev_eval.options import EvalOptions
from bev_eval.predict_images import predict_images
from bev_nuscenes import CLASSES, OCCUPANCY_SHAPE, DataOptions, open_index
from bev_nuscenes.own.export import export_scenes
from bev_zoo import create_model, get_recipe, save_checkpoint

SCENES = ["scene-0061", "scene-0103"]


@pytest.fixture
def own(key_frames: DataOptions, tmp_path: Path) -> Path:
    """The real key frames in the own format, one scene for training and one for validation."""
    export_scenes(open_index(key_frames), SCENES, tmp_path / "own")
    return tmp_path / "own"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Weights of bevdet-tiny that find something: its heatmaps start from a score of a half."""
    return _checkpoint("bevdet-tiny", tmp_path)


def _checkpoint(recipe: str, folder: Path) -> Path:
    torch.manual_seed(3)
    model = create_model(get_recipe(recipe))
    for name, parameter in model.named_parameters():
        if name.endswith("heatmap.1.bias"):
            parameter.data.zero_()
    save_checkpoint(model, folder / f"{recipe}.safetensors")
    return folder / f"{recipe}.safetensors"


def _options(own: Path, weights: Path | None, **changes: object) -> PredictOptions:
    base = PredictOptions(
        images=own, recipe="bevdet-tiny", checkpoint=weights, out=own.parent / "out", workers=0, device="cpu"
    )
    return replace(base, **changes)


def _frames(path: Path) -> list[dict]:
    return json.loads(path.read_text())["frames"]


def test_boxes_are_those_of_the_nuscenes_reader_to_the_last_bit(
    own: Path, key_frames: DataOptions, checkpoint: Path, tmp_path: Path
) -> None:
    data = replace(key_frames, split="mini_val")
    submission = evaluate_recipe(
        EvalOptions(recipe="bevdet-tiny", data=data, checkpoint=checkpoint, out=tmp_path / "n", workers=0, device="cpu")
    ).submission
    (wanted,) = json.loads(submission.read_text())["results"].values()
    predicted = predict_images(_options(own, checkpoint, split="val"))
    (frame,) = _frames(predicted.path)
    assert len(frame["boxes"]) == len(wanted) == predicted.boxes > 10
    for first, second in zip(wanted, frame["boxes"], strict=True):
        assert second["class"] == first["detection_name"]
        assert second["score"] == first["detection_score"]
        assert second["global"]["centre"] == first["translation"]
        assert second["global"]["rotation"] == first["rotation"]
        assert second["global"]["velocity"] == first["velocity"]
        assert [second["size"][axis] for axis in (1, 0, 2)] == first["size"]


def test_the_file_explains_itself(own: Path, checkpoint: Path) -> None:
    predicted = predict_images(_options(own, checkpoint, score_threshold=0.5))
    content = json.loads(predicted.path.read_text())
    assert content["meta"]["recipe"] == "bevdet-tiny"
    assert content["meta"]["classes"] == list(CLASSES)
    assert content["meta"]["units"]["size"] == "metres: length, width, height"
    assert [frame["frame"] for frame in content["frames"]] == ["scene-0061-000000", "scene-0103-000000"]
    for frame in content["frames"]:
        pose = np.array(frame["ego_to_global"])
        assert len(frame["images"]) == 6
        for box in frame["boxes"]:
            assert box["score"] >= 0.5
            centre = pose[:3, :3] @ box["ego"]["centre"] + pose[:3, 3]
            np.testing.assert_allclose(box["global"]["centre"], centre, atol=1e-9)
    assert sum(len(frame["boxes"]) for frame in content["frames"]) == predicted.boxes


@pytest.mark.parametrize("cameras", [1, 4])
def test_any_number_of_cameras(own: Path, checkpoint: Path, cameras: int) -> None:
    """Six are in the tests above. Without listed frames the images of the folders are found."""
    description = json.loads((own / "dataset.json").read_text())
    kept = dict(list(description["cameras"].items())[:cameras])
    for name in kept:
        for image in sorted((own / "images" / name).iterdir())[1:]:
            image.unlink()
    (own / "calib.json").write_text(json.dumps({"cameras": kept}))
    predicted = predict_images(_options(own, checkpoint, calib=own / "calib.json"))
    (frame,) = _frames(predicted.path)
    assert (frame["frame"], len(frame["images"])) == ("images-000000", cameras)
    assert predicted.boxes > 10


def test_history_is_streamed_scene_by_scene(own: Path, tmp_path: Path) -> None:
    """Two scenes of the same images at other times: what one saw does not reach into the other."""
    description = json.loads((own / "dataset.json").read_text())
    first = description["scenes"][0]
    later = json.loads(json.dumps(first))
    later["name"] = "again"
    (frame,) = later["frames"]
    after = json.loads(json.dumps(frame))
    for reading in [after, *after["images"].values(), after["lidar"]]:
        reading["timestamp"] += 0.5
        reading["ego_to_global"][0][3] += 1.0
    later["frames"].append(after)
    description |= {"scenes": [first, later], "splits": None}
    (own / "dataset.json").write_text(json.dumps(description))
    checkpoint = _checkpoint("bevdet-tiny-4d", tmp_path)
    predicted = predict_images(_options(own, checkpoint, recipe="bevdet-tiny-4d"))
    alone, anew, moved = _frames(predicted.path)
    assert alone["boxes"] == anew["boxes"] != []
    assert [box["ego"] for box in moved["boxes"]] != [box["ego"] for box in anew["boxes"]]


def test_voxels(own: Path) -> None:
    predicted = predict_images(_options(own, None, untrained=True, recipe="bevdet-tiny-occ", split="val"))
    with np.load(predicted.path / "scene-0103-000000.npz") as archive:
        assert archive["arr_0"].shape == OCCUPANCY_SHAPE
    grid = json.loads((predicted.path / "grid.json").read_text())
    assert (grid["cell_m"], grid["frame"], len(grid["classes"])) == (0.4, "ego", 18)


def test_a_camera_unlike_those_of_training_is_warned_about(own: Path, checkpoint: Path) -> None:
    description = json.loads((own / "dataset.json").read_text())
    intrinsics = description["scenes"][1]["cameras"]["CAM_FRONT"]["intrinsics"]  # drives have their own
    intrinsics[0][0] = intrinsics[1][1] = 400.0
    (own / "dataset.json").write_text(json.dumps(description))
    with pytest.warns(UserWarning, match="camera CAM_FRONT sees 127 degrees, those of nuScenes 65 to 90"):
        predict_images(_options(own, checkpoint))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": None}, "give --checkpoint FILE, --model DIR, or --untrained"),
        ({"recipe": "bevdet-tyni"}, "unknown recipe 'bevdet-tyni'"),
        ({"split": "test"}, "own has no split 'test'"),
        ({"calib": Path("none.yaml")}, "none.yaml is missing"),
        ({"images": Path("/nowhere")}, "/nowhere is not a folder"),
        ({"score_threshold": 2.0}, "--score-threshold must be in 0 to 1"),
    ],
)
def test_mistakes(own: Path, checkpoint: Path, changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predict_images(_options(own, checkpoint, **changes))
    assert not (own.parent / "out").exists()


def test_earlier_results_are_kept(own: Path, checkpoint: Path) -> None:
    (own.parent / "out").mkdir()
    (own.parent / "out" / "predictions.json").write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        predict_images(_options(own, checkpoint))
    assert predict_images(_options(own, checkpoint, overwrite=True)).boxes > 0


def test_program_runs_without_the_devkit(own: Path, checkpoint: Path, tmp_path: Path) -> None:
    """``nuscenes`` cannot be imported in this process."""
    block = "import sys; sys.modules['nuscenes'] = None; from bev_eval.__main__ import main; sys.exit(main())"
    arguments = ["predict", "--images", own, "--calib", own / "dataset.json", "--recipe", "bevdet-tiny"]
    arguments += ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--workers", 0, "--device", "cpu"]
    told = subprocess.run(
        [sys.executable, "-c", block, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr
    assert f"boxes of 2 frames in {tmp_path / 'out' / 'predictions.json'}" in told.stdout
    assert len(_frames(tmp_path / "out" / "predictions.json")) == 2


def test_evaluation_with_own_boxes(own: Path, checkpoint: Path, tmp_path: Path) -> None:
    data = DataOptions(root=str(own), version="own", index=tmp_path / "own.npz")
    evaluation = evaluate_recipe(
        EvalOptions(recipe="bevdet-tiny", data=data, checkpoint=checkpoint, out=tmp_path / "e", workers=0, device="cpu")
    )
    assert (evaluation.metrics.version, evaluation.metrics.split, evaluation.metrics.samples) == ("own", "val", 1)
    assert sum(entry.ground_truth for entry in evaluation.metrics.classes) > 20
    assert sum(entry.detections for entry in evaluation.metrics.classes) > 0
