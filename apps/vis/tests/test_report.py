"""The report as a browser shows it, and its mistakes in one line."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from bev_nuscenes import FREE, OCCUPANCY_SHAPE, DataOptions, write_prediction
from bev_vis.__main__ import main
from bev_vis.source import open_source
from bev_vis.web_page import WebPage


def report(*arguments):
    return main(["report", *map(str, arguments)])


@pytest.fixture
def page(world, tmp_path, truth_as_results):
    """The report of perfect predictions."""
    (tmp_path / "eval").mkdir()
    truth_as_results(world, "mini_val", tmp_path / "eval" / "results_nusc.json")
    assert report(tmp_path / "eval", "--data.root", world, "--pictures", 1) == 0
    return tmp_path / "eval" / "report.html"


def test_a_page_has_its_sections_and_needs_no_network(page):
    text = page.read_text()
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == [
        "Figures",
        "Precision and recall",
        "Errors of true positives",
        "Where it sees",
        "Confusion",
        "Best frames",
        "Worst frames",
    ]
    assert text.count("<svg") == 4
    assert text.count("data:image/jpeg;base64,") == 2
    links = re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    assert links == []


def test_a_browser_shows_it(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-500:]
    assert "<td>car</td><td>1.000</td>" in done.stdout  # the figures of perfect predictions
    assert done.stdout.count("</svg>") == 4


def test_voxels_have_a_report_of_their_own(world, tmp_path):
    source = open_source(DataOptions(root=str(world)))
    root = tmp_path / "data"
    root.mkdir()
    for name in ("v1.0-mini", "maps", "samples"):
        (root / name).symlink_to(world / name)
    labels = np.full(OCCUPANCY_SHAPE, FREE, np.uint8)
    labels[80:120, 80:120, 2] = 11
    for place, token in enumerate(source.tokens):
        folder = root / "gts" / source.scenes[place] / token
        folder.mkdir(parents=True)
        seen = np.ones(OCCUPANCY_SHAPE, np.uint8)
        np.savez_compressed(folder / "labels.npz", semantics=labels, mask_lidar=seen, mask_camera=seen)
        write_prediction(tmp_path / "occupancy", token, np.roll(labels, 20 * place, axis=0))
    out = tmp_path / "page.html"
    assert report(tmp_path, "--data.root", root, "--pictures", 1, "--out", out) == 0
    text = out.read_text()
    assert "<td>driveable surface</td><td>60.00</td><td>3,200</td><td>3,200</td>" in text  # (1 + 1 / 3) and 2 halves
    assert re.findall(r"sample (\d) \(.*?\): ([\d.]+)<", text) == [("0", "1.000"), ("1", "0.333")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.json",), "nowhere.json is missing"),
        ((".",), "holds neither results_nusc.json nor occupancy"),
        (("results.json", "--pictures", "99"), "--pictures must lie from 0 to 20"),
        (("results.json", "--score-threshold", "7"), "--score-threshold must lie from 0 to 1"),
        (("results.json", "--out", "results.json/page.html"), "choose another --out"),
    ],
)
def test_a_mistake_is_one_line(world, tmp_path, capsys, truth_as_results, arguments, message):
    truth_as_results(world, "mini_val", tmp_path / "results.json")
    assert report(*arguments, "--data.root", world) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(said) == 1
    assert message in said[0]


def test_metrics_of_another_program_are_one_line(world, tmp_path, capsys, truth_as_results):
    truth_as_results(world, "mini_val", tmp_path / "results_nusc.json")
    (tmp_path / "metrics.json").write_text("[1, 2]")
    assert report(tmp_path, "--data.root", world) == 2
    assert "metrics.json is not what bev-eval writes" in capsys.readouterr().err


def test_text_is_escaped():
    page = WebPage("a < b")
    page.table(("<x>",), [("1 & 2",)])
    text = page.text()
    assert "a &lt; b" in text
    assert "<td>1 &amp; 2</td>" in text
