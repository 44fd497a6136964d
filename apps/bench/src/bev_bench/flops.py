"""``bev-bench flops``: operations of a prediction, counted."""

from __future__ import annotations

from dataclasses import fields, replace

import torch

from bev_bench.machine import this_machine
from bev_bench.options import FlopsOptions
from bev_bench.report import Fact, Figure, Report, Row
from bev_zoo import Detector, Recipe, StageFlops, count_flops, get_recipe
from bev_zoo.flops import count_parameters

__all__ = ["count_operations"]

_NOTES = (
    "counted from shapes, two per multiply-add: convolutions, matrix products, attention, pooling (all frustum "
    "points), stereo matching, warping; normalisation, activations and decoding are left out",
)


def count_operations(options: FlopsOptions) -> Report:
    """Count a call with all frames and, for systems with history, a streamed frame.

    Raises:
        ValueError: unknown recipe, or a size it cannot have.
    """
    recipe = get_recipe(options.recipe)
    if options.shape is not None:
        recipe = replace(recipe, input_size=options.shape)
    flops = count_flops(recipe)
    rows = _rows("whole call", flops.per_stage)
    if flops.streaming is not None:
        rows += _rows("streamed frame", flops.streaming)
    height, width = recipe.input_size
    facts = (
        Fact(name="recipe", value=recipe.name),
        Fact(name="input", value=f"1 x {recipe.frames} frames x 6 cameras x {height}x{width}"),
        Fact(name="parameters", value=f"{_parameters(recipe) / 1e6:.2f} M"),
    )
    machine = this_machine(torch.device("cpu"))
    return Report(command="flops", facts=facts, rows=tuple(rows), notes=_NOTES, machine=machine)


def _parameters(recipe: Recipe) -> int:
    with torch.device("meta"):  # names and shapes only
        return count_parameters(Detector(recipe))


def _rows(case: str, stages: StageFlops) -> list[Row]:
    counts = {f.name.replace("_", " "): getattr(stages, f.name) for f in fields(stages)}
    counts = {name: number for name, number in counts.items() if number} | {"total": stages.total}
    return [
        Row(
            case=case,
            setting=name,
            figures=(
                Figure.exact("operations", "G", number / 1e9),
                Figure.exact("share", "%", 100 * number / stages.total),
            ),
        )
        for name, number in counts.items()
    ]
