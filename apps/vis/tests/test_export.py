"""Files for rerun and viser."""

import importlib.util
import sys
from dataclasses import replace

import pytest

from bev_vis.__main__ import main
from bev_vis.view import open_browser


@pytest.fixture
def results(world, tmp_path, truth_as_results):
    return str(truth_as_results(world, "mini_val", tmp_path / "results.json"))


@pytest.mark.parametrize(("kind", "package", "suffix"), [("rerun", "rerun", "rrd"), ("viser", "viser", "viser")])
def test_more_frames_make_a_larger_file(world, results, tmp_path, kind, package, suffix):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f'{package} is not installed: pip install "bev-vis[{kind}]"')
    sizes = []
    for samples in ("0:1", "0:2"):
        out = tmp_path / f"out.{suffix}"
        arguments = ["--data.root", str(world), "--samples", samples, "--to", kind, "--out", str(out)]
        assert main(["export", results, *arguments]) == 0
        sizes.append(out.stat().st_size)
    assert sizes[1] > sizes[0] > 10_000  # little more: the frames of this world are alike, and files are packed


def test_nothing_a_model_says_is_kept(world, tmp_path, monkeypatch, results):
    browsers = []

    def slow_browser(options, samples):
        browser, chosen = open_browser(options, samples)
        browsers.append(replace(browser, instant=False))  # as with a model
        return browsers[0], chosen

    monkeypatch.setattr("bev_vis.export.open_browser", slow_browser)
    monkeypatch.setattr("bev_vis.export._writer", lambda _: lambda _, scenes: [None for _ in scenes])
    arguments = ["--data.root", str(world), "--samples", ":", "--to", "viser", "--out", str(tmp_path / "a.viser")]
    assert main(["export", results, *arguments]) == 0
    assert browsers[0].place == 1
    assert not browsers[0]._predicted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "rerun", "--out", "a.viser"), "must end in .rrd"),
        (("--to", "viser", "--out", "a.rrd"), "must end in .viser"),
    ],
)
def test_a_mistake_is_one_line(world, results, capsys, arguments, message):
    assert main(["export", results, "--data.root", str(world), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_one_line(world, results, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "viser", None)
    arguments = ["--data.root", str(world), "--to", "viser", "--out", "a.viser"]
    assert main(["export", results, *arguments]) == 2
    assert 'pip install "bev-vis[viser]"' in capsys.readouterr().err
