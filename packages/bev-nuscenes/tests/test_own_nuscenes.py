"""nuScenes data in the own format reads, and is evaluated, as nuScenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bev_nuscenes import (
    BevAugmentation,
    DataError,
    Draw,
    ImageAugmentation,
    NuscenesDataset,
    NuscenesIndex,
    SubmissionWriter,
    build_index,
    evaluate,
)
from bev_nuscenes.own import build_own_index
from bev_nuscenes.own.__main__ import main
from bev_nuscenes.own.export import export_scenes

SCENES = ["scene-0061", "scene-0103"]


@pytest.fixture(scope="module")
def exported(tiny_index: NuscenesIndex, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported")
    export_scenes(tiny_index, SCENES, out)
    return out


@pytest.mark.parametrize(("split", "own_split"), [("mini_train", "train"), ("mini_val", "val")])
@pytest.mark.parametrize("training", [False, True])
def test_samples_are_the_same_to_the_last_bit(
    tiny_index: NuscenesIndex, exported: Path, split: str, own_split: str, training: bool
) -> None:
    own = build_own_index(exported)
    options = {
        "input_size": (32, 88),
        "frames": 2,
        "training": training,
        "with_depth": True,
        "image_augmentation": ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True),
        "bev_augmentation": BevAugmentation((-22.5, 22.5), (0.95, 1.05), flip_x=0.5, flip_y=0.5),
    }
    wanted, found = (NuscenesDataset(*source, **options) for source in ((tiny_index, split), (own, own_split)))
    ours = {tiny_index.seconds(k): i for i, k in enumerate(wanted.positions)}
    assert len(found) == 3
    for i, position in enumerate(found.positions):
        j = ours[own.seconds(position)]
        if training and i != j:
            continue  # draws depend on the place in the split
        first, second = wanted[Draw(j, 0)], found[Draw(i, 0)]
        for name in ("images", "boxes", "labels", "depth", "box_to_global"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        assert all(torch.equal(first.cameras[name], second.cameras[name]) for name in first.cameras)
        assert (first.timestamp, first.scene) == (second.timestamp, second.scene)


def test_figures_are_those_of_the_devkit(
    tiny_root: Path, tiny_index: NuscenesIndex, exported: Path, tmp_path: Path
) -> None:
    """To the rounding of boxes, which an index keeps in single precision."""
    own = build_own_index(exported)
    files = [tmp_path / "nuscenes.json", tmp_path / "own.json"]
    _submit(tiny_index, "mini_val", files[0])
    _submit(own, "val", files[1])
    wanted = evaluate(files[0], root=tiny_root, version="v1.0-mini", split="mini_val")
    found = evaluate(files[1], root=exported, version="own", split="val", out_dir=tmp_path)
    assert found.mean_ap_present == pytest.approx(wanted.mean_ap_present, abs=1e-12)
    assert 0.1 < found.mean_ap_present < 1
    for first, second in zip(wanted.classes, found.classes, strict=True):
        assert second[:2] + second[4:] == pytest.approx(first[:2] + first[4:], abs=1e-9)
        np.testing.assert_allclose(second.errors, first.errors, atol=1e-6)
    assert found.nds == pytest.approx(wanted.nds, abs=1e-6)
    assert json.loads((tmp_path / "metrics_summary.json").read_text())["mAP"] == pytest.approx(wanted.mean_ap)


def _submit(index: NuscenesIndex, split: str, path: Path) -> None:
    """Ground truth with noise, some of it lost, and false alarms."""
    rng = np.random.default_rng(1)
    with SubmissionWriter(path, index.tokens(split)) as writer:
        for k in sorted(index.split_positions(split), key=index.seconds):
            rows = index.box_rows(k)[1:]
            boxes = index.boxes.boxes[rows] + rng.normal(0, 0.4, (len(rows), 9)) * [1, 1, 1, 0, 0, 0, 1, 1, 1]
            false = boxes[:1] + np.eye(9)[1] * 12
            labels = index.boxes.labels[rows]
            writer.add(
                index.token(k),
                np.concatenate([boxes, false]),
                rng.uniform(size=len(rows) + 1),
                np.concatenate([labels, labels[:1]]),
                index.box_to_global(k),
            )


def test_what_the_boxes_do_not_say_is_not_measured(exported: Path, tmp_path: Path) -> None:
    for name in ("images", "lidar"):
        (tmp_path / name).symlink_to(exported / name)
    description = json.loads((exported / "dataset.json").read_text())
    for scene in description["scenes"]:
        for frame in scene["frames"]:
            for box in frame.get("boxes", []):
                for field in ("velocity", "track", "attribute"):
                    box.pop(field, None)
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    _submit(build_own_index(tmp_path), "val", tmp_path / "own.json")
    found = evaluate(tmp_path / "own.json", root=tmp_path, version="own", split="val")
    assert np.isnan([found.nds, found.errors.velocity, found.errors.attribute]).all()
    assert found.mean_ap_present > 0.1
    assert "NDS -" in found.table()


@pytest.mark.parametrize(
    ("split", "change", "words"),
    [
        ("test", None, "own has no split 'test'; it has all, train, val"),
        ("val", lambda results: results.popitem(), "lacks 1 of 3 samples of val and has 0 others"),
        ("val", lambda results: results.update(x=[]), "lacks 0 of 3 samples of val and has 1 others, for instance x"),
        ("val", lambda results: min(results.items())[1].extend([{}] * 500), "boxes for one sample, 500 are allowed"),
        ("val", lambda results: results.update({min(results): None}), "are no lists of boxes by sample"),
        ("val", lambda results: min(results.items())[1][0].pop("size"), "not as nuscenes-devkit takes it: KeyError"),
    ],
)
def test_submissions_that_do_not_fit(exported: Path, tmp_path: Path, split: str, change, words: str) -> None:
    _submit(build_own_index(exported), "val", tmp_path / "own.json")
    content = json.loads((tmp_path / "own.json").read_text())
    if change is not None:
        change(content["results"])
    (tmp_path / "own.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        evaluate(tmp_path / "own.json", root=exported, version="own", split=split)


def test_own_data_that_no_program_reads_is_not_evaluated(exported: Path, tmp_path: Path) -> None:
    description = json.loads((exported / "dataset.json").read_text())
    for scene in description["scenes"]:
        for frame in scene["frames"]:
            del frame["images"]["CAM_BACK"]
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    (tmp_path / "own.json").write_text('{"meta": {}, "results": {}}')
    with pytest.raises(DataError, match="no frame has an image of every camera"):
        evaluate(tmp_path / "own.json", root=tmp_path, version="own", split="val")


def test_without_the_devkit_one_line_says_so(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _submit(build_own_index(exported), "val", tmp_path / "own.json")
    monkeypatch.setitem(__import__("sys").modules, "nuscenes.eval.detection.evaluate", None)
    monkeypatch.setitem(__import__("sys").modules, "nuscenes", None)
    with pytest.raises(DataError, match=r"predictions need none: nuscenes-devkit is needed for this: pip install"):
        evaluate(tmp_path / "own.json", root=exported, version="own", split="val")


def test_command_exports_and_checks(tiny_root: Path, tmp_path: Path, capsys) -> None:
    assert main(["from-nuscenes", str(tiny_root), str(tmp_path / "out"), "--scenes", *SCENES]) == 0
    assert "6 cameras, 2 scenes, 6 frames" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "out")]) == 0
    assert main(["from-nuscenes", str(tiny_root), str(tmp_path / "other"), "--scenes", "scene-9"]) == 2
    assert "has no scene 'scene-9'" in capsys.readouterr().err


def test_scenes_keep_their_own_rigs(own_root: Path, edit_table, tmp_path: Path) -> None:
    def add(records: list[dict]) -> None:
        other = dict(next(r for r in records if r["token"] == "calibration-CAM_BACK"), token="other")
        records.append(other | {"translation": [0.0, 0.0, 2.0]})

    def use(records: list[dict]) -> None:
        for record in records:
            if record["token"].startswith("scene-0103") and record["token"].endswith("CAM_BACK"):
                record["calibrated_sensor_token"] = "other"

    edit_table("calibrated_sensor", add)
    edit_table("sample_data", use)
    export_scenes(build_index(own_root, "v1.0-mini", progress=False), SCENES, tmp_path / "out")
    index = build_own_index(tmp_path / "out")
    back = index.info.cameras.index("CAM_BACK")
    for position in range(len(index)):
        place = [0.0, 0.0, 2.0] if index.scene_name(position) == "scene-0103" else [1.5, 0.0, 1.6]
        np.testing.assert_array_equal(index.cameras.cam_to_ego[position, back, :3, 3], place)
