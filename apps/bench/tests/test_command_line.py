"""What the user sees of bev-bench: help, tables, files, one-line errors. No test looks at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bev_bench import Report, read_report
from bev_bench.report import to_json

SMALL = ("--shape", 64, 96)
ONCE = ("--device", "cpu", "--repeats", 1, "--warm-up", 1)


def _names(path: Path) -> dict[str, set[str]]:
    """Settings of a written report, with the names of their figures."""
    return {f"{row.case}: {row.setting}": {figure.name for figure in row.figures} for row in read_report(path).rows}


def _error(err: str) -> str:
    """The last line, which must be the only one the program itself wrote."""
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def test_help_names_the_commands(bev_bench) -> None:
    status, out, _ = bev_bench("--help")
    assert status == 0
    for command in ("latency", "sequential", "view-transform", "ops", "flops", "data", "train", "trt", "compare"):
        assert command in out


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ("latency", ("--checkpoint FILE", "--model DIR ...", "--backend", "--shape H W", "--variants", "--json FILE")),
        ("latency", ("--cuda-graph", "--plan-cache")),
        ("ops", ("--quick", "--only", "--precision", "--max-seconds")),
        ("data", ("--data.root", "--workers", "--training")),
        ("train", ("--batch-size", "--precision", "--channels-last")),
    ],
)
def test_help_of_a_command(bev_bench, command: str, texts: tuple[str, ...]) -> None:
    status, out, _ = bev_bench(command, "--help")
    assert status == 0
    assert [text for text in texts if text not in out] == []


def test_latency_writes_what_it_prints(bev_bench, tmp_path) -> None:
    files = {"--json": tmp_path / "new" / "a.json", "--markdown": tmp_path / "new" / "a.md"}
    written = [part for pair in files.items() for part in pair]
    status, out, err = bev_bench("latency", "bevdet-tiny", *SMALL, *ONCE, "--samples", 2, *written)
    assert status == 0
    assert "weights: random (seed 0)" in out
    assert "input: 2 x 1 frame x 6 cameras x 64x96" in out
    assert "1 rounds of 3, about" in err
    figures = _names(files["--json"])["bevdet-tiny: plain"]
    assert figures >= {"network", "post-processing", "total", "FPS", "boxes"}
    assert files["--markdown"].read_text().startswith("# bev-bench latency\n")
    assert json.loads(files["--json"].read_text())["machine"]["torch"] == torch.__version__


def test_random_weights_find_boxes(bev_bench, tmp_path) -> None:
    bev_bench("latency", "bevdet-tiny", *SMALL, *ONCE, "--boxes", 50, "--json", tmp_path / "a.json")
    boxes = read_report(tmp_path / "a.json").rows[0].figure("boxes").median
    assert 1 <= boxes <= 60


def test_variants_are_rows_with_ratios_to_the_first(bev_bench, tmp_path) -> None:
    variants = ("plain", "fuse+channels-last", "no-plan-cache")
    command = ("latency", "bevdet-tiny", *SMALL, *ONCE, "--json", tmp_path / "a.json", "--variants", *variants)
    status, _, err = bev_bench(*command)
    assert (status, "1 rounds of 9" in err) == (0, True)
    rows = read_report(tmp_path / "a.json").rows
    assert [row.setting for row in rows] == list(variants)
    assert "ratio" not in {figure.name for figure in rows[0].figures}
    for row in rows[1:]:
        assert row.figure("ratio").median > 0
        assert row.figure("difference").median < 1e-3


def test_streams_of_several_histories(bev_bench, tmp_path) -> None:
    command = ("sequential", "bevdet-tiny-4d", *SMALL, *ONCE, "--later", 1, "--history", 1, 2)
    status, _, _ = bev_bench(*command, "--json", tmp_path / "a.json")
    assert status == 0
    kinds = ("streamed frame", "streamed frame, later", "whole call")
    assert list(_names(tmp_path / "a.json")) == [f"history {h}: {kind}" for h in (1, 2) for kind in kinds]


@pytest.mark.parametrize("recipe", ["bevdet-tiny", "bevdet-tiny-stereo"])
def test_stages_of_the_view_transform(bev_bench, tmp_path, recipe: str) -> None:
    status, out, _ = bev_bench("view-transform", recipe, *SMALL, *ONCE, "--json", tmp_path / "a.json")
    assert status == 0
    assert "frustum: 6x" in out
    stages = [row.setting for row in read_report(tmp_path / "a.json").rows]
    assert stages[:4] == ["whole, plan built", "whole, plan known", "plan: geometry", "plan: sorting"]
    assert ("cost volume" in stages) == (recipe == "bevdet-tiny-stereo")
    assert stages[-3:] == ["depth net", "depth softmax", "pooling"]


def test_operators_that_are_asked_for(bev_bench, tmp_path) -> None:
    command = ("ops", "--quick", "--only", "warp", "stereo", *ONCE, "--json", tmp_path / "a.json")
    status, out, _ = bev_bench(*command)
    assert status == 0
    assert "not the published CUDA code" in out
    rows = read_report(tmp_path / "a.json").rows
    assert [row.case.split(",")[0] for row in rows] == ["cost volume"] * 2 + ["warp_bev"] * 2
    assert [row.setting for row in rows[::2]] == ["grid_sample, 4 channels at a time", "grid_sample"]
    assert all(row.figure("ratio").median > 0 for row in rows[1::2])


def test_training_steps(bev_bench, tmp_path) -> None:
    command = ("train", "bevdet-tiny", *SMALL, *ONCE, "--precision", "fp32", "bf16", "--json", tmp_path / "a.json")
    status, _, _ = bev_bench(*command)
    assert status == 0
    plain, half = _names(tmp_path / "a.json").values()
    assert plain >= {"samples", "forward", "backward", "optimiser", "step"}
    assert "ratio" in half


def test_reading_of_data(bev_bench, key_frames, tmp_path) -> None:
    data = ("--data.root", key_frames.root, "--data.index", key_frames.index)
    command = ("data", "bevdet-tiny-4d", *data, *SMALL, *ONCE, "--samples", 2, "--json", tmp_path / "a.json")
    status, out, _ = bev_bench(*command)
    assert status == 0
    assert "v1.0-mini mini_train, 1 samples, read for evaluation" in out
    rows = read_report(tmp_path / "a.json").rows
    kinds = ("exact images", "fast images", "exact images, cached", "fast images, cached")
    assert [row.setting for row in rows] == [f"{kind}, 0 workers" for kind in kinds]
    # The scene has one key frame, which stands in for the frame before it and is decoded once per sample, or at all.
    assert [row.figure("decoded").median for row in rows] == [6, 6, 3, 3]
    for row in rows:
        assert row.figure("images").median == pytest.approx(6 * row.figure("samples").median)
        assert row.figure("CPU time per sample").count == 2
    with pytest.raises(KeyError):
        rows[0].figure("CPU ratio")
    assert rows[1].figure("CPU ratio").count == 2


def test_reading_of_data_for_training_has_a_cache_only_when_asked(bev_bench, key_frames, tmp_path) -> None:
    data = ("--data.root", key_frames.root, "--data.index", key_frames.index, "--training", "--samples", 1)
    for more, count in ((), 2), (("--data.image-cache-gb", 0.1), 4):
        assert bev_bench("data", "bevdet-tiny-4d", *data, *more, *SMALL, *ONCE, "--json", tmp_path / "a.json")[0] == 0
        assert len(read_report(tmp_path / "a.json").rows) == count


@pytest.mark.parametrize("command", ["compare", "--compare"])
def test_two_reports(bev_bench, report: Report, tmp_path, command: str) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(to_json(report))
    status, out, _ = bev_bench(command, tmp_path / "a.json", tmp_path / "b.json")
    assert status == 0
    assert out.splitlines()[0].split() == ["case", "setting", "figure", "A", "B", "B", "/", "A"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency", "bevdet-tyni"], "unknown recipe 'bevdet-tyni': did you mean bevdet-tiny"),
        (["flops", "bevdet-tyni"], "unknown recipe 'bevdet-tyni'"),
        (["latency", "bevdet-tiny", "--shape", "100", "100"], "input_size must be positive multiples of 16"),
        (["latency", "bevdet-tiny", "--samples", "0"], "--samples and --boxes must be at least 1"),
        (["latency", "bevdet-tiny", "--checkpoint", "none.pth"], "no checkpoint file at none.pth"),
        (["latency", "bevdet-tiny", "--device", "cpu", "--cuda-graph"], "a CUDA graph needs a GPU"),
        (["latency", "bevdet-tiny", "--variants", "quick"], "unknown word 'quick'"),
        (["sequential", "bevdet-tiny"], "bevdet-tiny has no history to keep"),
        (["sequential", "bevdet-tiny-4d", "--history", "0"], "--later and --history must be at least 1"),
        (["ops", "--repeats", "0"], "--repeats and --warm-up must be at least 1"),
        (["ops", "--threads", "0"], "--threads must be at least 1"),
        (["train", "bevdet-tiny", "--precision", "fp32", "fp32"], "--precision wants different types"),
        (["data", "bevdet-tiny", "--data.root", "/nowhere"], "/nowhere"),
        (["compare", "a.json", "b.json"], "there is no report at a.json"),
    ],
)
def test_mistakes_are_one_line(bev_bench, tmp_path, monkeypatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = bev_bench(*arguments)
    assert status == 2
    assert _error(err).startswith("bev-bench: error: ")
    assert message in _error(err)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", [("latency", "bevdet-tiny"), ("ops",), ("train", "bevdet-tiny")])
def test_cuda_without_a_gpu_is_one_line(bev_bench, command: tuple[str, ...]) -> None:
    status, _, err = bev_bench(*command, "--device", "cuda")
    assert status == 2
    assert _error(err) == "bev-bench: error: --device cuda, but PyTorch finds no GPU: use --device cpu or auto"
