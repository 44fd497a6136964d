"""How far an exported model is from the one it was made from.

Letters: B samples, T frames, N cameras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bev_heads import BoxCandidates, Detections, best_candidates
from bev_lss import CameraRig
from bev_zoo import Detector, nuscenes_rig

from .detector import DeployedDetector
from .verify import deviations

__all__ = ["Agreement", "agreement", "agreement_of_streams", "compared", "draw_statistics", "drive"]

_CLOSE = 1e-2  # metres, radians, metres per second
_STEP_S = 0.5


@dataclass(frozen=True)
class Agreement:
    """What was found by comparing two models on the same inputs.

    Attributes:
        raw: greatest difference of a raw output, in standard deviations of that output; None without raw outputs.
        boxes: share of the best candidates, before suppression, that are found again with every number within 1e-2
            (labels exactly); None for occupancy. Suppression is not compared: where scores or overlaps tie, rounding
            decides which of two neighbours stays.
        voxels: share of voxels of the same class; None for detection.
    """

    raw: float | None
    boxes: float | None
    voxels: float | None

    def worse(self, other: Agreement) -> Agreement:
        """The worse of both in everything."""

        def of(choose: object, a: float | None, b: float | None) -> float | None:
            return choose(a, b) if a is not None and b is not None else (a if b is None else b)

        return Agreement(
            of(max, self.raw, other.raw), of(min, self.boxes, other.boxes), of(min, self.voxels, other.voxels)
        )


def agreement(model: Detector, exported: DeployedDetector, images: Tensor, rig: CameraRig) -> Agreement:
    """Run both on whole sequences; arguments as for :meth:`bev_zoo.Detector.predict`."""
    with torch.no_grad():
        wanted = model(images, rig)
    return compared(model, exported, wanted, exported.outputs(images, rig))


def agreement_of_streams(model: Detector, exported: DeployedDetector, frames: int, *, seed: int = 0) -> Agreement:
    """Drive both through the same frames, one by one, with the published rule at the start; the worst of all."""
    wanted, got = model.stream(), exported.stream()
    worst = Agreement(None, None, None)
    for now, (images, rig) in enumerate(drive(model, frames, seed=seed)):
        raw = wanted.raw(images, rig, timestamp=now * _STEP_S)
        outputs = got.outputs(images, rig, timestamp=now * _STEP_S)
        worst = worst.worse(compared(model, exported, raw, outputs))
    return worst


def drive(model: Detector, frames: int, *, seed: int = 0) -> Iterator[tuple[Tensor, CameraRig]]:
    """Frames (1, 1, N, 3, H, W) of noise and their rigs, along the drive of :func:`bev_zoo.nuscenes_rig`."""
    generator = torch.Generator().manual_seed(seed)
    for now in range(frames):
        rig = nuscenes_rig(model.recipe.input_size, now=now, rolling=True)
        yield torch.randn(1, 1, rig.num_cameras, 3, *model.recipe.input_size, generator=generator), rig


def draw_statistics(model: Detector, seed: int = 0) -> None:
    """Make fresh weights fit to be compared: batch norms get running statistics, for folding fresh ones proves nothing,
    and heatmaps start from even odds, for fresh ones let no box pass."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for task in getattr(model.head, "task_heads", ()):
        nn.init.zeros_(task.heatmap[-1].bias)


def compared(
    model: Detector, exported: DeployedDetector, wanted: Sequence | Tensor, outputs: dict[str, Tensor]
) -> Agreement:
    """What a model gave, and the named outputs of its export for the same inputs."""
    raw = _raw_error(exported.raw(outputs), wanted) if exported.manifest.raw else None
    if model.recipe.task == "occupancy":
        pairs = zip(exported.decoded(outputs), model.head.decode(wanted), strict=True)
        return Agreement(raw, None, min(float((a == b).float().mean()) for a, b in pairs))
    return Agreement(raw, _same_candidates(model, exported, wanted, outputs), None)


def _raw_error(got: Sequence | Tensor, wanted: Sequence | Tensor) -> float:
    pairs = zip(_planes(got), _planes(wanted), strict=True)
    return max(deviations(a, b) for a, b in pairs)


def _planes(outputs: Sequence | Tensor) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [plane for task in outputs for plane in task]


def _same_candidates(
    model: Detector, exported: DeployedDetector, wanted: Sequence, outputs: dict[str, Tensor]
) -> float:
    """Share of the model's candidates that are among those of the export; in the worst task of all samples."""
    head = model.head
    theirs = best_candidates(wanted, head.grid, head.decode_options, log_dimensions=head.log_dimensions)
    if exported.manifest.raw:  # twice as many, so that ties at the end of the list find each other
        more = replace(head.decode_options, max_candidates=2 * head.decode_options.max_candidates)
        ours = best_candidates(exported.raw(outputs), head.grid, more, log_dimensions=head.log_dimensions)
    else:
        ours = BoxCandidates(outputs["boxes"], outputs["scores"], outputs["labels"].long())
    return min(_found(*pair) for pair in zip(_by_task(ours), _by_task(theirs), strict=True))


def _by_task(candidates: BoxCandidates) -> list[Detections]:
    """Of every sample, task by task."""
    return [Detections(*parts) for parts in zip(*(part.flatten(0, 1) for part in candidates), strict=True)]


def _found(got: Detections, wanted: Detections) -> float:
    """Share of the wanted boxes of which one of the others is a copy."""
    difference = (wanted.boxes[:, None] - got.boxes[None]).abs()
    difference[..., 6] = torch.remainder(difference[..., 6] + torch.pi, 2 * torch.pi).sub(torch.pi).abs()
    other = (wanted.labels[:, None] != got.labels[None]).float() + (wanted.scores[:, None] - got.scores[None]).abs()
    # Beyond 1 relative to their size: boxes of weights that were drawn are as long as they please.
    worst = (difference / wanted.boxes.abs().clamp(min=1)[:, None]).amax(-1) + other
    return float((worst.amin(1) < _CLOSE).float().mean())
