"""The program as it is called: on a fabricated data set, on the two real key frames, and with everything wrong."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_nuscenes import CLASSES
from bev_vis.__main__ import main
from bev_vis.page import Layout
from bev_vis.palette import NUSCENES
from bev_vis.selection import find_sample

ORANGE = np.array(NUSCENES.classes[CLASSES.index("car")]) * 255


def run(*arguments):
    return main(["render", *map(str, arguments)])


def fails(capsys, *arguments):
    """Run with a mistake; returns the one line that is said about it."""
    assert run(*arguments) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.startswith("bev-vis: error: ")]
    assert "Traceback" not in said
    assert len(lines) == 1
    assert said.endswith(lines[0] + "\n")
    return lines[0]


def count_coloured(picture, rectangle):
    left, top, width, height = rectangle
    panel = picture[top : top + height, left : left + width].astype(int)
    return int((np.abs(panel - ORANGE).max(axis=-1) < 30).sum())


def test_a_frame_is_drawn(world, tmp_path, capsys, truth_as_results):
    results = truth_as_results(world, "mini_val", tmp_path / "results.json")
    run(results, "--data.root", world, "--sample", 1, "--out", tmp_path / "new folder" / "frame.png")
    out = capsys.readouterr().out.strip()
    assert out == str(tmp_path / "new folder" / "frame.png")
    picture = np.asarray(Image.open(out))
    layout = Layout()
    assert picture.shape == (*layout.size[::-1], 3)
    assert 2000 <= picture.shape[1] <= 2600
    seen = [count_coloured(picture, layout.camera(number)) > 100 for number in range(6)]
    assert seen == [False, True, False, False, False, False]  # the car is ahead, see the data set
    assert count_coloured(picture, layout.map) > 30


def test_without_a_name_the_picture_lands_here_and_is_called_after_the_frame(world, tmp_path, capsys, truth_as_results):
    results = truth_as_results(world, "mini_val", tmp_path / "results.json")
    run(results, "--data.root", world, "--sample", "sample-1", "--no-lidar")
    assert capsys.readouterr().out.strip() == "scene-0916_sample-1.png"
    assert (tmp_path / "scene-0916_sample-1.png").is_file()


def test_the_score_threshold_hides_boxes(world, tmp_path, truth_as_results):
    results = truth_as_results(world, "mini_val", tmp_path / "results.json", score=0.25)
    counts = []
    for threshold in (0.2, 0.3):
        run(results, "--data.root", world, "--score-threshold", threshold, "--out", "frame.png")
        counts.append(count_coloured(np.asarray(Image.open("frame.png")), Layout().camera(1)))
    assert counts[0] > 100
    assert counts[1] == 0


def test_a_data_set_without_lidar_files_is_drawn(world, tmp_path, truth_as_results):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("v1.0-mini", "maps"):
        (bare / name).symlink_to(world / name)
    (bare / "samples").mkdir()
    for folder in (world / "samples").glob("CAM_*"):
        (bare / "samples" / folder.name).symlink_to(folder)
    run(truth_as_results(bare, "mini_val", tmp_path / "results.json"), "--data.root", bare, "--out", "bare.png")
    run(tmp_path / "results.json", "--data.root", world, "--out", "full.png")
    bare_picture, full_picture = (np.asarray(Image.open(f"{name}.png")).astype(int) for name in ("bare", "full"))
    changed = np.argwhere((bare_picture != full_picture).any(axis=-1))
    assert 1 <= len(changed) <= 4  # the one point of the fabricated sweep


@pytest.mark.parametrize("split", ["mini_train", "mini_val"])
def test_the_real_key_frames_are_drawn(keyframes, tmp_path, split, truth_as_results):
    results = truth_as_results(keyframes, split, tmp_path / "results.json")
    run(results, "--data.root", keyframes, "--data.split", split, "--out", "frame.png")
    picture = np.asarray(Image.open("frame.png"))
    assert count_coloured(picture, Layout().camera(1)) > 100
    assert count_coloured(picture, Layout().map) > 100


def test_help_names_units_and_defaults(capsys):
    with pytest.raises(SystemExit) as exit_:
        run("--help")
    assert exit_.value.code == 0
    said = capsys.readouterr().out
    for part in ("--data.root", "--sample", "--score-threshold", "metres", "51.2", "0.3", "--out", "--checkpoint"):
        assert part in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to draw: give RESULTS"),
        (("--recipe", "bevdet-tiny"), "--checkpoint"),
        (("results.json", "--checkpoint", "weights.safetensors"), "exclude each other"),
        (("--model", "folder", "--checkpoint", "weights.safetensors"), "exclude each other"),
        (("results.json", "--backend", "tensorrt"), "--backend tensorrt runs exported models"),
        (("--model", "nowhere"), "nowhere holds no manifest.json"),
        (("--model", "nowhere", "--device", "cuda:1"), "an exported model runs on cpu or cuda"),
        (("nowhere.json",), "nowhere.json is missing"),
        (("picture.json",), "is not JSON"),
        (("metrics.json",), "is not a nuScenes submission"),
        (("results.json", "--sample", "2"), "--sample 2 is out of range: mini_val has the samples 0 to 1"),
        (("results.json", "--sample=-1"), "--sample -1 is out of range"),
        (("results.json", "--sample", "sample-9"), "--sample sample-9 is not in mini_val.*for example sample-"),
        (("half.json", "--sample", "1"), "sample sample-1 is not in the results; they hold 1, for example sample-0"),
        (("results.json", "--data.split", "mini_train"), "mini_train"),
        (("results.json", "--data.split", "vall"), "vall"),
        (("results.json", "--data.root", "nowhere"), "nowhere"),
        (("results.json", "--data.version", "v9"), "v9"),
        (("results.json", "--out", "results.json/frame.png"), "cannot be written.*choose another --out"),
        (("results.json", "--out", "frame.tiff"), "must end in .png, .jpg, .mp4 or .gif"),
        (("results.json", "--samples", "0:2", "--out", "frame.png"), "is one picture, 2 frames are to be drawn"),
        (("results.json", "--samples", "2:"), "--samples 2: is empty: mini_val has the samples 0 to 1"),
        (("results.json", "--samples", "3"), "--samples wants FIRST:END"),
        (("results.json", "--samples", "0:1", "--scene", "scene-0103"), "--samples and --scene exclude each other"),
        (("results.json", "--scene", "scene-0104"), "--scene scene-0104 is not in mini_val.*for example scene-0103"),
        (("results.json", "--layers", "depth"), "--layers depth looks into a model"),
        (("results.json", "--fps", "0"), "--fps must be above 0"),
        (("results.json", "--width", "3"), "--width must lie from 64"),
        ((".",), "holds neither results_nusc.json nor occupancy"),
        (("results.json", "--range", "0"), "--range"),
        (("results.json", "--score-threshold", "30"), "--score-threshold must lie from 0 to 1"),
        (("--checkpoint", "nowhere.safetensors"), "no checkpoint file at nowhere.safetensors"),
        (("--recipe", "bevdet-tiny", "--checkpoint", "results.json"), "results.json"),
        (("--recipe", "bevdet-tiney", "--checkpoint", "results.json"), "bevdet-tiny"),
        (("--recipe", "bevdet-tiny", "--checkpoint", "results.json", "--device", "cuda:99"), "--device cuda:99"),
        (("--recipe", "bevdet-tiny", "--checkpoint", "results.json", "--device", "gpu"), "--device gpu"),
    ],
)
def test_a_mistake_is_one_line(world, tmp_path, capsys, arguments, message, truth_as_results):
    truth_as_results(world, "mini_val", tmp_path / "results.json")
    Path("half.json").write_text(json.dumps({"results": {"sample-0": []}}))
    Path("picture.json").write_bytes(b"\xff\xd8\xff\xe0")
    Path("metrics.json").write_text('{"mean_ap": 0.3}')
    capsys.readouterr()
    root = () if "--data.root" in arguments else ("--data.root", world)
    said = fails(capsys, *arguments, *root)
    assert re.search(message, said), said


def test_a_missing_picture_is_one_line(world, tmp_path, capsys, truth_as_results):
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "v1.0-mini").symlink_to(world / "v1.0-mini")
    (tmp_path / "hollow" / "maps").symlink_to(world / "maps")
    results = truth_as_results(world, "mini_val", tmp_path / "results.json")
    capsys.readouterr()
    assert "is missing" in fails(capsys, results, "--data.root", tmp_path / "hollow")


def test_reading_results_loads_no_model(world, tmp_path, monkeypatch, truth_as_results):
    results = truth_as_results(world, "mini_val", tmp_path / "results.json")
    monkeypatch.setitem(sys.modules, "bev_zoo", None)  # importing it would now fail
    run(results, "--data.root", world)


@pytest.mark.parametrize(
    ("wanted", "place"), [("0", 0), ("1", 1), ("ab", 0), ("123", 1)], ids=["first", "last", "token", "numeric token"]
)
def test_samples_are_found_by_place_and_token(wanted, place):
    assert find_sample(wanted, ["ab", "123"], "val") == place
