"""Suppression and decoding against plain loops.

Shapes: B samples, K classes of a task, M boxes, (Y, X) cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_bench.cases.case import Case, DisagreementError, Problem, random_generator
from bev_bench.cases.overlap import plain_iou
from bev_heads import CenterOutput, DecodeOptions, Detections, decode_centers
from bev_ops import BevGrid, nms_circle, nms_rotated

__all__ = ["decode_cases", "plain_decode", "plain_nms_circle", "plain_nms_rotated"]

_IOU, _RADIUS = 0.2, 4.0
_CLASSES_PER_TASK = (1, 2, 2, 1, 2, 2)  # the six tasks of CenterPoint on nuScenes
_CELL_M = 0.8
_BOX_TOLERANCE = 1e-4


def decode_cases(*, quick: bool, device: torch.device, seed: int) -> list[Problem]:
    """500 boxes, as published, or a few; one task and all six."""
    count, samples = (100, 1) if quick else (500, 4)
    side = (-51.2, 51.2, _CELL_M)
    grid = BevGrid(x=side, y=side, z=(-5.0, 3.0, 8.0))
    return [
        Problem(f"{count} boxes", lambda: _suppression(count, device, seed)),
        Problem(
            f"{samples} samples, 6 tasks, {count} candidates",
            lambda: [_decoding(count, samples, grid, device, seed)],
        ),
    ]


def plain_nms_rotated(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Take the best box, drop what overlaps it too much, go on: (K,) indices, best first.

    Args:
        boxes: (M, 5) x, y, length, width, yaw.
        scores: (M,).
        threshold: largest overlap that is kept.
    """
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        kept.append(left[0])
        left = left[1:]
        left = left[plain_iou(boxes[kept[-1]], boxes[left]) <= threshold]
    return torch.stack(kept) if kept else left


def plain_nms_circle(centers: Tensor, scores: Tensor, radius: float) -> Tensor:
    """The same by distance; ``radius`` is compared with the squared one, as published."""
    left, kept = scores.argsort(descending=True, stable=True), []
    while len(left):
        kept.append(left[0])
        left = left[1:]
        left = left[(centers[left] - centers[kept[-1]]).square().sum(dim=1) > radius]
    return torch.stack(kept) if kept else left


def plain_decode(outputs: list[CenterOutput], grid: BevGrid, options: DecodeOptions) -> list[Detections]:
    """Sample by sample and task by task: peaks, boxes, thresholds, suppression."""
    samples = []
    for b in range(len(outputs[0].heatmap)):
        tasks, first_label = [], 0
        for output in outputs:
            tasks.append(_decode_task([plane[b].float() for plane in output], grid, options, first_label))
            first_label += output.heatmap.shape[1]
        samples.append(Detections.concatenate(tasks))
    return samples


def _decode_task(planes: list[Tensor], grid: BevGrid, options: DecodeOptions, first_label: int) -> Detections:
    heatmap, *codes = planes
    _, rows, columns = heatmap.shape
    scores, place = heatmap.sigmoid().flatten().topk(options.max_candidates)
    labels, cell = place // (rows * columns), place % (rows * columns)
    offset, height, size, yaw, velocity = (code.flatten(1)[:, cell].T for code in codes)
    xy = torch.stack([cell % columns, cell // columns], dim=1) + offset
    xy = xy * xy.new_tensor(grid.step[:2]) + xy.new_tensor(grid.lower[:2])
    boxes = torch.cat([xy, height, size.exp(), torch.atan2(yaw[:, :1], yaw[:, 1:]), velocity], dim=1)
    lower, upper = boxes.new_tensor(options.center_range).view(2, 3)
    good = (scores > options.score_threshold) & ((boxes[:, :3] >= lower) & (boxes[:, :3] <= upper)).all(dim=1)
    boxes, scores, labels = boxes[good], scores[good], labels[good]
    keep = plain_nms_rotated(boxes[:, [0, 1, 3, 4, 6]], scores, options.nms[0].threshold)
    return Detections(boxes[keep], scores[keep], labels[keep] + first_label)


def _suppression(count: int, device: torch.device, seed: int) -> list[Case]:
    boxes, scores = _boxes(count, seed)
    boxes, scores = boxes.to(device), scores.to(device)
    centers = boxes[:, :2].contiguous()
    return [
        Case(
            "nms_rotated",
            "plain loop",
            lambda: plain_nms_rotated(boxes, scores, _IOU),
            lambda: nms_rotated(boxes, scores, _IOU),
            lambda: _check_kept(
                "nms_rotated", nms_rotated(boxes, scores, _IOU), plain_nms_rotated(boxes, scores, _IOU)
            ),
        ),
        Case(
            "nms_circle",
            "plain loop",
            lambda: plain_nms_circle(centers, scores, _RADIUS),
            lambda: nms_circle(centers, scores, _RADIUS),
            lambda: _check_kept(
                "nms_circle", nms_circle(centers, scores, _RADIUS), plain_nms_circle(centers, scores, _RADIUS)
            ),
        ),
    ]


def _decoding(count: int, samples: int, grid: BevGrid, device: torch.device, seed: int) -> Case:
    options = DecodeOptions(max_candidates=count)
    outputs = [_output(classes, samples, grid, device, seed + i) for i, classes in enumerate(_CLASSES_PER_TASK)]

    def ours() -> list[Detections]:
        return decode_centers(outputs, grid, options)

    def plain() -> list[Detections]:
        return plain_decode(outputs, grid, options)

    return Case("decode + nms_rotated", "plain loops", plain, ours, lambda: _check_boxes(ours(), plain()))


def _boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cars in clusters of five, each detected several times: (M, 5) and (M,)."""
    generator = random_generator(seed)
    places = 80 * torch.rand(-(-count // 5), 2, generator=generator) - 40
    places = places.repeat_interleave(5, dim=0)[:count] + 1.5 * torch.randn(count, 2, generator=generator)
    size = torch.tensor([4.6, 1.9]) * (0.8 + 0.4 * torch.rand(count, 2, generator=generator))
    yaw = 6.28 * torch.rand(count, 1, generator=generator)
    return torch.cat([places, size, yaw], dim=1), torch.rand(count, generator=generator)


def _output(classes: int, samples: int, grid: BevGrid, device: torch.device, seed: int) -> CenterOutput:
    """Heat maps on which every candidate scores above the threshold, and boxes of about the size of a car."""
    generator = random_generator(seed)
    x, y, _ = grid.size

    def noise(channels: int) -> Tensor:
        return torch.randn(samples, channels, y, x, generator=generator)

    size = torch.tensor([4.6, 1.9, 1.7]).log()[:, None, None] + 0.1 * noise(3)
    planes = (noise(classes), 0.5 + 0.2 * noise(2), noise(1), size, noise(2), noise(2))
    return CenterOutput(*(plane.to(device) for plane in planes))


def _check_kept(name: str, ours: Tensor, plain: Tensor) -> None:
    if not torch.equal(ours, plain):
        raise DisagreementError(f"{name}: ours keeps {len(ours)} boxes, the plain loop {len(plain)}, not the same ones")


def _check_boxes(ours: list[Detections], plain: list[Detections]) -> None:
    for b, (mine, wanted) in enumerate(zip(ours, plain, strict=True)):
        same = torch.equal(mine.labels, wanted.labels)
        if not same or not torch.allclose(mine.boxes, wanted.boxes, rtol=_BOX_TOLERANCE, atol=_BOX_TOLERANCE):
            raise DisagreementError(
                f"decode: ours finds {len(mine)} boxes in sample {b}, the plain loops {len(wanted)}, not the same ones"
            )
