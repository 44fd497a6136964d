"""The whole picture of boxes: cameras beside the map from above, and what a model saw on its way."""

from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image

from bev_nuscenes import CLASSES
from bev_nuscenes.files import read_image
from bev_nuscenes.geometry import invert_pose

from . import palette
from .frame import Boxes, Camera, Frame
from .inner import DepthView, InnerView
from .layers import blend_depth, depth_caption, depth_legend, draw_depth_errors, draw_heatmap, draw_history
from .page import Layout, Page
from .palette import NUSCENES, Palette
from .panels import boxes_in_camera, draw_bev, draw_camera, points_in_map, within_range


def render_frame(
    frame: Frame,
    predictions: Boxes,  # global
    *,
    range_m: float = 51.2,
    subtitle: str = "",
    colours: Palette = NUSCENES,
    beside: bool = False,
    labels: bool = False,
    inner: InnerView | None = None,
) -> NDArray[np.uint8]:  # (H,W,3)
    """Draw a frame with its predicted and true boxes.

    Boxes whose centre lies outside the square of ``range_m`` metres around the ego vehicle are left out everywhere.
    ``subtitle`` is appended to the title; ``beside`` draws truth and prediction on two maps, ``labels`` names every
    box, ``inner`` adds depth over the images and maps of the history. Raises ValueError for a camera image that is
    missing or broken.
    """
    inner = inner or InnerView()
    layout = Layout(cameras=len(frame.cameras), panels=1 + beside, narrow_panel=inner.history is not None)
    global_to_ego = invert_pose(frame.ego_to_global)
    predicted, true = (within_range(boxes.transform(global_to_ego), range_m) for boxes in (predictions, frame.truth))
    page = Page(layout)
    for position, camera in enumerate(frame.cameras):
        in_camera = (
            boxes_in_camera(boxes.transform(frame.ego_to_global), camera.camera_to_global)
            for boxes in (predicted, true)
        )
        add_camera(page, position, camera, *in_camera, colours, labels, inner.depth)
    map_axes = _add_maps(page, predicted, true, frame, range_m, colours, beside, labels)
    if inner.heatmap is not None:
        draw_heatmap(map_axes, inner.heatmap, colours)
    if inner.history is not None:
        draw_history(page, layout.narrow, inner.history)
    depth_entries = [] if inner.depth is None else list(depth_legend())
    page.legend([*_legend_entries(predicted, true, colours), *depth_entries])
    counts = f"{len(predicted)} predicted, {len(true)} true boxes within ±{range_m:g} m"
    page.title("   ".join(filter(None, (frame.scene, frame.token, counts, subtitle))))
    return page.pixels()


def add_camera(
    page: Page,
    position: int,
    camera: Camera,
    predicted: Boxes,  # in the camera frame
    true: Boxes,  # in the camera frame
    colours: Palette = NUSCENES,
    labels: bool = False,
    depth: DepthView | None = None,
) -> None:
    """Put the camera at its place on the page, whatever the shape of its picture."""
    left, top, width, height = page.layout.camera(position)
    image = read_image(camera.image, camera.size)
    image.thumbnail((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    shown_width, shown_height = image.size
    inset = left + (width - shown_width) // 2, top + (height - shown_height) // 2, shown_width, shown_height
    axes, pixels, title = page.axes(inset), np.asarray(image), camera.name
    if depth is not None:
        pixels = blend_depth(pixels, camera.size, depth, position)
        title += depth_caption(depth, position)
    draw_camera(axes, pixels, camera.size, camera.intrinsics, predicted, true, title, colours, labels)
    if depth is not None:
        draw_depth_errors(axes, depth, position)


def _add_maps(
    page: Page,
    predicted: Boxes,
    true: Boxes,
    frame: Frame,
    range_m: float,
    colours: Palette,
    beside: bool,
    labels: bool,
) -> Axes:
    """The map, or the two; returns that of the predictions."""
    points, none = points_in_map(frame.points, range_m), np.zeros(0, np.intp)
    if not beside:
        axes = page.axes(page.layout.map)
        draw_bev(axes, predicted, true, points, range_m, colours, labels)
        return axes
    for position, (shown, there, title) in enumerate(
        ((true[none], true, "ground truth"), (predicted, true[none], "prediction"))
    ):
        axes = page.axes(page.layout.panel(position))
        draw_bev(axes, shown, there, points, range_m, colours, labels, title)
    return axes


def _legend_entries(predicted: Boxes, true: Boxes, colours: Palette) -> Iterator[Line2D]:
    """A line per class with how many boxes of it are predicted and true, and one for each style."""
    for label, (name, colour) in enumerate(zip(CLASSES, colours.classes, strict=True)):
        found, there = (int((boxes.label == label).sum()) for boxes in (predicted, true))
        yield Line2D([], [], color=colour, linewidth=4, label=f"{name.replace('_', ' ')} ({found} / {there})")
    ink = palette.INK
    yield Line2D([], [], color=ink, linewidth=1.8, label="predicted (first number), score, front filled")
    yield Line2D(
        [], [], color=ink, linewidth=1, linestyle=(0, (2.5, 1.8)), label="true (second number), white on images"
    )
    yield Line2D([], [], color=ink, linewidth=0, marker="$\u2192$", markersize=11, label="motion in one second")
    yield Line2D([], [], color=palette.POINT, linewidth=0, marker=".", label="LiDAR point")
