"""What the user sees of bev-eval: help, one-line errors, the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bev_eval.__main__ import main


@pytest.fixture
def bev_eval(monkeypatch, capsys):
    """Runs the program in this process: bev_eval("recipe", "--option") -> status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bev-eval", *map(str, arguments)])
        try:
            status = main()
        except SystemExit as leaving:
            status = leaving.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def _error(err: str) -> str:
    """The last line, which must be the only one the program itself wrote."""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def test_help_names_options_units_and_defaults(bev_eval) -> None:
    status, out, _ = bev_eval("--help")
    assert status == 0
    for text in (
        "--checkpoint FILE",
        "--model DIR",
        "--backend",
        "--data.root",
        "--untrained",
        "--overwrite",
        "--input-size H W",
        "pixels",
        "--ray-iou",
        "--stream",
        "--device",
    ):
        assert text in out


def test_table_and_figures(bev_eval, key_frames, oracle, tmp_path) -> None:
    status, out, _ = bev_eval(
        *("bevdet-tiny", "--untrained", "--out", tmp_path / "out", "--workers", 0),
        *("--data.root", key_frames.root, "--data.index", key_frames.index),
    )
    assert status == 0
    assert "mAP over classes present" in out
    assert "pedestrian" in out
    assert str(tmp_path / "out" / "metrics.json") in out


def test_table_of_an_occupancy_recipe(bev_eval, occupied, voxel_oracle, tmp_path) -> None:
    status, out, err = bev_eval(
        *("bevdet-tiny-occ", "--untrained", "--ray-iou", "--out", tmp_path / "out", "--workers", 0),
        *("--data.root", occupied.root, "--data.index", occupied.index),
    )
    assert status == 0
    assert "ray@1m" in out
    assert "v1.0-mini mini_val, 1 key frames: mIoU" in out
    assert str(tmp_path / "out" / "metrics.json") in out
    assert "evaluating mini_val" in err  # a progress bar


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bevdet-tyni", "--untrained", "--data.root", "x"], "unknown recipe 'bevdet-tyni': did you mean bevdet-tiny"),
        (["bevdet-tiny", "--data.root", "x"], "give --checkpoint FILE, --model DIR, or --untrained"),
        (["bevdet-tiny", "--checkpoint", "none.pth", "--data.root", "x"], "no checkpoint file at none.pth"),
        (["bevdet-tiny", "--untrained", "--input-size", "100", "100", "--data.root", "x"], "input_size must be"),
        (["bevdet-tiny", "--untrained", "--data.root", "/nowhere"], "/nowhere"),
        (["bevdet-tiny", "--untrained", "--stream", "--data.root", "x"], "--stream needs a recipe with history"),
    ],
)
def test_mistakes_are_one_line(bev_eval, tmp_path, arguments, message) -> None:
    status, _, err = bev_eval(*arguments, "--out", tmp_path / "out")
    assert status == 2
    assert _error(err).startswith("bev-eval: error: ")
    assert message in _error(err)
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback(bev_eval, monkeypatch) -> None:
    monkeypatch.setenv("BEVKIT_DEBUG", "1")
    with pytest.raises(ValueError, match="unknown recipe"):
        bev_eval("bevdet-tyni", "--untrained", "--data.root", "x")


def test_a_defect_keeps_its_traceback(bev_eval, monkeypatch) -> None:
    monkeypatch.setattr("bev_eval.models.get_recipe", lambda name: int("no number"))  # fails in our code, by our fault
    monkeypatch.setattr("bev_eval.app.check_options", lambda options: torch.zeros(2).view(3))
    with pytest.raises(RuntimeError, match="invalid for input"):
        bev_eval("bevdet-tiny", "--untrained", "--data.root", "x")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_image_is_named(bev_eval, key_frames, oracle, tmp_path, damage, workers) -> None:
    root, victim = _with_damaged_image(Path(key_frames.root), tmp_path / "data", damage)
    status, _, err = bev_eval(
        *("bevdet-tiny", "--untrained", "--out", tmp_path / "out", "--workers", workers, "--data.root", root),
        *("--data.index", tmp_path / "other.npz"),
    )
    assert status == 2
    assert _error(err).startswith("bev-eval: error: ")
    assert victim in _error(err)
    assert not (tmp_path / "out" / "results_nusc.json").exists()


def _with_damaged_image(source: Path, root: Path, damage: str) -> tuple[Path, str]:
    """A tree of links to the data in which one image of mini_val is missing or cut short."""
    for path in source.rglob("*"):
        target = root / path.relative_to(source)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    victim = root / _image_of_mini_val(source)
    content = victim.read_bytes()
    victim.unlink()
    if damage == "truncated":
        victim.write_bytes(content[:2000])
    return root, victim.name


def _image_of_mini_val(source: Path) -> str:
    tables = source / "v1.0-mini"
    scenes = json.loads((tables / "scene.json").read_text())
    first = next(scene["first_sample_token"] for scene in scenes if scene["name"] == "scene-0103")
    data = json.loads((tables / "sample_data.json").read_text())
    return next(d["filename"] for d in data if d["sample_token"] == first and "/CAM_BACK/" in d["filename"])
