"""Depth over the camera pictures, maps of the history and heatmaps, drawn on axes or pixels that they are given."""

from collections.abc import Iterator

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, PowerNorm, TwoSlopeNorm
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from .geometry import Array
from .inner import DepthView, HeatmapView, HistoryView
from .page import Page, Rectangle
from .palette import Palette
from .panels import caption

_DEPTH_COLOURS, _DEPTH_RANGE_M = "turbo_r", (2.0, 60.0)
_ERROR_COLOURS, _ERROR_LIMIT_M = "coolwarm", 10.0
_OPACITY = 0.55


def blend_depth(
    pixels: NDArray[np.uint8],  # (h,w,3)
    image_size: tuple[int, int],  # width, height in the pixels that image_aug speaks of
    depth: DepthView,
    camera: int,
) -> NDArray[np.uint8]:  # (h,w,3)
    """The picture with the expected depth over it, red near and blue far; what the network does not see stays bare."""
    height, width = pixels.shape[:2]
    columns = (np.arange(width) + 0.5) * image_size[0] / width
    rows = (np.arange(height) + 0.5) * image_size[1] / height
    raw = np.stack([*np.meshgrid(columns, rows), np.ones((height, width))], axis=-1)
    seen = raw @ depth.image_aug[camera].T
    cells = depth.expected_m[camera]
    input_height, input_width = depth.input_size
    row = np.floor(seen[..., 1] / seen[..., 2] * cells.shape[0] / input_height).astype(int)
    column = np.floor(seen[..., 0] / seen[..., 2] * cells.shape[1] / input_width).astype(int)
    inside = (row >= 0) & (row < cells.shape[0]) & (column >= 0) & (column < cells.shape[1])
    colours = 255 * matplotlib.colormaps[_DEPTH_COLOURS](_depth_norm()(cells))[..., :3]
    blended = pixels.astype(np.float64)
    blended[inside] += _OPACITY * (colours[row[inside], column[inside]] - blended[inside])
    return blended.astype(np.uint8)


def draw_depth_errors(axes: Axes, depth: DepthView, camera: int) -> None:
    """A dot for every feature pixel that LiDAR measured: red too far, blue too near, pale right."""
    error = depth.expected_m[camera] - depth.lidar_m[camera]
    row, column = np.nonzero(np.isfinite(error))
    height, width = error.shape
    seen = np.stack(
        [(column + 0.5) * depth.input_size[1] / width, (row + 0.5) * depth.input_size[0] / height, np.ones(len(row))]
    )
    raw = np.linalg.inv(depth.image_aug[camera]) @ seen
    colours = matplotlib.colormaps[_ERROR_COLOURS](
        TwoSlopeNorm(0.0, -_ERROR_LIMIT_M, _ERROR_LIMIT_M)(error[row, column])
    )
    axes.scatter(*(raw[:2] / raw[2]), s=5, c=colours, edgecolors="none")


def depth_caption(depth: DepthView, camera: int) -> str:
    """The mean error over the dots, where there is LiDAR."""
    error = np.abs(depth.expected_m[camera] - depth.lidar_m[camera])
    return "" if np.isnan(error).all() else f"   depth error {np.nanmean(error):.1f} m on average"


def depth_legend() -> Iterator[Line2D]:
    """What the colours of depth and of its error say."""
    near, far = _DEPTH_RANGE_M
    for metres in (near, 10.0, far):
        colour = matplotlib.colormaps[_DEPTH_COLOURS](_depth_norm()(metres))
        yield Line2D([], [], color=colour, linewidth=4, label=f"expected depth {metres:g} m")
    for end, label in ((1.0, "too far"), (0.0, "too near")):
        colour = matplotlib.colormaps[_ERROR_COLOURS](end)
        yield Line2D([], [], color=colour, linewidth=0, marker="o", label=f"{label} by {_ERROR_LIMIT_M:g} m or more")


def draw_history(page: Page, rectangle: Rectangle, history: HistoryView) -> None:
    """Three maps below each other, on one scale: now, before as warped to now, and how far the two differ."""
    left, top, width, height = rectangle
    side = min(width, height // 3)
    brightest = float(np.stack([history.now, history.before]).max())
    scale = PowerNorm(0.5, 0.0, max(brightest, 1e-6), clip=True)  # cells near the vehicle outshine all others
    for position, (title, cells) in enumerate(
        (
            ("features now", history.now),
            ("frame before, warped to now", history.before),
            ("length of their difference", history.difference),
        )
    ):
        axes = page.axes((left, top + position * (height // 3), side - 4, side - 4))
        axes.imshow(_forward_up(cells), cmap="magma", norm=scale, interpolation="nearest")
        axes.set_axis_off()
        caption(axes, title)


def draw_heatmap(axes: Axes, heatmap: HeatmapView, colours: Palette) -> None:
    """The ground of a map in the colour of the likeliest class, the stronger the surer."""
    (x_lower, y_lower), (x_upper, y_upper) = heatmap.lower, heatmap.upper
    cells = np.concatenate([np.array(colours.classes)[heatmap.label], heatmap.strength[..., None]], axis=-1)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(
        _forward_up(cells),
        extent=(-y_upper, -y_lower, x_lower, x_upper),  # the page has y to the left
        interpolation="nearest",
        zorder=0.5,
    )
    axes.set(xlim=limits[0], ylim=limits[1])


def _forward_up(cells: Array) -> Array:
    """(X,Y) cells with x up and y to the left."""
    return cells[::-1, ::-1]


def _depth_norm() -> LogNorm:
    return LogNorm(*_DEPTH_RANGE_M, clip=True)
