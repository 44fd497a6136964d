"""From raw predictions to detections.

Shapes: B samples, K classes of a task, (Y, X) cells, C candidates per sample, M boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from bev_ops import BevGrid, nms_circle, nms_rotated

from .box_code import CenterOutput, decode_boxes, gather_codes
from .detections import Detections
from .options import DecodeOptions, NmsOptions

__all__ = ["decode_centers"]


@torch.no_grad()
def decode_centers(
    outputs: Sequence[CenterOutput], grid: BevGrid, options: DecodeOptions | None = None, *, log_dimensions: bool = True
) -> list[Detections]:
    """Detections of every sample: task by task, within a task best first.

    The best cells of each task become boxes; those above the score threshold with their centre in range pass the
    suppression of their task. Labels count the classes of all tasks one after another.
    """
    options = options or DecodeOptions()
    classes_per_task = tuple(output.heatmap.shape[1] for output in outputs)
    first_labels = accumulate(classes_per_task[:-1], initial=0)
    per_task = [
        [_suppress(candidates, nms, first_label) for candidates in _candidates(output, grid, options, log_dimensions)]
        for output, nms, first_label in zip(outputs, options.nms_of_tasks(classes_per_task), first_labels, strict=True)
    ]
    return [Detections.concatenate(tasks) for tasks in zip(*per_task, strict=True)]


def _candidates(output: CenterOutput, grid: BevGrid, options: DecodeOptions, log_dimensions: bool) -> list[Detections]:
    """Per sample the boxes of one task before suppression, best first; labels count from 0."""
    # The published code takes the best C per class and then the best C of those: the same cells as the best C of all.
    probability = output.heatmap.float().sigmoid().flatten(1)
    cells = output.heatmap.shape[2] * output.heatmap.shape[3]
    scores, index = probability.topk(min(options.max_candidates, probability.shape[1]), dim=1)
    labels, cell = index // cells, index % cells
    boxes = decode_boxes(gather_codes(output, cell), cell, grid, log_dimensions=log_dimensions)

    center_range = boxes.new_tensor(options.center_range)
    in_range = ((boxes[..., :3] >= center_range[:3]) & (boxes[..., :3] <= center_range[3:])).all(dim=2)
    # A diverged model may predict sizes beyond float32; such boxes have no overlap to speak of.
    kept = (scores > options.score_threshold) & in_range & boxes.isfinite().all(dim=2)
    return [Detections(*(field[b][kept[b]] for field in (boxes, scores, labels))) for b in range(len(kept))]


def _suppress(candidates: Detections, nms: NmsOptions, first_label: int) -> Detections:
    candidates = candidates[: nms.pre_max]
    boxes, scores, labels = candidates.boxes, candidates.scores, candidates.labels
    if nms.kind == "circle":
        keep = nms_circle(boxes[:, :2], scores, nms.radius)
    else:
        size = boxes[:, 3:5] * _size_factors(labels, nms.rescale)
        keep = nms_rotated(torch.cat([boxes[:, :2], size, boxes[:, 6:7]], dim=1), scores, nms.threshold)
    keep = keep[: nms.post_max]
    return Detections(boxes[keep], scores[keep], labels[keep] + first_label)


def _size_factors(labels: Tensor, rescale: tuple[float, ...]) -> Tensor | float:
    """Factors (M, 1), or one for all, on the sizes of boxes with labels (M,)."""
    if len(rescale) <= 1:
        return rescale[0] if rescale else 1.0
    return torch.tensor(rescale, device=labels.device)[labels].unsqueeze(1)
