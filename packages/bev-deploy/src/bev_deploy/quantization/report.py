"""What a quantisation did, as a dataclass, as JSON and as a page to read."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .accuracy import AccuracyChange
from .layers import LeftOut
from .options import QuantizeOptions

__all__ = ["LayerReport", "QuantizationReport"]

_NAME = "quantization"


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer that may run in int8.

    Attributes:
        name: of the module.
        operator: "Conv", "MatMul" or "Gemm".
        reach: magnitude of its input that the eight bits reach.
        error: of the result that suffers most when this layer alone is in int8: root mean square of the change over
            the standard deviation; None if layers were not tried.
        result: which result that is.
        int8: whether it runs in int8 now; if not, it was left out for its error.
    """

    name: str
    operator: str
    reach: float
    error: float | None
    result: str | None
    int8: bool


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """A quantised model against the export it was made from.

    Attributes:
        recipe: name of the recipe.
        options: it was made with.
        samples: calibration samples.
        layers: that may run in int8, in the order of the graph.
        left_out: that never do, and why.
        results: by result, root mean square of the change over the standard deviation, all int8 layers together; on
            the samples that layers were tried on.
        bytes_before, bytes_after: sizes of the model files.
        accuracy: on a split with annotations; None if there was none.
    """

    recipe: str
    options: QuantizeOptions
    samples: int
    layers: tuple[LayerReport, ...]
    left_out: tuple[LeftOut, ...]
    results: dict[str, float]
    bytes_before: int
    bytes_after: int
    accuracy: AccuracyChange | None

    @property
    def sensitive(self) -> tuple[LayerReport, ...]:
        """Layers that were left out for their error, the largest first."""
        return tuple(sorted((layer for layer in self.layers if not layer.int8), key=lambda layer: -layer.error))

    def to_json(self) -> str:
        """Everything; nan and infinity as null."""
        return json.dumps(_plain(dataclasses.asdict(self)), indent=2) + "\n"

    def to_markdown(self) -> str:
        """A page to read."""
        parts = (_summary(self), _accuracy(self.accuracy), _results(self), _layers(self), _left_out(self))
        return "\n\n".join(part for part in parts if part) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``quantization.json`` and ``quantization.md``."""
        (folder / f"{_NAME}.json").write_text(self.to_json())
        (folder / f"{_NAME}.md").write_text(self.to_markdown())


def _summary(report: QuantizationReport) -> str:
    options = report.options
    method = f"percentile {options.percentile:g}" if options.calibration == "percentile" else options.calibration
    sensitive = ", ".join(layer.name for layer in report.sensitive) or "none"
    bound = "no bound" if options.max_error is None else f"bound {options.max_error:g}"
    return "\n".join(
        [
            f"# {report.recipe} in int8",
            "",
            f"- {sum(layer.int8 for layer in report.layers)} layers in int8, {len(report.sensitive)} left out as "
            f"sensitive, {len(report.left_out)} for other reasons",
            f"- sensitive: {sensitive}",
            f"- calibration: {method}, {report.samples} samples",
            f"- largest change of a result: {max(report.results.values()):.4f} of its standard deviation ({bound})",
            f"- file: {_megabytes(report.bytes_before)} before, {_megabytes(report.bytes_after)} now",
        ]
    )


def _accuracy(accuracy: AccuracyChange | None) -> str:
    if accuracy is None:
        return ""
    rows = [(f.name, f"{f.before:.4f}", f"{f.after:.4f}", _percent(f.relative)) for f in accuracy.figures]
    if accuracy.score_threshold is None:
        agreement = f"{accuracy.agreement:.2%} of {accuracy.compared} voxels have the same class."
    else:
        agreement = (
            f"Of {accuracy.compared} boxes that score {accuracy.score_threshold:g} or more, {accuracy.agreement:.2%} "
            "are found again, of the same class and within half a metre."
        )
    title = f"## Accuracy on {accuracy.version} {accuracy.split}, {accuracy.samples} key frames"
    return f"{title}\n\n{_table(('', 'before', 'int8', 'change'), rows)}\n\n{agreement}"


def _results(report: QuantizationReport) -> str:
    rows = [(name, f"{error:.4f}") for name, error in report.results.items()]
    return (
        "## Results, all int8 layers together\n\nRoot mean square of the change, in standard deviations.\n\n"
        + _table(("result", "change"), rows)
    )


def _layers(report: QuantizationReport) -> str:
    rows = [
        (
            layer.name,
            layer.operator,
            f"{layer.reach:.4g}",
            "" if layer.error is None else f"{layer.error:.4f}",
            layer.result or "",
            "int8" if layer.int8 else "left out: sensitive",
        )
        for layer in report.layers
    ]
    return (
        "## Layers\n\nReach: the largest magnitude of the input that int8 has. Change: of the result that suffers most "
        "when this layer alone is in int8.\n\n"
        + _table(("layer", "operator", "reach", "change", "of result", "runs in"), rows)
    )


def _left_out(report: QuantizationReport) -> str:
    if not report.left_out:
        return ""
    return "## Never in int8\n\n" + _table(("layer", "why"), [(entry.name, entry.reason) for entry in report.left_out])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{share:+.2%}"


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
