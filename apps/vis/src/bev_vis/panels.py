"""The two kinds of panel: a camera picture and the map from above, each drawn on axes that it is given."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Circle, Polygon
from numpy.typing import NDArray

from bev_nuscenes import ATTRIBUTES, CLASSES
from bev_nuscenes.geometry import invert_pose

from . import palette
from .frame import EGO_LOWER, EGO_UPPER, Boxes
from .geometry import FOOTPRINT, Array, project_edges, project_front_faces
from .palette import Palette

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_LABEL_HEIGHT_FRACTION = 0.07
_DASHES = (0, (3.5, 2.5))


def draw_camera(
    axes: Axes,
    image: NDArray[np.uint8],  # (h,w,3), may be smaller than image_size
    image_size: tuple[int, int],  # width, height in the pixels that the intrinsics speak of
    intrinsics: Array,  # (3,3)
    predictions: Boxes,  # in the camera frame
    truth: Boxes,  # in the camera frame
    title: str = "",
    colours: Palette = palette.NUSCENES,
    labels: bool = False,
) -> None:
    """A camera's picture with its boxes: predictions in class colours with a filled front, truth white and dashed.

    Boxes that are large enough carry their score; with ``labels`` all carry class, score and attribute.
    """
    width, height = image_size
    axes.imshow(image, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    predictions = predictions[np.argsort(-predictions.center[:, 2])]  # far ones first, so that near ones cover them
    _draw_predicted_boxes(axes, predictions, intrinsics, image_size, colours, labels)
    segments, _ = project_edges(truth.corners(), intrinsics, image_size)
    axes.add_collection(
        LineCollection(list(segments), colors=palette.TRUTH_ON_IMAGE, linewidths=0.9, linestyles=[_DASHES])
    )
    caption(axes, title)


def draw_bev(
    axes: Axes,
    predictions: Boxes,  # in the ego frame
    truth: Boxes,  # in the ego frame
    points: Array | None,  # (P,3) in the ego frame
    range_m: float,
    colours: Palette = palette.NUSCENES,
    labels: bool = False,
    title: str = "",
) -> None:
    """The scene from above, x (forward) up: truth filled and dashed, predictions in class colours.

    A tick runs from each centre over the front edge, an arrow as far as the object moves in one second. ``labels``
    writes class and score beside every prediction and class and attribute beside every true box.
    """
    draw_ground(axes, range_m)
    if points is not None:
        axes.plot(*_seen_from_above(points).T, ",", color=palette.POINT, zorder=1)
    _draw_true_footprints(axes, truth)
    _draw_predicted_footprints(axes, predictions, colours)
    if labels:
        _label_footprints(axes, truth, scores=False)
        _label_footprints(axes, predictions, scores=True)
    if title:
        caption(axes, title)


def draw_ground(axes: Axes, range_m: float) -> None:
    """An empty map, x (forward) up: rings with their distance, and the vehicle."""
    axes.set(xlim=(-range_m, range_m), ylim=(-range_m, range_m), aspect="equal", facecolor=palette.MAP)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(palette.RING)
    _draw_rings(axes, range_m)
    _draw_ego(axes)


def caption(axes: Axes, title: str) -> None:
    """A line of text in the upper left corner."""
    box = {"facecolor": palette.INK, "edgecolor": "none", "alpha": 0.65, "pad": 2.5}
    axes.text(0.008, 0.982, title, transform=axes.transAxes, color="white", fontsize=8, va="top", bbox=box, zorder=9)


def within_range(boxes: Boxes, range_m: float) -> Boxes:
    """The boxes, given in the ego frame, whose centre lies in the square of the map."""
    return boxes[(np.abs(boxes.center[:, :2]) <= range_m).all(axis=1)]


def boxes_in_camera(boxes: Boxes, camera_to_global: Array) -> Boxes:
    """Global boxes in the frame of a camera."""
    return boxes.transform(invert_pose(camera_to_global))


def points_in_map(points: Array | None, range_m: float) -> Array | None:
    """The points (P,3) of the ego frame that the map shows."""
    return None if points is None else points[(np.abs(points[:, :2]) <= range_m).all(axis=1)]


def _draw_predicted_boxes(
    axes: Axes, boxes: Boxes, intrinsics: Array, image_size: tuple[int, int], palette_: Palette, labels: bool
) -> None:
    corners, colours = boxes.corners(), _class_colours(boxes, palette_)
    faces, owner = project_front_faces(corners, intrinsics, image_size)
    axes.add_collection(PolyCollection(faces, facecolors=[(*colours[i], 0.3) for i in owner], edgecolors="none"))
    segments, owner = project_edges(corners, intrinsics, image_size)
    # Blue and dark grey boxes vanish on dark streets without a light rim.
    axes.add_collection(LineCollection(list(segments), colors=palette.HALO, linewidths=2.4, alpha=0.45))
    axes.add_collection(LineCollection(list(segments), colors=colours[owner], linewidths=1.4, capstyle="round"))
    _label_boxes(axes, boxes, segments, owner, image_size[1], colours, labels)


def _label_boxes(
    axes: Axes,
    boxes: Boxes,
    segments: Array,  # (S,2,2)
    owner: NDArray[np.intp],  # (S,)
    image_height: int,
    colours: Array,  # (M,3)
    in_full: bool,
) -> None:
    """The score over every predicted box that is large enough to have room for one; in full, a line over each."""
    for box in np.unique(owner):
        ends = segments[owner == box].reshape(-1, 2)
        (left, top), (right, bottom) = ends.min(axis=0), ends.max(axis=0)
        if not in_full and bottom - top < _LABEL_HEIGHT_FRACTION * image_height:
            continue
        axes.text(
            (left + right) / 2,
            max(top, 0.03 * image_height),  # a box that leaves through the upper border keeps its label in view
            box_label(boxes, int(box)) if in_full else _score(boxes, int(box)),
            color="white" if colours[box] @ _LUMINANCE < 0.6 else palette.INK,
            fontsize=6.5 if in_full else 6,
            ha="center",
            va="bottom",
            clip_on=True,
            bbox={"facecolor": colours[box], "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
        )


def box_label(boxes: Boxes, box: int, *, scores: bool = True) -> str:
    """Class, score and attribute of a box in a few letters: ``car .87 parked``."""
    name = CLASSES[boxes.label[box]].replace("construction_vehicle", "constr. vehicle").replace("_", " ")
    attribute = (
        ATTRIBUTES[boxes.attribute[box]].partition(".")[2].replace("_", " ") if boxes.attribute[box] >= 0 else ""
    )
    return " ".join(filter(None, (name, _score(boxes, box) if scores else "", attribute)))


def _score(boxes: Boxes, box: int) -> str:
    return f"{boxes.score[box]:.2f}".lstrip("0")


def _label_footprints(axes: Axes, boxes: Boxes, *, scores: bool) -> None:
    """To the right of predictions and to the left of true boxes, so that a pair does not write over each other."""
    shift, side = (4, "left") if scores else (-4, "right")
    for box, place in enumerate(_seen_from_above(boxes.center)):
        axes.annotate(
            box_label(boxes, box, scores=scores),
            place,
            xytext=(shift, 0),
            textcoords="offset points",
            fontsize=5.5,
            ha=side,
            va="center",
            color=palette.INK,
            annotation_clip=True,
            zorder=8,
        )


def _draw_true_footprints(axes: Axes, truth: Boxes) -> None:
    rim = PolyCollection(list(_footprints(truth)), facecolors=palette.TRUTH_FILL, edgecolors=palette.TRUTH_ON_MAP)
    rim.set(linewidth=0.8, linestyle=[(0, (2.5, 1.8))], zorder=3)
    axes.add_collection(rim)
    _draw_ticks_and_arrows(axes, truth, palette.TRUTH_ON_MAP, width=0.8, zorder=4)


def _draw_predicted_footprints(axes: Axes, boxes: Boxes, palette_: Palette) -> None:
    colours = _class_colours(boxes, palette_)
    axes.add_collection(
        PolyCollection(list(_footprints(boxes)), facecolors="none", edgecolors=colours, linewidths=1.3, zorder=5)
    )
    _draw_ticks_and_arrows(axes, boxes, colours, width=1.3, zorder=6)


def _draw_ticks_and_arrows(axes: Axes, boxes: Boxes, colours: str | Array, width: float, zorder: float) -> None:
    start = _seen_from_above(boxes.center)
    reach = 0.5 * boxes.size[:, :1] + 0.4
    ticks = np.stack([start, _seen_from_above(boxes.center + reach * boxes.rotation[:, :, 0])], axis=1)
    axes.add_collection(LineCollection(list(ticks), colors=colours, linewidths=width, zorder=zorder))
    moving = boxes.moving()
    if moving.any():
        colours = colours if isinstance(colours, str) else colours[moving]
        arrows = _seen_from_above(boxes.velocity[moving])
        scale: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "units": "dots", "width": 1.1 * width}
        axes.quiver(*start[moving].T, *arrows.T, color=colours, zorder=zorder, headwidth=4.5, headlength=5, **scale)


def _draw_rings(axes: Axes, range_m: float) -> None:
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100) if range_m / step <= 6), 200)
    for radius in np.arange(step, range_m * np.sqrt(2), step):
        axes.add_patch(Circle((0, 0), radius, fill=False, color=palette.RING, linewidth=0.7, zorder=2))
    for radius in np.arange(step, range_m, step):
        box = {"facecolor": palette.MAP, "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        axes.text(
            0, -radius, f"{radius:g} m", color=palette.INK, fontsize=7, ha="center", va="center", bbox=box, zorder=2
        )


def _draw_ego(axes: Axes) -> None:
    (rear, *_), (front, half, _) = EGO_LOWER, EGO_UPPER
    outline = [(-half, rear), (half, rear), (half, front - 1.0), (0, front), (-half, front - 1.0)]
    axes.add_patch(Polygon(outline, facecolor=palette.INK, edgecolor="none", zorder=7))


def _footprints(boxes: Boxes) -> Array:
    return _seen_from_above(boxes.corners()[:, FOOTPRINT])


def _seen_from_above(points_ego: Array) -> Array:
    """Right and up on the page, for forward is up: (...,2)."""
    return np.stack([-points_ego[..., 1], points_ego[..., 0]], axis=-1)


def _class_colours(boxes: Boxes, palette_: Palette) -> Array:
    return np.array(palette_.classes)[boxes.label]
