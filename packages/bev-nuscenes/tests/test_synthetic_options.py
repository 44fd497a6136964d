"""What a world is asked for: seeds and workers, options, occupied places, the command."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from bev_nuscenes.synthetic import WorldOptions, WorldSummary, make_world
from bev_nuscenes.synthetic import world as world_module
from bev_nuscenes.synthetic.schedule import MINI_VAL, make_record, scene_names

OPTIONS = WorldOptions(scenes=1, samples_per_scene=2, seed=1, density=0.0)
TOOL = Path(__file__).resolve().parents[3] / "tools" / "make_synthetic_nuscenes.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> WorldSummary:
    return _make(tmp_path_factory.mktemp("options") / "world", OPTIONS, workers=1)


def _make(out: Path, options: WorldOptions, workers: int) -> WorldSummary:
    return make_world(out, **asdict(options), workers=workers, progress=False)


@pytest.mark.parametrize(("count", "val"), [(1, 0), (2, 1), (5, 1), (8, 2), (10, 2)])
def test_scene_names_fill_both_splits(count: int, val: int) -> None:
    names = scene_names(count)
    assert len(set(names)) == count
    assert len(set(names) & set(MINI_VAL)) == val


def test_same_seed_same_bytes_for_any_number_of_workers(made: WorldSummary, tmp_path: Path) -> None:
    assert _digest(made.root) == _digest(_make(tmp_path / "together", OPTIONS, workers=2).root)


def test_same_seed_same_bytes_with_all_options(tmp_path: Path) -> None:
    asked = {"weather": "night-rain", "sensor_noise": 1.0, "intersections": True, "variety": 1.0}
    options = replace(OPTIONS, samples_per_scene=1, **asked)
    alone, together = (_digest(_make(tmp_path / str(n), options, workers=n).root) for n in (1, 2))
    assert alone == together


def test_another_seed_gives_another_scene() -> None:
    first, second = (make_record(replace(OPTIONS, density=1.0, seed=seed), "scene-0061") for seed in (0, 1))
    assert first.scene.ego != second.scene.ego
    assert first.calibration["CAM_FRONT"].intrinsics[0, 0] != second.calibration["CAM_FRONT"].intrinsics[0, 0]
    assert [actor.path for actor in first.scene.actors] != [actor.path for actor in second.scene.actors]


def test_a_finished_world_is_not_made_again(made: WorldSummary) -> None:
    before = _digest(made.root)
    again = _make(made.root, OPTIONS, workers=1)
    assert made.created and not again.created
    assert again.annotations == made.annotations
    assert (again.samples, again.images, again.sweeps) == (2, 12, 3) == (made.samples, made.images, made.sweeps)
    assert _digest(made.root) == before


def _digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _foreign_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("precious")


def _file(out: Path) -> None:
    out.write_text("precious")


def _other_world(out: Path) -> None:
    out.mkdir()
    (out / "synthetic.json").write_text(json.dumps({"generator": 1, "options": {"scenes": 3}}))


def _broken_manifest(out: Path) -> None:
    out.mkdir()
    (out / "synthetic.json").write_text("{")


@pytest.mark.parametrize("occupy", [_foreign_folder, _file, _other_world, _broken_manifest])
def test_an_occupied_place_is_refused_and_left_alone(occupy: object, tmp_path: Path) -> None:
    out = tmp_path / "out"
    occupy(out)
    before = _digest(tmp_path)
    with pytest.raises(FileExistsError, match="name another folder") as refusal:
        make_world(out, scenes=1, samples_per_scene=1, progress=False)
    assert "\n" not in str(refusal.value)
    assert _digest(tmp_path) == before


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(world_module, "record_frame", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path / "out", scenes=1, samples_per_scene=1, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scenes": 0}, "scenes must be from 1 to 10"),
        ({"scenes": 11}, "scenes must be from 1 to 10"),
        ({"samples_per_scene": 0}, "samples_per_scene must be from 1"),
        ({"sweeps": -1}, "sweeps must be from 0"),
        ({"camera_sweeps": 99}, "camera_sweeps must be from 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"density": 3.5}, "density must be from 0"),
        ({"weather": "hail"}, "weather must be one of clear"),
        ({"sensor_noise": 2}, "sensor_noise must be from 0"),
        ({"variety": -1}, "variety must be from 0"),
        ({"workers": 0}, "workers must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_world(tmp_path / "out", progress=False, **wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not TOOL.is_file(), reason="the command line tool is part of the repository, not of the package")
def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _foreign_folder(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOL), run_name="__main__")
    said = capsys.readouterr()
    assert stop.value.code == 1
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("error: ")
