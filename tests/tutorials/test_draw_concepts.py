"""tools/draw_concepts.py: every figure of docs/concepts.md is drawn by it, and what is drawn is where it belongs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def concepts() -> Iterator[ModuleType]:
    """The program, imported from where it lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        yield importlib.import_module("draw_concepts")


def test_page_program_and_folder_have_the_same_figures(concepts: ModuleType) -> None:
    drawn = {f"concept-{name}.{'svg' if name in concepts.VECTORS else 'png'}" for name in concepts.FIGURES}
    shown = set(re.findall(r"\(images/(concept-[^)]+)\)", (ROOT / "docs" / "concepts.md").read_text()))
    assert shown == drawn
    assert {path.name for path in (ROOT / "docs" / "images").glob("concept-*")} == drawn


def test_a_footprint_begins_at_the_front_edge(concepts: ModuleType) -> None:
    to_the_left = (10.0, 3.0, 0.9, 4.0, 2.0, 1.7, np.pi / 2)  # 4 m long along y, 2 m wide along x
    front, back = [(9.0, 5.0), (11.0, 5.0)], [(11.0, 1.0), (9.0, 1.0)]
    assert np.allclose(concepts.outline(to_the_left), [*front, *back, *front])
