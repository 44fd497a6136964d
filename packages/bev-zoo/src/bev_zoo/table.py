"""All recipes as a table, or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from .create import meta_model
from .flops import Flops, count_flops, count_parameters
from .recipe import Published, Recipe
from .recipes import get_recipe, list_recipes

__all__ = ["RecipeSummary", "as_json", "as_table", "summaries", "summary"]


@dataclass(frozen=True)
class RecipeSummary:
    """A recipe and what follows from it."""

    recipe: Recipe
    parameters: int
    flops: Flops


_NOTES = """\
frames: images per camera of one call, stereo reference included. GFLOPs: 10^9 floating-point operations of one call
with six cameras, two per multiply-add; stream: of one more frame through model.stream().
mAP, NDS, mIoU: the authors' own, in percent, on the nuScenes validation set; in brackets with history aligned after
the view transform."""


def summary(name: str) -> RecipeSummary:
    """What there is to say of one recipe.

    Raises:
        ValueError: no such recipe; the message suggests the nearest.
    """
    recipe = get_recipe(name)
    model = meta_model(recipe)
    return RecipeSummary(recipe, count_parameters(model), count_flops(model))


def summaries() -> list[RecipeSummary]:
    """All of them, in the order of :func:`bev_zoo.list_recipes`; takes some seconds."""
    return [summary(name) for name in list_recipes()]


def as_table(rows: Sequence[RecipeSummary]) -> str:
    """A table of at most 140 columns, with a legend."""
    head = ("recipe", "task", "frames", "input", "param M", "GFLOPs", "stream", "mAP", "NDS", "mIoU")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["  ".join(_aligned(line, widths)).rstrip() for line in cells]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:], "", _NOTES])


def as_json(rows: Sequence[RecipeSummary]) -> str:
    """A JSON list with one object per recipe; operations are whole numbers."""
    return json.dumps([_json_object(row) for row in rows], indent=2)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right; results, with their brackets, to the left again."""
    numbers = range(2, 7)
    return [
        cell.rjust(width) if column in numbers else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]


def _cells(row: RecipeSummary) -> tuple[str, ...]:
    recipe, flops = row.recipe, row.flops
    height, width = recipe.input_size
    published = recipe.published or Published(source="")
    return (
        recipe.name,
        recipe.task,
        str(recipe.frames),
        f"{height}x{width}",
        f"{row.parameters / 1e6:.1f}",
        _giga(flops.total),
        "-" if flops.streaming is None else _giga(flops.streaming.total),
        _result(published.map, published.map_after),
        _result(published.nds, published.nds_after),
        _result(published.miou),
    )


def _giga(count: int) -> str:
    return f"{count / 1e9:.1f}" if count < 100e9 else f"{count / 1e9:.0f}"


def _result(during: float | None, after: float | None = None) -> str:
    if during is None:
        return "-"
    return str(during) if after is None else f"{during} ({after})"


def _json_object(row: RecipeSummary) -> dict[str, object]:
    recipe, flops = row.recipe, row.flops
    return {
        "name": recipe.name,
        "description": recipe.description,
        "task": recipe.task,
        "frames": recipe.frames,
        "history": recipe.temporal.history,
        "input_size": recipe.input_size,
        "parameters": row.parameters,
        "flops": flops.total,
        "flops_per_stage": dataclasses.asdict(flops.per_stage),
        "flops_streamed_frame": None if flops.streaming is None else flops.streaming.total,
        "published": None if recipe.published is None else dataclasses.asdict(recipe.published),
    }
