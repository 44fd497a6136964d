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

from bev_ops import BevGrid, draw_peaks

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
    With the compiled kernels nothing here waits for a GPU. That is why the values of boxes and labels on a GPU are
    checked on it: a bad one ends in a CUDA assertion instead of a ValueError.

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

    plane = torch.where(kept, objects.sample * num_classes + objects.label, -1)
    radius = _peak_radius(objects.boxes, grid, options)
    heatmaps = draw_peaks(plane, codes.cell_xy, radius, len(boxes) * num_classes, grid.size[:2])
    heatmaps = heatmaps.unflatten(0, (len(boxes), num_classes)).split(tuple(classes_per_task), dim=1)

    slots = (len(boxes), len(classes_per_task), options.max_objects)
    cell = _in_slots(codes.cell_xy[:, 1] * grid.size[0] + codes.cell_xy[:, 0], objects, kept, slots).unbind(1)
    box_code = _in_slots(codes.code, objects, kept, slots).unbind(1)
    mask = _in_slots(kept, objects, kept, slots).unbind(1)
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
    root_1 = torch.sqrt(one_each**2 - 4 * (width * length * (1 - min_overlap) / length.new_full((), 1 + min_overlap)))
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
    sample = _numbered([len(sample_boxes) for sample_boxes in boxes], device)
    label = torch.cat(list(labels)).long()
    order = torch.argsort(sample * sum(classes_per_task) + label, stable=True)
    sample, label = sample[order], label[order]

    task = _numbered(classes_per_task, device)[label]
    group = sample * len(classes_per_task) + task
    slot = torch.arange(len(group), device=device) - torch.searchsorted(group, group)
    return _Objects(torch.cat(list(boxes))[order].float(), sample, label, task, slot)


def _numbered(counts: Sequence[int], device: torch.device) -> Tensor:
    """counts[0] zeros, counts[1] ones, ...: (sum of counts,) int64, without sending the counts to the device."""
    return torch.cat([torch.full((count,), i, device=device) for i, count in enumerate(counts)])


def _in_slots(values: Tensor, objects: _Objects, kept: Tensor, slots: tuple[int, int, int]) -> Tensor:
    """Values (N, ...) of the kept objects at their place in zeros (B, tasks, M, ...)."""
    samples, tasks, last = slots
    placed = values.new_zeros((samples, tasks, last + 1, *values.shape[1:]))
    # The others share a slot that is cut off: to leave them out, their number would have to be known.
    placed[objects.sample, objects.task, torch.where(kept, objects.slot, last)] = values
    return placed[:, :, :last]


def _peak_radius(boxes: Tensor, grid: BevGrid, options: CenterTargetOptions) -> Tensor:
    """Radii (N,) int64 in cells of boxes (N, 9)."""
    # Tensors, because CUDA divides by a Python number through its reciprocal; filled there, so that nothing waits.
    length, width = (boxes[:, 3 + i] / boxes.new_full((), grid.step[i]) for i in range(2))
    radius = gaussian_radius(length, width, options.gaussian_overlap)
    return radius.long().clamp(min=options.min_radius)


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
    """Look at boxes (N, 9) and labels (N,) once for the whole batch."""
    bad_label = (labels < 0) | (labels >= num_classes)
    bad_box = ~boxes[:, :7].isfinite().all(dim=1) | boxes[:, 7:].isinf().any(dim=1)
    if boxes.device.type != "cpu":  # to know here, this process would have to wait
        torch._assert_async(~(bad_label | bad_box).any(), "center_targets: a label or a box has an impossible value")
        return
    if not (bad_label | bad_box).any():
        return
    if bad_label.any():
        wrong = sorted(set(labels[bad_label].tolist()))
        raise ValueError(f"labels must lie in 0..{num_classes - 1}, one per class of the head; got {wrong}")
    raise ValueError(
        "boxes must hold finite numbers (only a velocity may be NaN, for unknown); "
        f"{int(bad_box.sum())} of {len(boxes)} boxes do not, the first is {boxes[bad_box][0].tolist()}"
    )
