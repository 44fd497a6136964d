"""Loss terms by their formulas, their gradients, and their numbers over several processes."""

import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from bev_heads import CenterLossOptions, CenterOutput, CenterTargets, center_loss, center_targets, gaussian_focal_loss
from bev_ops import BevGrid

TERMS = ("xy", "z", "whl", "yaw", "vel", "heatmap")
BOXES = torch.tensor(
    [[1.3, -0.9, 0.7, 4.0, 2.0, 1.5, 2.5, -3.0, 0.4], [-2.0, 2.0, -1.0, 0.5, 0.6, 1.7, -1.0, 1.0, 0.0]]
)


def random_output(classes: int, samples: int = 1, seed: int = 0) -> CenterOutput:
    """Predictions on the small grid that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    planes = [torch.randn(samples, c, 12, 16, generator=generator) for c in (classes, 2, 1, 3, 2, 2)]
    return CenterOutput(*(plane.requires_grad_() for plane in planes))


@pytest.mark.parametrize(
    ("logit", "target", "loss"),
    [
        (0.0, 1.0, math.log(2) / 4),
        (0.0, 0.0, math.log(2) / 4),
        (0.0, 0.5, math.log(2) / 4 / 16),
        (50.0, 0.0, -math.log(1e-4) * (1 - 1e-4) ** 2),
        (-50.0, 1.0, -math.log(1e-4) * (1 - 1e-4) ** 2),
        (-50.0, 0.0, -math.log(1 - 1e-4) * 1e-8),
    ],
)
def test_focal_loss_of_one_cell(logit: float, target: float, loss: float) -> None:
    result = gaussian_focal_loss(torch.full((1, 1, 1, 1), logit), torch.full((1, 1, 1, 1), target))
    assert result.item() == pytest.approx(loss, rel=1e-3)


def test_terms_by_their_formulas(small_grid: BevGrid) -> None:
    weights = (1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 3.0, 1.0, 0.2, 0.2)
    options = CenterLossOptions(heatmap_weight=6.0, box_weight=1.5, code_weights=weights)
    output = random_output(classes=2)
    (target,) = center_targets([BOXES], [torch.tensor([1, 0])], [2], small_grid)
    losses = center_loss([output], [target], options)
    assert list(losses) == [f"task0.loss_{term}" for term in TERMS]

    sums = dict.fromkeys(TERMS[:-1], 0.0)
    owners = ["xy"] * 2 + ["z"] + ["whl"] * 3 + ["yaw"] * 2 + ["vel"] * 2
    for slot in range(2):
        row, column = divmod(target.cell[0, slot].item(), 16)
        predicted = torch.cat([plane[0, :, row, column] for plane in output[1:]])
        for i, owner in enumerate(owners):
            sums[owner] += weights[i] * abs(predicted[i].item() - target.box_code[0, slot, i].item())
    for term, total in sums.items():
        assert losses[f"task0.loss_{term}"].item() == pytest.approx(1.5 * total / (2 + 1e-4), rel=1e-5)
    focal = gaussian_focal_loss(output.heatmap, target.heatmap).item()
    assert losses["task0.loss_heatmap"].item() == pytest.approx(6.0 * focal / 2, rel=1e-5)


def test_two_boxes_in_one_cell_count_once_in_the_heatmap_and_twice_in_the_boxes(small_grid: BevGrid) -> None:
    output = random_output(classes=1)
    losses = {}
    for copies in (1, 2):
        boxes, labels = BOXES[:1].repeat(copies, 1), torch.zeros(copies, dtype=torch.int64)
        losses[copies] = center_loss([output], center_targets([boxes], [labels], [1], small_grid))
    for term in TERMS:
        key = f"task0.loss_{term}"
        assert losses[2][key].item() == pytest.approx(losses[1][key].item(), rel=1e-3), term


def test_gradients_reach_every_branch_and_only_where_boxes_are(small_grid: BevGrid) -> None:
    outputs = [random_output(classes=1, seed=1), random_output(classes=1, seed=2)]
    targets = center_targets([BOXES], [torch.tensor([0, 1])], [1, 1], small_grid)
    sum(center_loss(outputs, targets).values()).backward()
    for output, target in zip(outputs, targets, strict=True):
        assert output.heatmap.grad.ne(0).all()
        for name, plane in zip(output._fields[1:], output[1:], strict=True):
            touched = plane.grad.flatten(2).ne(0).any(dim=1).nonzero()[:, 1]
            assert touched.tolist() == target.cell[target.mask].tolist(), name


def test_no_boxes_give_zero_box_terms_and_a_finite_heatmap_term(small_grid: BevGrid) -> None:
    output = random_output(classes=2, samples=2)
    targets = center_targets([torch.zeros(0, 9)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2, [2], small_grid)
    losses = center_loss([output], targets)
    assert [losses[f"task0.loss_{term}"].item() for term in TERMS[:-1]] == [0.0] * 5
    assert losses["task0.loss_heatmap"].item() > 0
    sum(losses.values()).backward()
    assert all(plane.grad.isfinite().all() for plane in output)


def test_an_unknown_velocity_is_not_trained_on(small_grid: BevGrid) -> None:
    output = random_output(classes=1)
    boxes = BOXES.clone()
    boxes[0, 7:] = math.nan
    losses = center_loss([output], center_targets([boxes], [torch.tensor([0, 0])], [1], small_grid))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(plane.grad.isfinite().all() for plane in output)
    known = output.velocity.grad.flatten(2).ne(0).any(dim=1).sum().item()
    assert known == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_judged_in_float32(small_grid: BevGrid, dtype: torch.dtype) -> None:
    targets = center_targets([BOXES], [torch.tensor([0, 0])], [1], small_grid)
    half = CenterOutput(*(plane.detach().to(dtype) for plane in random_output(classes=1)))
    same_in_float32 = CenterOutput(*(plane.float() for plane in half))
    ours, wanted = center_loss([half], targets), center_loss([same_in_float32], targets)
    for key, loss in ours.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(wanted[key].item(), rel=1e-6)


def test_counts_are_averaged_over_processes() -> None:
    """This process has three peaks, the other none: both divide by 1.5."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    script = Path(__file__).with_name("second_process.py")
    other = subprocess.Popen([sys.executable, str(script), address], stdout=subprocess.PIPE, text=True)
    distributed.init_process_group("gloo", init_method=address, rank=0, world_size=2)
    try:
        heatmap = torch.zeros(1, 1, 1, 4)
        heatmap[..., :3] = 1
        target = CenterTargets(heatmap, torch.zeros(1, 2).long(), torch.zeros(1, 2, 10), torch.zeros(1, 2).bool())
        output = CenterOutput(*(torch.zeros(1, channels, 1, 4) for channels in (1, 2, 1, 3, 2, 2)))
        ours = center_loss([output], [target])["task0.loss_heatmap"].item()
        printed, _ = other.communicate(timeout=60)
    finally:
        distributed.destroy_process_group()
        other.kill()
    assert other.returncode == 0
    of_one_cell = math.log(2) / 4  # of a peak and of background alike, at a probability of one half
    assert [ours, float(printed)] == pytest.approx([4 * of_one_cell / 1.5] * 2, rel=1e-5)


def test_bad_code_weights() -> None:
    with pytest.raises(ValueError, match=r"code_weights must hold 10 numbers.*got 8"):
        CenterLossOptions(code_weights=(1.0,) * 8)
