"""python -m bev_zoo: what it prints, and how it answers mistakes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

import bev_heads
import bev_lss
import bev_nuscenes
import bev_ops
import bev_zoo
from bev_zoo import create_model, get_recipe, list_recipes, load_checkpoint, read_input_size, read_recipe_name
from bev_zoo.__main__ import main
from bev_zoo.create import meta_model
from bev_zoo.show import UNITS
from bev_zoo.table import RecipeSummary, summaries, summary

# The widest of every column, both tasks, and one that is not published.
SOME = (
    "bevdet-r50",
    "bevdet-r50-4dlongterm-stereo-cbgs",
    "bevdet-occ-swinb-4d-stereo-512x1408-24e-geomim-load",
    "bevdet-occ-swinl-4d-stereo-512x1408-24e-geomim",
    "bevdet-tiny-depth",
)
TINY = [name for name in list_recipes() if "tiny" in name]


@pytest.fixture(scope="module")
def rows() -> list[RecipeSummary]:
    return [summary(name) for name in SOME]


@pytest.fixture
def some_recipes(rows: list[RecipeSummary], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bev_zoo.__main__.summaries", lambda: rows)


@pytest.fixture
def tiny_systems_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recognising among few systems is quick."""
    for module in ("checkpoint", "convert", "table"):
        monkeypatch.setattr(f"bev_zoo.{module}.list_recipes", lambda: TINY)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint as parallel training writes it."""
    state = {f"module.{name}": tensor for name, tensor in create_model("bevdet-tiny-4d").state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 20}}, tmp_path / "epoch_20.pth")
    return tmp_path / "epoch_20.pth"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a failing command prints."""
    assert main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bev_zoo: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.usefixtures("some_recipes")
def test_list_is_a_table_of_140_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    table = capsys.readouterr().out
    lines = table.splitlines()
    rows = [line.split() for line in lines[2 : 2 + len(SOME)]]
    assert max(map(len, lines)) <= 140
    assert [row[0] for row in rows] == list(SOME)
    assert rows[0] == ["bevdet-r50", "detection", "1", "256x704", "44.2", "296", "-", "28.3", "35.0", "-"]
    assert rows[1][7:] == ["41.5", "(41.1)", "52.7", "(52.3)", "-"]
    assert rows[2][1:5] + rows[2][7:] == ["occupancy", "3", "512x1408", "121.8", "-", "-", "45.73"]
    assert rows[4][7:] == ["-", "-", "-"]


@pytest.mark.usefixtures("some_recipes")
def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(SOME)
    assert rows[1]["frames"] == 10 and rows[1]["input_size"] == [256, 704]
    assert rows[1]["published"]["map_after"] == 41.1
    assert rows[4]["published"] is None
    for row in rows:
        assert row["parameters"] == sum(p.numel() for p in meta_model(get_recipe(row["name"])).parameters())
        assert sum(row["flops_per_stage"].values()) == row["flops"]


@pytest.mark.usefixtures("tiny_systems_only")
def test_list_holds_every_recipe() -> None:
    assert [row.recipe.name for row in summaries()] == TINY


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "bevdet-r50-4d-stereo-cbgs",
            (
                "mAP, aligned after 38.2 [% on nuScenes val, history aligned after the view transform]",
                "source BEVDet repository (dev2.1), table of detection results",
                "frames 3 [a call: now + 1 past + 1 stereo reference]",
                "input_size 256, 704 [height, width of the network input, pixels]",
                "x -51.2, 51.2, 0.8 [m: lower, upper, step]",
                "log_spaced yes",
                "learning_rate 0.0002",
                "betas 0.9, 0.999",
            ),
        ),
        (
            "bevdet-stbase-4d-stereo-512x1408-cbgs",
            ("head.decode.nms[5] (NmsOptions)", "rescale 1.5, 2.5 [factor per class]", "kind circle"),
        ),
        ("bevdet-tiny-occ", ("nothing: not a published system", "task occupancy", "cells 200 x 200 x 16 [x, y, z]")),
    ],
)
def test_show_says_every_option_with_its_unit(
    capsys: pytest.CaptureFixture[str], name: str, wanted: tuple[str, ...]
) -> None:
    assert main(["show", name]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0].startswith(f"{name}: ")
    assert [line for line in wanted if line not in lines] == []


