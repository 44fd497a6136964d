"""Losses of the CenterPoint head, always in float32.

Shapes: B samples, K classes of a task, (Y, X) cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from .box_code import CenterOutput, gather_codes
from .options import CenterLossOptions
from .targets import CenterTargets

__all__ = ["center_loss", "gaussian_focal_loss", "mean_over_processes"]

# Names of the published logs ("whl" although length comes first), and how many numbers of a box code each covers.
_BOX_TERMS = {"xy": 2, "z": 1, "whl": 3, "yaw": 2, "vel": 2}


def center_loss(
    outputs: Sequence[CenterOutput], targets: Sequence[CenterTargets], options: CenterLossOptions | None = None
) -> dict[str, Tensor]:
    """Loss terms `task{t}.loss_{xy,z,whl,yaw,vel,heatmap}`, already weighted: their sum is the loss of the head.

    The heatmap term is divided by the number of peaks, the box terms by the number of boxes, both averaged over all
    processes when torch.distributed runs (every process must then call this). Without any box the box terms are zero
    and the heatmap term is the plain background loss, so a batch of empty samples trains.
    """
    options = options or CenterLossOptions()
    counts = [count for target in targets for count in (target.heatmap.eq(1).sum(), target.mask.sum())]
    num_peaks, num_boxes = mean_over_processes(torch.stack(counts).float()).unflatten(0, (-1, 2)).unbind(dim=1)
    losses: dict[str, Tensor] = {}
    for task, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        for name, error in _box_errors(output, target, options).items():
            losses[f"task{task}.loss_{name}"] = options.box_weight * error / (num_boxes[task].clamp(min=1e-4) + 1e-4)
        focal = gaussian_focal_loss(output.heatmap, target.heatmap)
        losses[f"task{task}.loss_heatmap"] = options.heatmap_weight * focal / num_peaks[task].clamp(min=1)
    return losses


def gaussian_focal_loss(logits: Tensor, heatmap: Tensor) -> Tensor:
    """Focal loss of CornerNet (Law and Deng, 2018, equation 1; alpha 2, beta 4), summed over all cells.

    Args:
        logits: (B, K, Y, X) any float type; the loss is computed in float32.
        heatmap: (B, K, Y, X) target in 0..1; cells of exactly 1 are the positives.

    Returns:
        Scalar float32. Probabilities are held in 1e-4..1 - 1e-4: the gradient is zero where a prediction is that sure.
    """
    probability = logits.float().sigmoid().clamp(min=1e-4, max=1 - 1e-4)
    positive = -probability.log() * (1 - probability).square()
    negative = -(1 - probability).log() * probability.square() * (1 - heatmap).pow(4)
    return torch.where(heatmap.eq(1), positive, negative).sum()


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes of torch.distributed; the tensor itself when none runs."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def _box_errors(output: CenterOutput, target: CenterTargets, options: CenterLossOptions) -> dict[str, Tensor]:
    """Weighted sums of the absolute errors, by term."""
    predicted = gather_codes(output, target.cell)
    known = target.mask.unsqueeze(2) & ~target.box_code.isnan()
    weight = known * predicted.new_tensor(options.code_weights)
    # NaN leaves through the target, not through a mask on the error: NaN * 0 is NaN, in the gradient too.
    error = (predicted - target.box_code.nan_to_num(nan=0.0)).abs() * weight
    parts = error.sum(dim=(0, 1)).split(tuple(_BOX_TERMS.values()))
    return {name: part.sum() for name, part in zip(_BOX_TERMS, parts, strict=True)}
