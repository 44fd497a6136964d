"""Curves of training runs."""

import numpy as np
import pytest
from PIL import Image

from bev_vis.__main__ import main
from bev_vis.curves import smoothed


@pytest.fixture
def runs(tmp_path):
    """Two runs; the second was cut short and did not log a depth loss."""
    for name, rows in (
        ("one", ["step,loss,loss_depth", "9,4,2", "19,3,", "29,2,1"]),
        ("two", ["step,loss", "9,5", "19,4"]),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.parametrize("names", [("one",), ("one", "two"), ("one/metrics.csv",)])
def test_runs_become_a_picture(runs, names):
    assert main(["curves", *(str(runs / name) for name in names), "--out", "curves.png"]) == 0
    picture = np.asarray(Image.open("curves.png").convert("RGB")).astype(int)
    lines = [(0, 114, 178), (213, 94, 0)]
    drawn = [(np.abs(picture - line).max(axis=-1) < 20).sum() > 100 for line in lines]
    assert drawn == [True, len(names) == 2]


def test_an_overflow_does_not_end_the_line(tmp_path):
    rows = ["step,gradient_norm", *(f"{step},{'inf' if step == 3 else 2}" for step in range(40))]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    assert main(["curves", "metrics.csv", "--out", "curves.png"]) == 0
    blue = np.abs(np.asarray(Image.open("curves.png").convert("RGB")).astype(int) - (0, 114, 178)).max(axis=-1) < 20
    assert blue[60:].any(axis=0).sum() > 200  # a bold line from the left to the right, below the legend


def test_a_row_may_be_longer_than_the_head(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2,3\n2,3\n")
    assert main(["curves", "metrics.csv"]) == 0


@pytest.mark.parametrize(("width", "expected"), [(1, [0, 0, 9, 0, 0]), (3, [0, 3, 3, 3, 0]), (9, [0, 3, 1.8, 3, 0])])
def test_smoothing_is_a_mean_around_each_value(width, expected):
    np.testing.assert_allclose(smoothed(np.array([0, 0, 9, 0, 0.0]), width), expected)


def test_smoothing_keeps_a_slope():
    np.testing.assert_allclose(smoothed(np.arange(20.0), 7), np.arange(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere cannot be read"),
        (("one", "--smoothing", "4"), "--smoothing must be an odd number"),
        (("one", "--out", "curves.txt"), "must end in .png"),
        (("one", "one"), "the same run is given twice"),
        (("empty.csv",), "is no metrics.csv"),
        (("picture.csv",), "picture.csv is no metrics.csv"),
        (("steps.csv",), "steps.csv holds no curve"),
    ],
)
def test_a_mistake_is_one_line(runs, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(runs)
    (runs / "empty.csv").write_text("a,b\n")
    (runs / "picture.csv").write_bytes(b"\xff\xd8\xff\xe0")
    (runs / "steps.csv").write_text("step,epoch\n1,0\n")
    assert main(["curves", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bev-vis: error: ")
    assert said.count("\n") == 1
    assert message in said
