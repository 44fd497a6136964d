"""Training targets of the CenterPoint head, for a whole batch at once.

Shapes: B samples, K classes of a task, (Y, X) cells, M = max_objects, N boxes of the batch.
Source: CenterPoint (Yin et al., 2021), section 4, with the details of the published BEVDet systems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bev_ops import BevGrid

from .box_code import encode_boxes
from .options import CenterTargetOptions

__all__ = ["CenterTargets", "center_targets", "gaussian_radius"]


@dataclass(frozen=True, eq=False)
class CenterTargets:
    """What one task should predict. Slots of `cell` and `box_code` without a box are zero and False in `mask`."""

    heatmap: Tensor  # (B, K, Y, X) float32, 1 at the cell of a box centre, falling off around it
    cell: Tensor  # (B, M) int64, cell number y * X + x
    box_code: Tensor  # (B, M, 10) float32, see box_code.py; velocity may be NaN (unknown)
    mask: Tensor  # (B, M) bool


def center_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    classes_per_task: Sequence[int],
    grid: BevGrid,
    options: CenterTargetOptions | None = None,
    *,
    log_dimensions: bool = True,
) -> list[CenterTargets]:
    """Targets of every task, on the device of the boxes.

    The slots of a task hold its boxes class by class, within a class in the order given. Boxes without a positive size,
    outside the grid or beyond `max_objects` leave their slot empty and draw nothing. There is no loop over boxes: time
    and memory are linear in the targets (B * K * Y * X heatmap cells, B * M slots) plus the cells under the peaks.

    Args:
        boxes: per sample (M_b, 9), key-ego frame; NaN velocity means unknown.
        labels: per sample (M_b,) integers, indices into the classes of all tasks one after another.
        classes_per_task: number of classes of each task.

    Returns:
        One CenterTargets per task.

    Raises:
        ValueError: boxes or labels of wrong shape, labels out of range, or non-finite numbers but for a NaN velocity.
    """
    options = options or CenterTargetOptions()
    num_classes = sum(classes_per_task)
    _check_ground_truth(boxes, labels, num_classes)
    objects = _rank_objects(boxes, labels, classes_per_task)
    codes = encode_boxes(objects.boxes, grid, log_dimensions=log_dimensions)
    has_size = (objects.boxes[:, 3:6] > 0).all(dim=1)
    kept = codes.inside & has_size & (objects.slot < options.max_objects)
    objects, code, cell_xy = _Objects(*(field[kept] for field in objects)), codes.code[kept], codes.cell_xy[kept]

    plane = objects.sample * num_classes + objects.label
    radius = _peak_radius(objects.boxes, grid, options)
    heatmaps = _draw_peaks(plane, cell_xy, radius, len(boxes) * num_classes, grid)
    heatmaps = heatmaps.unflatten(0, (len(boxes), num_classes)).split(tuple(classes_per_task), dim=1)

    slots = (len(boxes), len(classes_per_task), options.max_objects)
    cell = _in_slots(cell_xy[:, 1] * grid.size[0] + cell_xy[:, 0], objects, slots).unbind(1)
    box_code = _in_slots(code, objects, slots).unbind(1)
    mask = _in_slots(torch.ones_like(objects.slot, dtype=torch.bool), objects, slots).unbind(1)
    return [CenterTargets(*task) for task in zip(heatmaps, cell, box_code, mask, strict=True)]


def gaussian_radius(length: Tensor, width: Tensor, min_overlap: float) -> Tensor:
    """Radius of the peak of a box, in the unit of its sides.

    The smallest shift of two opposite corners (one inward and one outward, both inward, or both outward) that lets the
    IoU with the unshifted box fall to `min_overlap`. The published form is kept: it divides each root by two instead of
    by twice the leading coefficient, and the published weights were trained with the peaks this gives.

    Args:
        length, width: (N,) sides of the boxes.

    Returns:
        (N,)
    """
    one_each, inside, outside = length + width, 2 * (length + width), -2 * min_overlap * (length + width)
    # The order of the factors is the published one: radii are cut to whole cells, so the last bit can matter.
    root_1 = torch.sqrt(one_each**2 - 4 * (width * length * (1 - min_overlap) / (1 + min_overlap)))
    root_2 = torch.sqrt(inside**2 - 16 * ((1 - min_overlap) * width * length))
    root_3 = torch.sqrt(outside**2 - 4 * (4 * min_overlap) * ((min_overlap - 1) * width * length))
    radii = torch.stack([(one_each + root_1) / 2, (inside + root_2) / 2, (outside + root_3) / 2])
    return radii.amin(dim=0)


class _Objects(NamedTuple):
    """All boxes of a batch, sorted by sample, task, class and order given."""

    boxes: Tensor  # (N, 9) float32
    sample: Tensor  # (N,) int64
    label: Tensor  # (N,) int64
    task: Tensor  # (N,) int64
    slot: Tensor  # (N,) int64, rank within sample and task


def _rank_objects(boxes: Sequence[Tensor], labels: Sequence[Tensor], classes_per_task: Sequence[int]) -> _Objects:
    device = boxes[0].device
    counts = torch.tensor([len(sample_boxes) for sample_boxes in boxes], device=device)
    sample = torch.repeat_interleave(torch.arange(len(boxes), device=device), counts)
    label = torch.cat(list(labels)).long()
    order = torch.argsort(sample * sum(classes_per_task) + label, stable=True)
    sample, label = sample[order], label[order]

    classes = torch.tensor(tuple(classes_per_task), device=device)
    task = torch.repeat_interleave(torch.arange(len(classes_per_task), device=device), classes)[label]
    group = sample * len(classes_per_task) + task
    slot = torch.arange(len(group), device=device) - torch.searchsorted(group, group)
    return _Objects(torch.cat(list(boxes))[order].float(), sample, label, task, slot)


def _in_slots(values: Tensor, objects: _Objects, slots: tuple[int, int, int]) -> Tensor:
    """Values (N, ...) of the objects at their place in zeros (B, tasks, M, ...)."""
    placed = values.new_zeros((*slots, *values.shape[1:]))
    placed[objects.sample, objects.task, objects.slot] = values
    return placed


def _peak_radius(boxes: Tensor, grid: BevGrid, options: CenterTargetOptions) -> Tensor:
    """Radii (N,) int64 in cells of boxes (N, 9)."""
    sides = boxes[:, 3:5] / boxes.new_tensor(grid.step[:2])
    radius = gaussian_radius(sides[:, 0], sides[:, 1], options.gaussian_overlap)
    return radius.long().clamp(min=options.min_radius)


def _draw_peaks(plane: Tensor, cell_xy: Tensor, radius: Tensor, num_planes: int, grid: BevGrid) -> Tensor:
    """Heatmaps (num_planes, Y, X) with the peak of box i in plane[i]; where peaks meet, the higher wins.

    Every box lists the cells of its square, cut at the border; all lists lie one after another. The published code also
    clears values below the float64 resolution; that never happens, as the corner of a peak is above exp(-9).
    """
    cells_x, cells_y = grid.size[:2]
    size = torch.tensor([cells_x, cells_y], device=cell_xy.device)
    first = (cell_xy - radius[:, None]).clamp(min=0)
    extent = torch.minimum(cell_xy + radius[:, None] + 1, size) - first
    area = extent.prod(dim=1)
    owner = torch.repeat_interleave(area)
    rank = torch.arange(len(owner), device=owner.device) - (area.cumsum(0) - area)[owner]
    columns = extent[owner, 0]
    xy = first[owner] + torch.stack([rank % columns, rank // columns], dim=1)

    sigma = (2 * radius + 1).double() / 6
    squared_distance = (xy - cell_xy[owner]).square().sum(dim=1)
    value = torch.exp(-squared_distance / (2 * sigma * sigma)[owner]).float()
    index = (plane[owner] * cells_y + xy[:, 1]) * cells_x + xy[:, 0]
    heatmaps = value.new_zeros(num_planes * cells_y * cells_x)
    return heatmaps.scatter_reduce(0, index, value, "amax").view(num_planes, cells_y, cells_x)


def _check_ground_truth(boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int) -> None:
    if len(boxes) != len(labels) or not boxes:
        raise ValueError(
            f"boxes and labels must hold one tensor per sample, at least one; got {len(boxes)} and {len(labels)}"
        )
    for sample, (sample_boxes, sample_labels) in enumerate(zip(boxes, labels, strict=True)):
        if sample_boxes.ndim != 2 or sample_boxes.shape[1] != 9:
            raise ValueError(
                f"boxes of sample {sample} must be (M, 9): x, y, z, length, width, height, yaw, vx, vy; "
                f"got {tuple(sample_boxes.shape)}; pass torch.zeros(0, 9) for a sample without boxes"
            )
        if sample_labels.shape != sample_boxes.shape[:1] or sample_labels.is_floating_point():
            raise ValueError(
                f"labels of sample {sample} must be ({len(sample_boxes)},) integers, one per box; "
                f"got {tuple(sample_labels.shape)} {sample_labels.dtype}"
            )
    _check_values(torch.cat(list(boxes)), torch.cat(list(labels)), num_classes)


def _check_values(boxes: Tensor, labels: Tensor, num_classes: int) -> None:
    """Look at boxes (N, 9) and labels (N,) once for the whole batch: each look makes a GPU wait."""
    bad_label = (labels < 0) | (labels >= num_classes)
    bad_box = ~boxes[:, :7].isfinite().all(dim=1) | boxes[:, 7:].isinf().any(dim=1)
    if not (bad_label | bad_box).any():
        return
    if bad_label.any():
        wrong = sorted(set(labels[bad_label].tolist()))
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, one per class of the head; got {wrong}")
    raise ValueError(
        "boxes must hold finite numbers (only a velocity may be NaN, for unknown); "
        f"{int(bad_box.sum())} of {len(boxes)} boxes do not, the first is {boxes[bad_box][0].tolist()}"
    )
