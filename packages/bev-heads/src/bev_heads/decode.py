"""From raw predictions to detections.

Shapes: B samples, T tasks, (Y, X) cells, C candidates per sample and task, K rows of a padded result, M boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from bev_ops import BevGrid, NmsRule, best_of_rows, nms_batched

from ._constants import constant
from .box_code import CenterOutput, decode_boxes, gather_codes
from .detections import Detections, PaddedDetections
from .options import DecodeOptions, NmsOptions

__all__ = ["BoxCandidates", "best_candidates", "decode_centers", "decode_centers_padded", "suppress_candidates"]


class BoxCandidates(NamedTuple):
    """The best cells of every task, best first, before any of them is suppressed."""

    boxes: Tensor  # (B, T, C, 9) as in Detections
    scores: Tensor  # (B, T, C) in 0..1; -1 where a task has fewer than C cells to offer
    labels: Tensor  # (B, T, C) int64


def decode_centers(
    outputs: Sequence[CenterOutput], grid: BevGrid, options: DecodeOptions | None = None, *, log_dimensions: bool = True
) -> list[Detections]:
    """Detections of every sample: task by task, within a task best first.

    The best cells of each task become boxes; those above the score threshold with their centre in range pass the
    suppression of their task. Labels count the classes of all tasks one after another.

    Waits for the device once, for the numbers of boxes; see ``decode_centers_padded`` for a result without that.

    Raises:
        ValueError: as ``decode_centers_padded``.
    """
    return decode_centers_padded(outputs, grid, options, log_dimensions=log_dimensions).unpadded()


@torch.no_grad()
def decode_centers_padded(
    outputs: Sequence[CenterOutput], grid: BevGrid, options: DecodeOptions | None = None, *, log_dimensions: bool = True
) -> PaddedDetections:
    """Detections of all samples in tensors whose shapes do not depend on the values; the same boxes in the same order.

    All tasks and samples go through one selection and one suppression. Nothing waits for the device, so that the call
    can be exported, or captured in a CUDA graph after a first call outside of it. K is the sum over the tasks of the
    most boxes that may leave their suppression.

    Raises:
        ValueError: there is no task, the tasks differ in samples or cells, or the options do not fit the tasks.
    """
    options = options or DecodeOptions()
    candidates = best_candidates(outputs, grid, options, log_dimensions=log_dimensions)
    return suppress_candidates(candidates, [output.heatmap.shape[1] for output in outputs], grid, options)


def best_candidates(
    outputs: Sequence[CenterOutput], grid: BevGrid, options: DecodeOptions | None = None, *, log_dimensions: bool = True
) -> BoxCandidates:
    """The first half of decoding: the best cells of every task as boxes.

    Raises:
        ValueError: there is no task, or the tasks differ in samples or cells.
    """
    shapes = [output.heatmap.shape for output in outputs]
    # Compared one by one: sizes that are symbols, as in an export for any number of samples, have no hash.
    if not shapes or any((shape[0], *shape[2:]) != (shapes[0][0], *shapes[0][2:]) for shape in shapes):
        raise ValueError(
            "outputs must hold one CenterOutput per task, their heatmaps (B, K, Y, X) equal in B, Y and X; "
            f"got {[tuple(shape) for shape in shapes]}"
        )
    tasks = _Tasks.of([shape[1] for shape in shapes], grid.size[0] * grid.size[1], options or DecodeOptions())
    return _best_cells(outputs, tasks, grid, log_dimensions)


def suppress_candidates(
    candidates: BoxCandidates, classes_per_task: Sequence[int], grid: BevGrid, options: DecodeOptions | None = None
) -> PaddedDetections:
    """The second half of decoding: candidates above the score threshold, in range, and suppressed task by task.

    Raises:
        ValueError: the options do not fit the tasks, or the candidates are not those of this many tasks.
    """
    options = options or DecodeOptions()
    tasks = _Tasks.of(classes_per_task, grid.size[0] * grid.size[1], options)
    wanted, got = (len(tasks.classes), tasks.candidates), tuple(candidates.scores.shape[1:])
    if got != wanted:
        raise ValueError(f"candidates of (T, C) = {wanted} tasks and cells are wanted, got {got}")
    valid = _valid(candidates, tasks, options)
    keep = nms_batched(_compared_boxes(candidates, tasks), valid, [_rule(nms) for nms in tasks.nms])
    return _packed(candidates, keep, sum(tasks.most_kept))


class _Tasks(NamedTuple):
    """Sizes and rules of all tasks; one class slot per task and class, as many for each task as the largest has."""

    classes: tuple[int, ...]
    cells: int
    nms: tuple[NmsOptions, ...]
    max_candidates: int

    @classmethod
    def of(cls, classes: Sequence[int], cells: int, options: DecodeOptions) -> _Tasks:
        return cls(tuple(classes), cells, options.nms_of_tasks(tuple(classes)), options.max_candidates)

    @property
    def slots(self) -> int:
        """Class slots per task."""
        return max(self.classes)

    @property
    def candidates(self) -> int:
        return min(self.max_candidates, self.slots * self.cells)

    @property
    def most_kept(self) -> list[int]:
        available = (min(self.max_candidates, classes * self.cells) for classes in self.classes)
        return [min(count, nms.pre_max, nms.post_max) for count, nms in zip(available, self.nms, strict=True)]

    @property
    def labels(self) -> list[int]:
        """Label of every class slot; a slot without a class has some label, which means nothing."""
        first_labels = accumulate(self.classes[:-1], initial=0)
        last = sum(self.classes) - 1
        return [min(first + slot, last) for first in first_labels for slot in range(self.slots)]

    @property
    def size_factors(self) -> list[float]:
        """Factor on the sizes of every label while boxes are compared."""
        factors: list[float] = []
        for classes, nms in zip(self.classes, self.nms, strict=True):
            given = nms.rescale or (1.0,)
            factors += [given[min(slot, len(given) - 1)] for slot in range(classes)]
        return factors


def _best_cells(outputs: Sequence[CenterOutput], tasks: _Tasks, grid: BevGrid, log_dimensions: bool) -> BoxCandidates:
    # The published code takes the best C per class and then the best C of those: the same cells as the best C of all.
    best = best_of_rows(_probabilities(outputs, tasks).flatten(0, 1), tasks.candidates)
    scores, index = (values.unflatten(0, (-1, len(outputs))) for values in best)
    cell = index % tasks.cells
    boxes = decode_boxes(_codes(outputs, cell).mT, cell, grid, log_dimensions=log_dimensions)
    first_slots = constant([t * tasks.slots for t in range(len(outputs))], boxes, torch.int64)
    slots = index // tasks.cells + first_slots[:, None]
    return BoxCandidates(boxes, scores, constant(tasks.labels, boxes, torch.int64)[slots])


def _codes(outputs: Sequence[CenterOutput], cell: Tensor) -> Tensor:
    """The predicted codes of cells (B, T, C): (B, T, 10, C), number by number, so that sizes and angles lie in rows."""
    if cell.is_cuda:  # two launches; on the CPU copying whole maps takes longer than the calls
        planes = torch.cat([plane for output in outputs for plane in output[1:]], dim=1).flatten(2)
        planes = planes.unflatten(1, (len(outputs), -1))
        return planes.gather(3, cell.unsqueeze(2).expand(-1, -1, planes.shape[2], -1)).float()
    return torch.stack([gather_codes(output, cell[:, t]).mT for t, output in enumerate(outputs)], dim=1)


def _probabilities(outputs: Sequence[CenterOutput], tasks: _Tasks) -> Tensor:
    """(B, T, slots * Y * X); -1 where a task has fewer classes than another."""
    maps = []
    for output, classes in zip(outputs, tasks.classes, strict=True):
        heatmap = output.heatmap.flatten(2)
        maps += [heatmap, heatmap[:, :1].expand(-1, tasks.slots - classes, -1)]
    probabilities = torch.cat(maps, dim=1).float().sigmoid_().unflatten(1, (len(outputs), tasks.slots))
    for task, classes in enumerate(tasks.classes):
        if classes < tasks.slots:
            probabilities[:, task, classes:] = -1
    return probabilities.flatten(2)


def _valid(candidates: BoxCandidates, tasks: _Tasks, options: DecodeOptions) -> Tensor:
    """(B, T, C) bool, the candidates that enter the suppression."""
    boxes, free = candidates.boxes, (math.inf,) * 6
    lower = constant((*options.center_range[:3], *(-bound for bound in free)), boxes)
    upper = constant((*options.center_range[3:], *free), boxes)
    # 0 only for a centre in range and finite numbers: of the others, infinity less infinity and NaN are NaN. A diverged
    # model may predict sizes beyond float32; such boxes have no overlap to speak of.
    beyond = (boxes - boxes.clamp(lower, upper)).abs().sum(-1)
    # A threshold below 0 lets every class in, but no slot without a class.
    valid = (candidates.scores > max(options.score_threshold, -0.5)) & (beyond == 0)
    pre_max = [nms.pre_max for nms in tasks.nms]
    if min(pre_max) < tasks.candidates:
        valid &= valid.cumsum(-1) <= constant(pre_max, boxes, torch.int64)[:, None]
    return valid


def _compared_boxes(candidates: BoxCandidates, tasks: _Tasks) -> Tensor:
    """(B, T, C, 5) x, y, length, width, yaw, with sizes as they count in the suppression."""
    boxes = candidates.boxes
    factors = constant(tasks.size_factors, boxes)[candidates.labels]
    return torch.cat([boxes[..., :2], boxes[..., 3:5] * factors[..., None], boxes[..., 6:7]], dim=-1)


def _rule(nms: NmsOptions) -> NmsRule:
    if nms.kind == "circle":
        return NmsRule(squared_radius=nms.radius, most=nms.post_max)
    return NmsRule(overlap=nms.threshold, most=nms.post_max)


def _packed(candidates: BoxCandidates, keep: Tensor, rows: int) -> PaddedDetections:
    """The kept candidates (B, T, C) moved together, in ``rows`` rows per sample."""
    keep = keep.flatten(1)
    number = keep.cumsum(1)
    # Candidates that are not kept go to one spare row at the end, which is cut off.
    row = torch.where(keep, number - 1, rows)

    def packed(values: Tensor, padding: int) -> Tensor:  # (B, T, C, ...) -> (B, rows, ...)
        values = values.flatten(1, 2)
        target = values.new_full((values.shape[0], rows + 1, *values.shape[2:]), padding)
        at = row if values.ndim == 2 else row[..., None].expand(values.shape)
        return target.scatter_(1, at, values)[:, :rows]

    return PaddedDetections(
        packed(candidates.boxes, 0), packed(candidates.scores, 0), packed(candidates.labels, -1), number[:, -1]
    )
