"""Tutorials and the Python of package READMEs do what they show, as written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .conftest import ROOT, WORLD
from .given import GIVEN
from .pages import blocks_of, run_block
from .published_layout import write_published

Names = dict[str, Any]
TUTORIALS = sorted(ROOT.glob("docs/tutorials/*.md"))
READMES = sorted(ROOT.glob("packages/*/README.md"))


class Outcome(NamedTuple):
    """What a tutorial must have left behind."""

    files: tuple[str, ...]
    holds: Callable[[Names], bool]


OUTCOMES = {
    "train": Outcome(
        ("runs/first/model.safetensors", "runs/first/eval/results_nusc.json", "runs/first/frame.png"),
        lambda names: len(names["losses"]) == 8 and names["figures"]["split"] == "mini_val",
    ),
    "published-checkpoint": Outcome(
        ("bevdet-r50-cbgs.safetensors", "runs/published/metrics.json"),
        lambda names: "does not fit bevdet-r50-4d-cbgs" in names["refusal"] and len(names["found"]) > 0,
    ),
    "own-cameras": Outcome(("found/predictions.json",), lambda names: len(names["predictions"]["frames"]) == 3),
    "export": Outcome(
        ("runs/4d-onnx/model.onnx", "runs/4d-onnx-eval/metrics.json"),
        lambda names: names["best_torch"] > 0 and names["best_onnx"].isclose(names["best_torch"], rtol=1e-3),
    ),
    "new-parts": Outcome(
        (),
        lambda names: all(names[part][-1] < names[part][0] for part in ("depth_net_losses", "head_losses")),
    ),
}


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_runs_as_written(page: Path, folder: Path) -> None:
    if page.stem == "published-checkpoint":
        write_published("bevdet-r50-cbgs", folder / "bevdet-r50-cbgs.pth")
    names: Names = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.not_run is None:
            run_block(block, names)
    outcome = OUTCOMES[page.stem]
    missing = [file for file in outcome.files if not (folder / file).is_file()]
    assert not missing
    assert outcome.holds(names)


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.parent.name)
def test_the_python_of_a_readme_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(page) if block.language == "python"]
    names: Names = {"__name__": "__main__"}
    for number, block in enumerate(blocks):
        if block.not_run is None:
            names |= GIVEN.get((page.parent.name, number), dict)()
            run_block(block, names)


def test_what_is_not_run_says_why() -> None:
    left_out = [block for page in (*TUTORIALS, *READMES) for block in blocks_of(page) if block.not_run is not None]
    for block in left_out:
        print(f"{block.place}: {block.not_run}")
        assert len(block.not_run.split()) > 1, f"{block.place} gives no reason"


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_tutorial_begins_with_the_same_world(page: Path) -> None:
    first = blocks_of(page)[0]
    assert first.code.splitlines()[0] == WORLD
