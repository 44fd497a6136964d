"""The sheet a picture is drawn on: where its parts lie, and axes to draw them on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from . import palette

_DPI = 100
Rectangle = tuple[int, int, int, int]
"""Left, top, width, height in pixels from the upper left corner."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Cameras in rows of three, panels beside them, a legend below, a title above; sizes in pixels.

    Panels are as high as the cameras and the legend together. They are squares unless ``panel_width`` says otherwise.
    """

    cameras: int = 6
    columns: int = 3
    panels: int = 1
    panel_width: int | None = None
    narrow_panel: bool = False  # one more panel on the right, a third as wide as high
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
        left, top, width, height = self.narrow if self.narrow_panel else self.panel(self.panels - 1)
        return left + width + self.margin, top + height + self.margin

    @property
    def map(self) -> Rectangle:
        """The first panel."""
        return self.panel(0)

    @property
    def narrow(self) -> Rectangle:
        """The narrow panel, right of all others."""
        left, top, _, height = self.panel(self.panels)
        return left, top, height // 3, height

    @property
    def legend(self) -> Rectangle:
        _, top, _, side = self.map
        width = self.columns * (self.camera_width + self.gap) - self.gap
        return self.margin, top + side - self.legend_height, width, self.legend_height

    @property
    def title(self) -> Rectangle:
        return self.margin, self.margin, self.size[0] - 2 * self.margin, self.title_height

    def panel(self, position: int) -> Rectangle:
        width = self.panel_width or self.map_side
        left = 2 * self.margin + self.columns * (self.camera_width + self.gap) - self.gap
        return left + position * (width + 2 * self.gap), self.margin + self.title_height, width, self.map_side

    def camera(self, position: int) -> Rectangle:
        row, column = divmod(position, self.columns)
        left = self.margin + column * (self.camera_width + self.gap)
        top = self.margin + self.title_height + row * (self.camera_height + self.gap)
        return left, top, self.camera_width, self.camera_height


class Page:
    """A raster page of its own: neither a display nor pyplot's global state is needed."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        width, height = layout.size
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=palette.PAGE)
        self._canvas = FigureCanvasAgg(self._figure)

    def axes(self, rectangle: Rectangle) -> Axes:
        """Axes that fill a rectangle."""
        left, top, width, height = rectangle
        page_width, page_height = self.layout.size
        bottom = page_height - top - height
        return self._figure.add_axes(
            (left / page_width, bottom / page_height, width / page_width, height / page_height)
        )

    def title(self, text: str) -> None:
        left, top, _, height = self.layout.title
        width, full_height = self.layout.size
        across, up = left / width, 1 - (top + 0.3 * height) / full_height
        self._figure.text(across, up, text, fontsize=13, color=palette.INK, va="center")

    def legend(self, entries: Sequence[Artist]) -> None:
        """Entries in two rows below the cameras, in three if there are many."""
        rows = 2 if len(entries) <= 18 else 3
        axes = self.axes(self.layout.legend)
        axes.set_axis_off()
        axes.legend(
            handles=list(entries),
            loc="lower left",
            bbox_to_anchor=(0, 0),
            borderaxespad=0,
            ncol=-(-len(entries) // rows),
            frameon=False,
            fontsize=9,
            handlelength=1.6,
            columnspacing=1.8,
            borderpad=0.2,
        )

    def pixels(self) -> NDArray[np.uint8]:
        """The finished page (H,W,3)."""
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()
