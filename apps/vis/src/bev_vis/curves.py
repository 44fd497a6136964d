"""`bev-vis curves`: the training of runs as one picture."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from . import palette
from .geometry import Array
from .paths import check_writable

_COLUMNS, _PANEL_INCHES = 4, (4.0, 2.6)
_LOGARITHMIC = ("loss", "gradient_norm")
_LEFT_OUT = ("step", "epoch")
_EXACT = ("learning_rate",)
"""What has no noise that could be averaged out."""
_TITLES = {
    "learning_rate": "learning rate",
    "gradient_norm": "gradient norm",
    "samples_per_second": "samples per second",
    "data_wait": "share of time waiting for data",
}
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, in an order that contrasts."""


@dataclass(frozen=True, kw_only=True)
class CurvesOptions:
    """Draw training curves of one or several runs: losses, learning rate, gradient norm, speed."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders that bev-train wrote, or their metrics.csv."""
    out: Path = Path("curves.png")
    """Picture to write (.png, .jpg, .svg or .pdf)."""
    smoothing: int = 9
    """Logged values that the bold line averages over, an odd number; the faint one shows them raw."""


def curves(options: CurvesOptions) -> list[Path]:
    """Write the picture and return its path. Raises ValueError for what the user can put right."""
    _check(options)
    check_writable(options.out.parent)
    runs = {name: _read(path) for name, path in _named(options.runs).items()}
    names = list(dict.fromkeys(name for columns in runs.values() for name in columns if name not in _LEFT_OUT))
    rows = -(-len(names) // _COLUMNS)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(min(len(names), _COLUMNS) * width, rows * height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, min(len(names), _COLUMNS), squeeze=False).ravel()
    with matplotlib.rc_context({"font.size": 9}):
        for axes, name in zip(grid, names, strict=False):
            _draw(axes, name, runs, options.smoothing)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
    figure.savefig(options.out)
    return [options.out]


def smoothed(values: Array, width: int) -> Array:
    """Mean over a window of ``width`` around every value, narrower at the ends; values (S,) to means (S,)."""
    reach = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    reach_here = np.minimum(reach, np.minimum(place, len(values) - 1 - place))  # symmetric: a slope stays where it is
    return (sums[place + reach_here + 1] - sums[place - reach_here]) / (2 * reach_here + 1)


def _check(options: CurvesOptions) -> None:
    if not options.runs:
        raise ValueError("no run to draw: give folders that bev-train wrote")
    if options.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".svg", ".pdf"):
        raise ValueError(f"--out {options.out} must end in .png, .jpg, .svg or .pdf")
    if options.smoothing < 1 or options.smoothing % 2 == 0:
        raise ValueError(f"--smoothing must be an odd number above 0, it is {options.smoothing}")


def _named(runs: tuple[Path, ...]) -> dict[str, Path]:
    """Files by the shortest ends of their folders' paths that tell them apart."""
    files = [path / "metrics.csv" if path.is_dir() else path for path in runs]
    folders = [file.resolve().parent.parts for file in files]
    for depth in range(1, max(map(len, folders)) + 1):
        names = ["/".join(parts[-depth:]) for parts in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, files, strict=True))
    raise ValueError("the same run is given twice: give each once")


def _read(path: Path) -> dict[str, tuple[Array, Array]]:
    """Steps and finite values of every column that has any; one infinity would take all later ones out of the mean."""
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or []
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a folder that bev-train wrote") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no metrics.csv of a run: it is not a table of text ({error})") from None
    if not rows or "step" not in names:
        raise ValueError(f"{path} is no metrics.csv of a run: it has no column step, or no row")
    columns = {}
    for name in names:
        pairs = [(_number(row["step"]), _number(row[name])) for row in rows]
        known = np.array([pair for pair in pairs if math.isfinite(sum(pair))])
        if len(known):
            columns[name] = known[:, 0], known[:, 1]
    if not columns.keys() - set(_LEFT_OUT):
        raise ValueError(f"{path} holds no curve: no row has a value beside its step")
    return columns


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _draw(axes: Axes, name: str, runs: dict[str, dict[str, tuple[Array, Array]]], smoothing: int) -> None:
    lowest = math.inf
    for number, (run, columns) in enumerate(runs.items()):
        colour = _LINES[number % len(_LINES)]
        steps, values = columns.get(name, (np.zeros(0), np.zeros(0)))
        axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(steps, smoothed(values, 1 if name in _EXACT else smoothing), color=colour, linewidth=1.6, label=run)
        lowest = min(lowest, values.min(initial=math.inf))
    if name.startswith(_LOGARITHMIC) and lowest > 0:
        axes.set_yscale("log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    plain = name.replace("loss/", "").replace("loss_", "loss ").replace("_", " ")
    axes.set_title(_TITLES.get(name, plain), fontsize=10)
    axes.set_xlabel("step", fontsize=8)
    axes.grid(color=palette.RING, linewidth=0.3)
    axes.tick_params(labelsize=8, which="both")
