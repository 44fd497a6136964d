"""Charts of a report as inline SVG."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import palette
from .geometry import Array
from .palette import Colour

_SMALL = {"font.size": 8, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False}


def curves(
    panels: Mapping[str, Mapping[str, Array]],  # title -> name of a line -> (101,) precisions
    columns: int = 5,
) -> str:
    """Precision over recall, a panel per class with a line per matching distance."""
    with _figure(len(panels), columns) as (figure, axes):
        for chart, (title, lines) in zip(axes, panels.items(), strict=True):
            for number, (name, values) in enumerate(lines.items()):
                shade = matplotlib.colormaps["viridis"](0.85 * number / max(1, len(lines) - 1))
                chart.plot(np.linspace(0, 1, len(values)), values, color=shade, linewidth=1.3, label=name)
            chart.set(title=title, xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
            chart.grid(color=palette.RING, linewidth=0.3)
        axes[0].legend(fontsize=7, frameon=False)
        return _svg(figure)


def histograms(panels: Mapping[str, Array], bins: int = 30) -> str:
    """How often which value occurs, a panel for each; NaN left out, the mean drawn as a line."""
    with _figure(len(panels), 5) as (figure, axes):
        for chart, (title, values) in zip(axes, panels.items(), strict=True):
            known = values[np.isfinite(values)]
            chart.set(title=f"{title} ({len(known)})", yticks=[])
            if len(known):
                top = max(float(np.percentile(known, 99)), 1e-3)
                chart.hist(np.minimum(known, top), bins, (0, top), color="#4c78a8")
                chart.axvline(known.mean(), color="#d62728", linewidth=1.2)
                chart.set_xlabel(f"mean {known.mean():.3f} (red); last bar: all beyond", fontsize=7)
        return _svg(figure)


def bars(panels: Mapping[str, Mapping[str, tuple[float, int]]]) -> str:
    """A value from 0 to 1 per group, with how many objects are in the group; an empty group says so."""
    with _figure(len(panels), 3, width=3.9) as (figure, axes):
        for chart, (title, groups) in zip(axes, panels.items(), strict=True):
            names = [f"{name}\n({count})" for name, (_, count) in groups.items()]
            heights = np.nan_to_num([value for value, _ in groups.values()])
            drawn = chart.bar(names, heights, color="#4c78a8")
            written = ["-" if np.isnan(value) else f"{value:.3f}" for value, _ in groups.values()]
            chart.bar_label(drawn, written, fontsize=7)
            chart.set(title=title, ylim=(0, max(0.05, 1.15 * heights.max(initial=0))))
            chart.tick_params(axis="x", labelsize=7)
        return _svg(figure)


def shares(names: Sequence[str], values: Array, colours: Sequence[Colour]) -> str:
    """Horizontal bars of values in percent, one colour each; NaN: nothing to measure."""
    with _figure(1, 1, width=8, height=0.24 * len(names) + 0.6) as (figure, axes):
        drawn = axes[0].barh(names[::-1], np.nan_to_num(values)[::-1], color=colours[::-1])
        axes[0].bar_label(drawn, ["-" if np.isnan(value) else f"{value:.2f}" for value in values[::-1]], fontsize=7)
        axes[0].set(xlim=(0, 100), xlabel="IoU, percent")
        return _svg(figure)


def heat_map(
    table: NDArray[np.int64],  # (R,C)
    rows: Sequence[str],
    columns: Sequence[str],
) -> str:
    """Counts by row and column; colours by the share of the row, which is also written, in percent."""
    fraction = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    with _figure(1, 1, width=0.55 * len(columns) + 2, height=0.33 * len(rows) + 1.6) as (figure, axes):
        chart = axes[0]
        chart.pcolormesh(fraction, cmap="Blues", vmin=0, vmax=1)  # vectors, where imshow would embed a picture
        chart.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=40, ha="left")
        chart.set_yticks(np.arange(len(rows)) + 0.5, rows)
        chart.xaxis.tick_top()
        chart.invert_yaxis()
        chart.spines[:].set_visible(False)
        for row, column in zip(*np.nonzero(table), strict=True):
            share = fraction[row, column]
            ink = "white" if share > 0.5 else palette.INK
            chart.text(column + 0.5, row + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=ink)
        return _svg(figure)


@contextmanager
def _figure(panels: int, columns: int, width: float = 2.4, height: float = 2.1) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with panels in rows; sizes of one panel in inches."""
    columns = min(panels, columns)
    rows = -(-panels // columns)
    # Text stays text: the page can be searched, and the file is a fifth of the size.
    with matplotlib.rc_context({**_SMALL, "svg.fonttype": "none", "svg.hashsalt": "bev-vis"}):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        for unused in grid[panels:]:
            unused.set_axis_off()
        yield figure, grid[:panels]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