def test_units_belong_to_options_that_exist() -> None:
    for key in UNITS:
        owner, _, option = key.partition(".")
        kinds = [getattr(m, owner) for m in (bev_zoo, bev_lss, bev_ops, bev_heads, bev_nuscenes) if hasattr(m, owner)]
        assert option in {field.name for field in dataclasses.fields(kinds[0])}, key


def test_a_near_miss_is_answered_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown recipe 'bevdt-r50': did you mean bevdet-r50" in error_of(capsys, "show", "bevdt-r50")


@pytest.mark.usefixtures("tiny_systems_only")
def test_convert_recognises_the_system(capsys: pytest.CaptureFixture[str], published: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    assert main(["convert", str(published), str(target)]) == 0
    printed = capsys.readouterr().out
    model = create_model("bevdet-tiny-4d")
    assert "recipe  bevdet-tiny-4d (recognised by its weights)" in printed
    assert f"{len(model.state_dict())} entries, {target.stat().st_size:,} bytes" in printed
    assert hashlib.sha256(target.read_bytes()).hexdigest() in printed
    assert (read_recipe_name(target), read_input_size(target)) == ("bevdet-tiny-4d", (128, 352))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_20.pth", "out.safetensors"]

    load_checkpoint(model, target)
    source = torch.load(published)["state_dict"]
    assert all(torch.equal(tensor, source[f"module.{name}"]) for name, tensor in model.state_dict().items())


@pytest.mark.usefixtures("tiny_systems_only")
def test_convert_says_what_else_the_weights_fit(
    capsys: pytest.CaptureFixture[str], published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = dataclasses.replace(bev_zoo.get_recipe("bevdet-tiny-4d"), name="bevdet-tiny-twin")
    known = {twin.name: twin} | {name: bev_zoo.get_recipe(name) for name in TINY}
    monkeypatch.setattr("bev_zoo.convert.get_recipe", known.get)
    monkeypatch.setattr("bev_zoo.convert.list_recipes", lambda: list(known))
    assert main(["convert", str(published), str(tmp_path / "out.safetensors")]) == 0
    assert "which fit bevdet-tiny-twin too: --recipe says which it is" in capsys.readouterr().out


def test_convert_does_not_overwrite_unless_forced(
    capsys: pytest.CaptureFixture[str], published: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    named = ("convert", published, target, "--recipe", "bevdet-tiny-4d")
    assert "is there already: --force writes over it" in error_of(capsys, *named)
    assert target.read_bytes() == b"precious"
    assert main([*map(str, named), "--force"]) == 0
    assert read_recipe_name(target) == "bevdet-tiny-4d"
    assert "recognised" not in capsys.readouterr().out


@pytest.mark.usefixtures("tiny_systems_only")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("epoch_20.pth", "out.pth"), "must end in .safetensors"),
        (("epoch_20.pth", "nowhere/out.safetensors"), "no folder"),
        (("absent.pth", "out.safetensors"), "no checkpoint file at"),
        (("epoch_20.pth", "out.safetensors", "--recipe", "bevdet-tiny4d"), "did you mean bevdet-tiny-4d"),
        (
            ("epoch_20.pth", "out.safetensors", "--recipe", "bevdet-tiny"),
            "epoch_20.pth does not fit bevdet-tiny; it looks like one of bevdet-tiny-4d: nothing was loaded; not in "
            "the model (14): frame_encoder (14); of another shape (2): bev_encoder (2)\n",
        ),
        (
            ("cut.pth", "out.safetensors", "--recipe", "bevdet-tiny-4d"),
            "cut.pth does not fit bevdet-tiny-4d: nothing was loaded; missing (1): neck (1): neck.output_conv.bias",
        ),
        (("other.pth", "out.safetensors"), "other.pth looks like no known system: name it with --recipe"),
    ],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": torch.zeros(3)}, "other.pth")
    state = torch.load(published)["state_dict"]
    torch.save({name: tensor for name, tensor in state.items() if name != "module.neck.output_conv.bias"}, "cut.pth")
    assert message in error_of(capsys, "convert", *arguments)
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".converting-*"))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_it_runs_as_a_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bev_zoo", "show", "nothing"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("bev_zoo", run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("bev_zoo: error: unknown recipe 'nothing'")
