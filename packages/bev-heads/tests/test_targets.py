"""Targets for a whole batch are what a plain loop over its boxes gives."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_heads import CenterTargetOptions, center_targets, gaussian_radius
from bev_ops import BevGrid

CLASSES_PER_TASK = (1, 3, 2)


def random_batch(seed: int, counts: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes around and in the small grid; a few without size, a few larger than the grid."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        box = torch.randn(count, 9, generator=generator)
        box[:, :2] = (torch.rand(count, 2, generator=generator) - 0.5) * torch.tensor([10.0, 8.0])
        box[:, 3:6] = torch.rand(count, 3, generator=generator) * 6 + 0.1
        box[::7, 3] = 0
        box[1::9, 3:5] *= 5
        boxes.append(box)
        labels.append(torch.randint(0, sum(CLASSES_PER_TASK), (count,), generator=generator))
    return boxes, labels


def loop_targets(boxes: Tensor, labels: Tensor, grid: BevGrid, options: CenterTargetOptions) -> list[tuple]:
    """Per task of one sample: heatmap (K, Y, X) and a list of (slot, cell, code), one box and one cell at a time."""
    cells_x, cells_y = grid.size[:2]
    targets, first_label = [], 0
    for classes in CLASSES_PER_TASK:
        heatmap, objects = np.zeros((classes, cells_y, cells_x), np.float32), []
        grouped = [(k, box) for k in range(classes) for box in boxes[labels == first_label + k]]
        for slot, (k, box) in enumerate(grouped[: options.max_objects]):
            x, y = (float((box[i] - grid.lower[i]) / grid.step[i]) for i in (0, 1))
            cell_x, cell_y = int(x), int(y)  # toward zero
            if not (0 <= cell_x < cells_x and 0 <= cell_y < cells_y) or float(box[3:6].min()) <= 0:
                continue
            sides = box[3:5] / grid.step[0]
            radius = max(options.min_radius, int(gaussian_radius(sides[0], sides[1], options.gaussian_overlap)))
            for row in range(cells_y):
                for column in range(cells_x):
                    if max(abs(row - cell_y), abs(column - cell_x)) <= radius:
                        distance = (row - cell_y) ** 2 + (column - cell_x) ** 2
                        value = math.exp(-distance / (2 * ((2 * radius + 1) / 6) ** 2))
                        heatmap[k, row, column] = max(heatmap[k, row, column], value)
            angle = float(box[6])
            code = [x - cell_x, y - cell_y, *box[2:3], *box[3:6].log(), math.sin(angle), math.cos(angle), *box[7:9]]
            objects.append((slot, cell_y * cells_x + cell_x, code))
        targets.append((heatmap, objects))
        first_label += classes
    return targets


@pytest.mark.parametrize(
    ("seed", "counts", "options"),
    [
        (0, (40,), CenterTargetOptions()),
        (1, (60, 0, 25), CenterTargetOptions(gaussian_overlap=0.5, min_radius=1)),
        (2, (80, 3), CenterTargetOptions(max_objects=7, min_radius=0)),
        (3, (1, 1), CenterTargetOptions(max_objects=1)),
    ],
    ids=["one sample", "an empty sample among others", "more boxes than slots", "one box and one slot"],
)
def test_equal_a_loop_over_boxes(
    small_grid: BevGrid, device: torch.device, seed: int, counts: tuple[int, ...], options: CenterTargetOptions
) -> None:
    boxes, labels = random_batch(seed, counts)
    ours = center_targets(
        [box.to(device) for box in boxes], [label.to(device) for label in labels], CLASSES_PER_TASK, small_grid, options
    )
    for sample in range(len(counts)):
        for target, (heatmap, objects) in zip(
            ours, loop_targets(boxes[sample], labels[sample], small_grid, options), strict=True
        ):
            np.testing.assert_allclose(target.heatmap[sample].cpu(), heatmap, rtol=1e-6)
            slots = [slot for slot, _, _ in objects]
            assert target.mask[sample].nonzero()[:, 0].tolist() == slots
            assert target.cell[sample, slots].tolist() == [cell for _, cell, _ in objects]
            np.testing.assert_allclose(
                target.box_code[sample, slots].cpu(),
                np.array([code for *_, code in objects]).reshape(-1, 10),
                atol=2e-6,
                rtol=1e-5,
            )
            assert not target.box_code[sample][~target.mask[sample]].any()


# x in metres on a grid of half-metre cells from -4 to 4 -> the cell along x, or None outside
@pytest.mark.parametrize(
    ("x", "cell_x"),
    [(-4.0, 0), (-3.51, 0), (-3.5, 1), (3.99, 15), (4.0, None), (-4.49, 0), (-4.5, None), (1e12, None), (-1e12, None)],
)
def test_cells_are_cut_toward_zero(small_grid: BevGrid, x: float, cell_x: int | None) -> None:
    box = torch.tensor([[x, -3.0, 0, 1, 1, 1, 0, 0, 0]])
    (target,) = center_targets([box], [torch.tensor([0])], [1], small_grid)
    assert target.mask[0, 0].item() == (cell_x is not None)
    assert target.heatmap.any().item() == (cell_x is not None)
    if cell_x is not None:
        assert target.cell[0, 0].item() == cell_x
        assert target.heatmap[0, 0, 0].argmax().item() == cell_x
        assert target.box_code[0, 0, 0].item() == pytest.approx((x + 4) / 0.5 - cell_x, abs=1e-5)


@pytest.mark.parametrize("log_dimensions", [True, False])
def test_code_of_a_box(small_grid: BevGrid, log_dimensions: bool) -> None:
    box = torch.tensor([[1.3, -0.9, 0.7, 4.0, 2.0, 1.5, 2.5, -3.0, 0.4]])
    (target,) = center_targets([box], [torch.tensor([0])], [1], small_grid, log_dimensions=log_dimensions)
    size = [math.log(side) for side in (4.0, 2.0, 1.5)] if log_dimensions else [4.0, 2.0, 1.5]
    wanted = [0.6, 0.2, 0.7, *size, math.sin(2.5), math.cos(2.5), -3.0, 0.4]
    assert target.box_code[0, 0].tolist() == pytest.approx(wanted, abs=1e-5)
    assert target.cell[0, 0].item() == 4 * 16 + 10


def test_a_batch_without_boxes(small_grid: BevGrid, device: torch.device) -> None:
    empty = torch.zeros(0, 9, device=device), torch.zeros(0, dtype=torch.int64, device=device)
    for target in center_targets([empty[0]] * 2, [empty[1]] * 2, CLASSES_PER_TASK, small_grid):
        assert target.heatmap.shape[0] == 2
        assert target.box_code.shape == (2, 500, 10)
        assert not target.heatmap.any()
        assert not target.mask.any()


def test_an_unknown_velocity_stays_nan(small_grid: BevGrid) -> None:
    box = torch.tensor([[0, 0, 0, 1, 1, 1, 0, math.nan, math.nan]])
    (target,) = center_targets([box], [torch.tensor([0])], [1], small_grid)
    assert target.box_code[0, 0].isnan().tolist() == [False] * 8 + [True] * 2


BOX = [[0.0, 0, 0, 1, 1, 1, 0, 0, 0]]
NAN_BOX = [[math.nan, 0, 0, 1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([], [], "one tensor per sample"),
        ([BOX], [[0], [0]], "one tensor per sample"),
        ([[[0.0] * 7]], [[0]], r"boxes of sample 0 must be \(M, 9\).*got \(1, 7\)"),
        ([BOX, BOX[0]], [[0], [0]], r"boxes of sample 1 must be \(M, 9\)"),
        ([BOX], [[0, 1]], r"labels of sample 0 must be \(1,\) integers"),
        ([BOX], [[0.0]], r"labels of sample 0 must be \(1,\) integers.*float32"),
        ([BOX], [[6]], r"labels must lie in 0\.\.5.*got \[6\]"),
        ([BOX * 2], [[-1, 2]], r"labels must lie in 0\.\.5.*got \[-1\]"),
        ([NAN_BOX], [[0]], "finite numbers.*1 of 1 boxes do not.*nan"),
        ([[[0.0, 0, 0, 1, 1, 1, 0, math.inf, 0]]], [[0]], "finite numbers.*inf"),
    ],
)
def test_bad_ground_truth(small_grid: BevGrid, boxes: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        center_targets(
            [torch.tensor(box) for box in boxes],
            [torch.tensor(label) for label in labels],
            CLASSES_PER_TASK,
            small_grid,
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_objects": 0}, "max_objects must be at least 1; got 0"),
        ({"gaussian_overlap": 1.0}, "gaussian_overlap must lie in"),
        ({"min_radius": -1}, "min_radius must not be negative"),
    ],
)
def test_bad_options(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CenterTargetOptions(**settings)
