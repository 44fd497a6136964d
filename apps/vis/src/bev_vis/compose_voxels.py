"""The whole picture of voxels: cameras, and beside them the cells from above and in perspective, predicted and true."""

from collections.abc import Iterator

import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bev_nuscenes import FREE, OCCUPANCY_CLASSES, OCCUPANCY_LOWER, OccupancyTruth

from .compose import add_camera
from .frame import Boxes, Frame, Voxels
from .inner import InnerView
from .layers import depth_legend, draw_history
from .page import Layout, Page, Rectangle
from .palette import NUSCENES, Palette
from .panels import caption, draw_ground
from .voxels import from_above, in_perspective

_PANEL_WIDTH, _PANEL_SHAPE = 436, 0.59  # pixels at most, and width by height
_RANGE_M = -OCCUPANCY_LOWER[0]


def render_voxels(
    frame: Frame,
    predicted: Voxels,  # (X,Y,Z)
    truth: OccupancyTruth | None,
    *,
    subtitle: str = "",
    colours: Palette = NUSCENES,
    seen_only: bool = True,
    inner: InnerView | None = None,
) -> NDArray[np.uint8]:  # (H,W,3)
    """Draw a frame with its predicted voxels and, where they are known, the true ones.

    With ``seen_only`` and ground truth, cells that no camera sees are left out on both sides: evaluation does not look
    at them and training taught nothing about them. Raises ValueError for a camera image that is missing or broken.
    """
    inner = inner or InnerView()
    sides = [("prediction", predicted)] + ([] if truth is None else [("ground truth", truth.semantics)])
    layout = Layout(
        cameras=len(frame.cameras),
        panels=len(sides),
        panel_width=_panel_width(len(frame.cameras)),
        narrow_panel=inner.history is not None,
    )
    page, none = Page(layout), Boxes.from_ego(np.zeros((0, 9)), np.zeros(0, np.int64))
    for position, camera in enumerate(frame.cameras):
        add_camera(page, position, camera, none, none, colours, depth=inner.depth)
    hidden = ~truth.mask_camera if truth is not None and seen_only else None
    shown = [labels if hidden is None else np.where(hidden, FREE, labels).astype(np.uint8) for _, labels in sides]
    for position, ((name, _), labels) in enumerate(zip(sides, shown, strict=True)):
        _add_panel(page, layout.panel(position), labels, name, colours)
    if inner.history is not None:
        draw_history(page, layout.narrow, inner.history)
    depth_entries = [] if inner.depth is None else list(depth_legend())
    page.legend([*_legend_entries(shown, colours), *depth_entries])
    cells = " and ".join(
        f"{int((labels != FREE).sum())} {name} cells"
        for labels, name in zip(shown, ("predicted", "true"), strict=False)
    )
    which = "" if hidden is None else "that a camera sees"
    page.title("   ".join(filter(None, (frame.scene, frame.token, f"{cells} {which}".strip(), subtitle))))
    return page.pixels()


def _panel_width(cameras: int) -> int:
    """Narrower where few cameras make a low page, so that the view in perspective finds room below the map."""
    return min(_PANEL_WIDTH, int(_PANEL_SHAPE * Layout(cameras=cameras).map_side))


def _add_panel(page: Page, rectangle: Rectangle, labels: Voxels, name: str, colours: Palette) -> None:
    """The cells from above in a square, and in perspective in what is left below it."""
    left, top, width, height = rectangle
    axes = page.axes((left, top, width, width))
    axes.imshow(
        from_above(labels, colours)[::-1, ::-1],  # x up, y to the left
        extent=(-_RANGE_M, _RANGE_M, -_RANGE_M, _RANGE_M),
        interpolation="nearest",
    )
    draw_ground(axes, _RANGE_M)
    caption(axes, name)
    below = top + width + page.layout.gap
    size = width, top + height - below
    axes = page.axes((left, below, *size))
    axes.imshow(in_perspective(labels, size, colours), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    caption(axes, f"{name}, from behind")


def _legend_entries(shown: list[Voxels], colours: Palette) -> Iterator[Patch]:
    """An entry per class with its share of the occupied cells, of the prediction and of the truth."""
    counts = [np.bincount(labels.ravel(), minlength=FREE + 1)[:FREE] for labels in shown]
    for label, (name, colour) in enumerate(zip(OCCUPANCY_CLASSES, colours.voxels, strict=False)):
        shares = " / ".join(f"{100 * count[label] / max(1, count.sum()):.0f}" for count in counts)
        yield Patch(facecolor=colour, label=f"{name.replace('_', ' ')} ({shares} %)")
