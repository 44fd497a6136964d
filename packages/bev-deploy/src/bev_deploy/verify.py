"""Whether an exported model says what the model it was made from says.

Letters: B samples, T tasks, C candidates per sample and task.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from bev_heads import BoxCandidates, CenterOutput, best_candidates
from bev_lss import CameraRig
from bev_zoo import Detector, nuscenes_rig

from .detector import DeployedDetector
from .preprocess import ImagePreprocessing

__all__ = ["OutputError", "deviations", "example_rig", "output_errors"]

_YAW = 6  # column of a box
_TINY = 1e-12


@dataclass(frozen=True)
class OutputError:
    """The worst that was found in one output.

    Attributes:
        output: its name.
        error: greatest difference, in standard deviations of that output; of voxels the share that differs.
        unit: "std" or "share".
    """

    output: str
    error: float
    unit: str = "std"


def output_errors(model: Detector, exported: DeployedDetector, *, seed: int = 0) -> list[OutputError]:
    """Run both on the same noise, whole sequences, and compare what comes out.

    Raw outputs are compared one to one. Boxes are compared before suppression, whatever they score: every candidate of
    the export with the nearest that some cell of the model predicts, and scores rank by rank too, as logits. Their
    deviation is that over all cells; of positions it is that of the offsets in their cells.

    Args:
        model: that was exported.
        exported: at the same input size.
        seed: of the images.
    """
    images, rig, fed = _inputs(model, exported, seed)
    with torch.no_grad():
        wanted = model(images, rig)
    got = exported.outputs(fed, rig)
    if model.recipe.task == "occupancy":
        return [_voxel_error(wanted, got, exported.manifest.raw)]
    if not exported.manifest.raw:
        return _candidate_errors(model, wanted, got)
    pairs = list(zip(exported.raw(got), wanted, strict=True))
    return [
        OutputError(field, max(deviations(getattr(a, field), getattr(b, field)) for a, b in pairs))
        for field in CenterOutput._fields
    ]


def deviations(got: Tensor, wanted: Tensor) -> float:
    """The greatest difference of two tensors of one shape, in standard deviations of the second."""
    return float((got.float() - wanted).abs().max() / wanted.std().clamp(min=_TINY))


def example_rig(model: Detector, *, cameras: int, frames: int = 1, samples: int = 1) -> CameraRig:
    """Cameras as on nuScenes; more than six stand where those do, one after the other."""
    recipe = model.recipe
    rig = nuscenes_rig(
        recipe.input_size, frames=frames, samples=samples, rolling=True, augmentation=recipe.image_augmentation
    )
    which = torch.arange(cameras) % rig.num_cameras
    return CameraRig(
        intrinsics=rig.intrinsics[:, :, which],
        cam_to_ego=rig.cam_to_ego[:, :, which],
        ego_to_global=rig.ego_to_global[:, :, which],
        image_aug=rig.image_aug[:, :, which],
        bev_aug=rig.bev_aug,
    )


def _inputs(model: Detector, exported: DeployedDetector, seed: int) -> tuple[Tensor, CameraRig, Tensor]:
    """Images for the model (B, T, N, 3, H, W), the rig, and the images that the export is fed with."""
    manifest, recipe = exported.manifest, model.recipe
    samples, generator = manifest.batch or 2, torch.Generator().manual_seed(seed)
    rig = example_rig(model, cameras=manifest.cameras, frames=recipe.frames, samples=samples)
    lead = (samples, recipe.frames, manifest.cameras)
    if not manifest.preprocessing.in_graph:
        images = torch.randn(*lead, 3, *recipe.input_size, generator=generator)
        return images, rig, images
    width, height = raw_size = manifest.preprocessing.raw_size
    raw = torch.randint(0, 256, (*lead, height, width, 3), dtype=torch.uint8, generator=generator)
    preprocessing = ImagePreprocessing(raw_size, recipe.input_size, recipe.image_augmentation)
    return torch.stack([preprocessing(frame) for frame in raw.unbind(1)], dim=1), rig, raw


def _voxel_error(wanted: Tensor, got: dict[str, Tensor], raw: bool) -> OutputError:
    if raw:
        return OutputError("logits", deviations(got["logits"], wanted))
    return OutputError("voxels", float((got["voxels"] != wanted.argmax(dim=-1)).float().mean()), "share")


def _candidate_errors(model: Detector, wanted: list[CenterOutput], got: dict[str, Tensor]) -> list[OutputError]:
    head = model.head
    cells = wanted[0].heatmap[0, 0].numel() * max(output.heatmap.shape[1] for output in wanted)
    every = dataclasses.replace(head.decode_options, max_candidates=cells)
    candidates = best_candidates(wanted, head.grid, every, log_dimensions=head.log_dimensions)
    boxes, scores = 0.0, 0.0
    for t, output in enumerate(wanted):
        deviation = candidates.boxes[:, t].flatten(0, 1).std(dim=0)
        deviation[:2] = output.offset.std() * torch.tensor(head.grid.step[:2])
        for b in range(len(candidates.boxes)):
            ours = BoxCandidates(got["boxes"][b, t], got["scores"][b, t], got["labels"][b, t].long())
            theirs = BoxCandidates(*(part[b, t] for part in candidates))
            box, score = _nearest(ours, theirs, deviation.clamp(min=_TINY))
            boxes, scores = max(boxes, box), max(scores, score / max(float(output.heatmap.std()), _TINY))
    return [OutputError("boxes", boxes), OutputError("scores", scores)]


def _nearest(
    ours: BoxCandidates,  # of one sample and task: (C, ...)
    theirs: BoxCandidates,  # (every cell, ...), best first
    deviation: Tensor,  # (9,)
) -> tuple[float, float]:
    """The worst box, and the worst score as a logit: of ours with the cell it is nearest to, and rank by rank."""
    ranks = _logits(ours.scores) - _logits(theirs.scores[: len(ours.scores)])
    boxes, scores = 0.0, float(ranks.abs().max())
    for label in ours.labels.unique():
        of_class = theirs.labels == label
        if not of_class.any():
            return torch.inf, torch.inf
        mine = ours.labels == label
        box, cell = _box_distances(ours.boxes[mine], theirs.boxes[of_class], deviation).min(dim=1)
        logits = _logits(ours.scores[mine]) - _logits(theirs.scores[of_class][cell])
        boxes, scores = max(boxes, float(box.max())), max(scores, float(logits.abs().max()))
    return boxes, scores


def _box_distances(
    ours: Tensor,  # (C, 9)
    theirs: Tensor,  # (M, 9)
    deviation: Tensor,  # (9,)
) -> Tensor:  # (C, M) of the number that differs most
    worst = ours.new_zeros(len(ours), len(theirs))
    for column, scale in enumerate(deviation):  # one by one: all at once take much memory
        apart = (ours[:, None, column] - theirs[None, :, column]).abs()
        if column == _YAW:
            apart = torch.minimum(apart, (2 * torch.pi - apart).abs())
        worst = torch.maximum(worst, apart / scale)
    return worst


def _logits(scores: Tensor) -> Tensor:
    """Near 1 a float32 score says little of its logit."""
    return scores.clamp(_TINY, 0.999).logit()
