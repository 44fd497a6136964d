"""From raw predictions to boxes, beside the published post-processing."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import torch
from torch import Tensor

from bev_heads import CenterOutput, DecodeOptions, Detections, NmsOptions, decode_centers, decode_centers_padded
from bev_ops import BevGrid, nms_circle, nms_rotated

from .measure import Clock
from .report import Row

_GRID = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
_CLASSES = (1, 2, 2, 1, 2, 2)
_SIZES = ((4.6, 1.9), (7.0, 2.5), (11.0, 2.9), (0.5, 2.5), (2.0, 0.7), (0.7, 0.7))  # metres
_FACTORS = ((0.7,), (0.4, 0.6), (0.3, 0.4), (), (1.0, 1.0), (1.5, 2.5))  # on sizes; none: by distance of centres
_OBJECTS = 60  # of a task


def decode(clock: Clock) -> Iterator[Row]:
    """Six tasks of 500 candidates. The published steps get this project's suppression, one group per call: compared is
    the procedure, which loops over tasks and samples and waits for the device at every mask and list."""
    options = _options()
    for samples in (1, 4):
        outputs = _scene(samples)
        ours, theirs = decode_centers(outputs, _GRID, options), _published(outputs, options)
        ways = {
            "ours": lambda o=outputs: decode_centers(o, _GRID, options),
            "published": lambda o=outputs: _published(o, options),
        }
        times = clock.eagerly(ways)
        graph = clock.in_graphs({"ours": lambda o=outputs: decode_centers_padded(o, _GRID, options)}, calls=2)["ours"]
        note = f"boxes of fixed number in a CUDA graph {graph:.1f} us"
        targets = {"published": 5.0}
        name = f"{samples} sample{'s' if samples > 1 else ''}, six tasks x 500 boxes"
        yield Row("decode + NMS", name, times.pop("ours"), times, _same(ours, theirs), note, targets)


def _options() -> DecodeOptions:
    rotated = {factor: NmsOptions(threshold=0.125, rescale=factor, post_max=83) for factor in _FACTORS}
    circle = NmsOptions(kind="circle", radius=1.0, post_max=83)
    return DecodeOptions(score_threshold=0.1, nms=tuple(rotated[factor] if factor else circle for factor in _FACTORS))


def _scene(samples: int) -> list[CenterOutput]:
    """Heads as after training: around every object a blob of cells that point at it, over a quiet ground."""
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for classes, size in zip(_CLASSES, _SIZES, strict=True):
        heat = torch.randn(samples, classes, 128, 128, generator=generator) * 0.7 - 6
        code = torch.zeros(samples, 10, 128, 128)
        code[:, 3:6] = torch.tensor([*size, 1.6]).log().view(3, 1, 1)
        code[:, 3:6] += torch.randn(samples, 3, 128, 128, generator=generator) * 0.05
        for sample in range(samples):
            _add_objects(heat[sample], code[sample], generator)
        parts = (heat, *code.split((2, 1, 3, 2, 2), dim=1))
        outputs.append(CenterOutput(*(t.contiguous().cuda() for t in parts)))
    return outputs


def _add_objects(heat: Tensor, code: Tensor, generator: torch.Generator) -> None:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    nearest = torch.full_like(x, float("inf"))
    for _ in range(_OBJECTS):
        (cx, cy), yaw, peak = torch.rand(2, generator=generator) * 128, *(torch.rand(2, generator=generator) * 6.28)
        label = int(torch.randint(len(heat), (), generator=generator))
        distance = (x - cx) ** 2 + (y - cy) ** 2
        bump = peak - 2 - distance / 2.5 + torch.randn(x.shape, generator=generator) * 0.2
        heat[label] = heat[label].maximum(bump)
        own = (distance < nearest) & (distance < 30)
        nearest = torch.where(own, distance, nearest)
        for channel, value in {0: cx - x, 1: cy - y, 6: yaw.sin().expand_as(x), 7: yaw.cos().expand_as(x)}.items():
            noisy = value + torch.randn(x.shape, generator=generator) * 0.15
            code[channel] = torch.where(own, noisy, code[channel])


@torch.no_grad()
def _published(outputs: list[CenterOutput], options: DecodeOptions) -> list[Detections]:
    """Task by task and sample by sample, as the published head does it."""
    per_task = []
    for output, nms, first in zip(outputs, options.nms, accumulate(_CLASSES, initial=0), strict=False):
        candidates = _candidates(output, options)
        per_task.append([_suppressed(*sample, nms, first) for sample in candidates])
    return [
        Detections(*(torch.cat(parts) for parts in zip(*sample, strict=True))) for sample in zip(*per_task, strict=True)
    ]


def _candidates(output: CenterOutput, options: DecodeOptions) -> list[tuple[Tensor, Tensor, Tensor]]:
    scores, cell, labels = _best(output.heatmap.sigmoid(), options.max_candidates)
    offset, height, size, yaw, velocity = (_gathered(part, cell) for part in output[1:])
    x, y = cell % 128 + offset[..., 0], torch.div(cell, 128, rounding_mode="floor") + offset[..., 1]
    x, y = x * _GRID.step[0] + _GRID.lower[0], y * _GRID.step[1] + _GRID.lower[1]
    angle = torch.atan2(yaw[..., :1], yaw[..., 1:])
    boxes = torch.cat((x[..., None], y[..., None], height, size.exp(), angle, velocity), dim=-1)
    limits = torch.tensor(options.center_range, device=boxes.device)
    inside = ((boxes[..., :3] >= limits[:3]) & (boxes[..., :3] <= limits[3:])).all(2)
    kept = inside & (scores > options.score_threshold)
    return [(boxes[i, kept[i]], scores[i, kept[i]], labels[i, kept[i]]) for i in range(len(boxes))]


def _best(probability: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best of every class, then the best of those: scores, cells and labels, each (B, count)."""
    samples = len(probability)
    best, cell = torch.topk(probability.flatten(2), count)
    scores, which = torch.topk(best.flatten(1), count)
    labels = torch.div(which, count, rounding_mode="floor")
    return scores, cell.view(samples, -1).gather(1, which), labels


def _gathered(part: Tensor, cell: Tensor) -> Tensor:
    rows = part.permute(0, 2, 3, 1).contiguous().view(len(part), -1, part.shape[1])
    return rows.gather(1, cell[..., None].expand(-1, -1, part.shape[1]))


def _suppressed(
    boxes: Tensor, scores: Tensor, labels: Tensor, nms: NmsOptions, first_label: int
) -> tuple[Tensor, Tensor, Tensor]:
    if nms.kind == "circle":  # on the host, as published
        keep = nms_circle(boxes[:, :2].cpu(), scores.cpu(), nms.radius)[: nms.post_max].to(boxes.device)
    else:
        sizes = boxes[:, 3:5].clone()
        for label, factor in enumerate(nms.rescale):
            sizes[labels == label] = sizes[labels == label] * factor
        order = scores.sort(descending=True)[1][: nms.pre_max]
        flat = torch.cat((boxes[:, :2], sizes, boxes[:, 6:7]), dim=1)[order]
        keep = order[nms_rotated(flat, scores[order], nms.threshold)][: nms.post_max]
    return boxes[keep], scores[keep], labels[keep] + first_label


def _same(ours: list[Detections], theirs: list[Detections]) -> bool:
    return all(
        len(a.scores) == len(b.scores)
        and torch.equal(a.labels, b.labels)
        and torch.allclose(a.scores, b.scores)
        and torch.allclose(a.boxes, b.boxes, atol=1e-3)
        for a, b in zip(ours, theirs, strict=True)
    )
