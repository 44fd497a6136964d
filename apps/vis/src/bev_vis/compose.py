"""The whole picture: cameras in rows of three, the map beside them, a legend below, a title above."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from bev_nuscenes import CLASSES
from bev_nuscenes.files import read_image
from bev_nuscenes.geometry import invert_pose

from . import palette
from .frame import Boxes, Camera, Frame
from .panels import boxes_in_camera, draw_bev, draw_camera, points_in_map, within_range

_DPI = 100


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes in pixels; rectangles are left, top, width, height from the upper left corner."""

    cameras: int = 6
    columns: int = 3
    camera_width: int = 592
    camera_height: int = 333
    gap: int = 8
    margin: int = 16
    title_height: int = 40
    legend_height: int = 66

    @property
    def rows(self) -> int:
        return -(-self.cameras // self.columns)

    @property
    def map_side(self) -> int:
        return self.rows * (self.camera_height + self.gap) - self.gap + self.legend_height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        left, top, side, _ = self.map
        return left + side + self.margin, top + side + self.margin

    @property
    def map(self) -> tuple[int, int, int, int]:
        left = 2 * self.margin + self.columns * (self.camera_width + self.gap) - self.gap
        return left, self.margin + self.title_height, self.map_side, self.map_side

    @property
    def legend(self) -> tuple[int, int, int, int]:
        _, top, side, _ = self.map
        width = self.columns * (self.camera_width + self.gap) - self.gap
        return self.margin, top + side - self.legend_height, width, self.legend_height

    @property
    def title(self) -> tuple[int, int, int, int]:
        return self.margin, self.margin, self.size[0] - 2 * self.margin, self.title_height

    def camera(self, position: int) -> tuple[int, int, int, int]:
        row, column = divmod(position, self.columns)
        left = self.margin + column * (self.camera_width + self.gap)
        top = self.margin + self.title_height + row * (self.camera_height + self.gap)
        return left, top, self.camera_width, self.camera_height


def render_frame(
    frame: Frame,
    predictions: Boxes,  # global
    *,
    range_m: float = 51.2,
    subtitle: str = "",
) -> NDArray[np.uint8]:  # (H,W,3)
    """Draw a frame with its predicted and true boxes.

    Boxes whose centre lies outside the square of ``range_m`` metres around the ego vehicle are left out everywhere.
    ``subtitle`` is appended to the title. Raises ValueError for a camera image that is missing or broken.
    """
    global_to_ego = invert_pose(frame.ego_to_global)
    predicted_ego, true_ego = (
        within_range(boxes.transform(global_to_ego), range_m) for boxes in (predictions, frame.truth)
    )
    layout = Layout(cameras=len(frame.cameras))
    figure = _new_figure(layout.size)
    predicted, true = (boxes.transform(frame.ego_to_global) for boxes in (predicted_ego, true_ego))
    for position, camera in enumerate(frame.cameras):
        _add_camera(figure, layout, position, camera, predicted, true)
    axes = _add_axes(figure, layout.map)
    draw_bev(axes, predicted_ego, true_ego, points_in_map(frame.points, range_m), range_m)
    _add_legend(figure, layout, predicted_ego, true_ego)
    counts = f"{len(predicted_ego)} predicted, {len(true_ego)} true boxes within ±{range_m:g} m"
    _add_title(figure, layout, "   ".join(filter(None, (frame.scene, frame.token, counts, subtitle))))
    return _pixels(figure)


def _add_camera(figure: Figure, layout: Layout, position: int, camera: Camera, predicted: Boxes, true: Boxes) -> None:
    left, top, width, height = layout.camera(position)
    image = read_image(camera.image, camera.size)
    image.thumbnail((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    shown_width, shown_height = image.size
    inset = left + (width - shown_width) // 2, top + (height - shown_height) // 2, shown_width, shown_height
    draw_camera(
        _add_axes(figure, inset),
        np.asarray(image),
        camera.size,
        camera.intrinsics,
        boxes_in_camera(predicted, camera.camera_to_global),
        boxes_in_camera(true, camera.camera_to_global),
        camera.name,
    )


def _add_legend(figure: Figure, layout: Layout, predicted: Boxes, true: Boxes) -> None:
    axes = _add_axes(figure, layout.legend)
    axes.set_axis_off()
    entries = list(_legend_entries(predicted, true))
    axes.legend(
        handles=entries,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        borderaxespad=0,
        ncol=-(-len(entries) // 2),
        frameon=False,
        fontsize=9,
        handlelength=1.6,
        columnspacing=1.8,
        borderpad=0.2,
    )


def _legend_entries(predicted: Boxes, true: Boxes) -> Iterator[Line2D]:
    """A line per class with how many boxes of it are predicted and true, and one for each style."""
    for label, (name, colour) in enumerate(zip(CLASSES, palette.CLASS_COLOURS, strict=True)):
        found, there = (int((boxes.label == label).sum()) for boxes in (predicted, true))
        yield Line2D([], [], color=colour, linewidth=4, label=f"{name.replace('_', ' ')} ({found} / {there})")
    ink = palette.INK
    yield Line2D([], [], color=ink, linewidth=1.8, label="predicted (first number), score, front filled")
    yield Line2D(
        [], [], color=ink, linewidth=1, linestyle=(0, (2.5, 1.8)), label="true (second number), white on images"
    )
    yield Line2D([], [], color=ink, linewidth=0, marker="$\u2192$", markersize=11, label="motion in one second")
    yield Line2D([], [], color=palette.POINT, linewidth=0, marker=".", label="LiDAR point")


def _add_title(figure: Figure, layout: Layout, text: str) -> None:
    left, top, _, height = layout.title
    width, full_height = layout.size
    figure.text(left / width, 1 - (top + 0.3 * height) / full_height, text, fontsize=13, color=palette.INK, va="center")


def _new_figure(size: tuple[int, int]) -> Figure:
    width, height = size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=palette.PAGE)
    FigureCanvasAgg(figure)  # a raster canvas of its own: neither a display nor pyplot's global state is needed
    return figure


def _add_axes(figure: Figure, rectangle: tuple[int, int, int, int]) -> Axes:
    left, top, width, height = rectangle
    page_width, page_height = (round(side * _DPI) for side in figure.get_size_inches())
    bottom = page_height - top - height
    return figure.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
