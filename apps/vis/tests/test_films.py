"""Several frames: a folder of pictures, a film per scene."""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bev_vis.__main__ import main
from bev_vis.film import open_film
from bev_vis.selection import find_samples, find_scene


def run(*arguments):
    return main(["render", *map(str, arguments)])


@pytest.fixture
def results(world, tmp_path, truth_as_results):
    return truth_as_results(world, "mini_val", tmp_path / "results.json")


def test_frames_go_to_a_folder(world, results, capsys):
    assert run(results, "--data.root", world, "--samples", "0:2", "--out", "pictures/", "--width", 400) == 0
    assert capsys.readouterr().out.strip() == "pictures"
    pictures = sorted(Path("pictures").iterdir())
    assert [path.name for path in pictures] == ["0000_sample-0.png", "0001_sample-1.png"]
    assert {Image.open(path).width for path in pictures} == {400}


def test_a_folder_may_have_a_dot_in_its_name(world, results):
    assert run(results, "--data.root", world, "--samples", "0:2", "--out", "pictures.v1", "--width", 400) == 0
    assert len(list(Path("pictures.v1").iterdir())) == 2


@pytest.mark.parametrize(
    ("wanted", "chosen"), [(":", [0, 1, 2, 3]), ("1:3", [1, 2]), ("2:", [2, 3]), ("3:99", [3]), (":1", [0])]
)
def test_places_are_chosen_as_python_does(wanted, chosen):
    assert list(find_samples(wanted, 4, "val")) == chosen


def test_a_scene_is_its_frames():
    assert list(find_scene("b", ["a", "b", "b", "b", "c"], "val")) == [1, 2, 3]


def test_a_gif_for_each_scene(world, results, capsys):
    assert run(results, "--data.root", world, "--samples", "0:2", "--out", "film.gif", "--fps", 4) == 0
    written = capsys.readouterr().out.split()
    assert written == ["film_scene-0103.gif", "film_scene-0916.gif"]
    assert Image.open(written[0]).width == 960


def test_an_mp4_holds_the_frames(world, results, tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    assert run(results, "--data.root", world, "--scene", "scene-0103", "--out", "film.mp4", "--width", 401) == 0
    frames, seconds = ffmpeg.count_frames_and_secs("film.mp4")
    assert frames == 1
    assert next(ffmpeg.read_frames("film.mp4"))["size"] == (400, 126)  # even sides
    assert seconds == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", ["film.mp4", "film.gif"])
def test_a_film_refuses_pictures_of_another_size(tmp_path, name):
    """A frame with true voxels is wider than one without: an MP4 lost all but the first, a GIF cut them."""
    if name.endswith(".mp4"):
        pytest.importorskip("imageio_ffmpeg")
    with closing(open_film(tmp_path / name, 2.0)) as film:
        film.add(np.zeros((100, 200, 3), np.uint8))
        with pytest.raises(ValueError, match="the first is 200 x 100, one is 200 x 80"):
            film.add(np.zeros((80, 200, 3), np.uint8))


def test_an_mp4_without_a_writer_is_one_line(world, results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert run(results, "--data.root", world, "--out", "film.mp4") == 2
    assert 'pip install "bev-vis[video]"' in capsys.readouterr().err


def test_the_time_per_frame_is_told(world, results, capsys):
    run(results, "--data.root", world)
    assert capsys.readouterr().err.startswith("1 frame, ")
