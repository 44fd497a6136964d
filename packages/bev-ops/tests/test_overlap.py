"""iou_rotated against analytic cases and a polygon clipper written here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import _kernels, iou_rotated, reference

PI = math.pi
INF, NAN = float("inf"), float("nan")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.fixture(params=["reference", "kernels"])
def iou(request: pytest.FixtureRequest, device: str):
    """Overlap on a device, by the plain-PyTorch path or by the compiled kernels."""
    if request.param == "reference":
        return lambda a, b: reference.iou_rotated(a.to(device), b.to(device)).cpu()
    if not _kernels.load(device):
        pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
    return lambda a, b: iou_rotated(a.to(device), b.to(device)).cpu()


def corners(box: np.ndarray) -> np.ndarray:
    x, y, length, width, yaw = box
    signs = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2
    rotation = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
    return signs * (length, width) @ rotation + (x, y)


def area(polygon: np.ndarray) -> float:
    following = np.roll(polygon, -1, axis=0)
    return 0.5 * float(np.sum(polygon[:, 0] * following[:, 1] - polygon[:, 1] * following[:, 0]))


def clip(polygon: list[np.ndarray], start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
    """Sutherland-Hodgman: the part of a polygon to the left of a line."""
    normal = np.array([-(end - start)[1], (end - start)[0]])
    kept = []
    for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        side_a, side_b = (a - start) @ normal, (b - start) @ normal
        if side_a >= 0:
            kept.append(a)
        if side_a * side_b < 0:
            kept.append(a + (b - a) * side_a / (side_a - side_b))
    return kept


def clipped_iou(a: np.ndarray, b: np.ndarray) -> float:
    polygon, frame = list(corners(a)), corners(b)
    for start, end in zip(frame, np.roll(frame, -1, axis=0), strict=True):
        polygon = clip(polygon, start, end) if polygon else polygon
    shared = area(np.array(polygon)) if len(polygon) > 2 else 0.0
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def random_boxes(count: int, seed: int, spread: float = 8.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = (-spread, -spread, 0.3, 0.3, -4 * PI), (spread, spread, 12.0, 4.0, 4 * PI)
    return rng.uniform(low, high, (count, 5))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_is_the_clipped_polygon(iou, check_close, dtype, seed) -> None:
    a, b = random_boxes(25, seed), random_boxes(30, seed + 100)
    want = torch.tensor([[clipped_iou(one, other) for other in b] for one in a])
    got = iou(torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype))
    assert got.dtype == dtype
    assert (want > 0.05).sum() > 50, "the case must have boxes that overlap"
    check_close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        pytest.param((0, 0, 4, 2, 0), (0, 0, 4, 2, 0), 1, id="identical"),
        pytest.param((3, 7, 4.7, 1.9, 0.73), (3, 7, 4.7, 1.9, 0.73), 1, id="identical and rotated"),
        pytest.param((0, 0, 4, 2, 0), (0, 0, 4, 2, PI), 1, id="turned by half a turn"),
        pytest.param((0, 0, 2, 2, 0), (0, 0, 2, 2, PI / 2), 1, id="a square turned by a quarter"),
        pytest.param((0, 0, 4, 2, 0), (0, 0, 2, 4, PI / 2), 1, id="length and width swapped"),
        pytest.param((0, 0, 4, 2, 0), (0, 0, 4, 2, PI / 2), 1 / 3, id="crossed"),
        pytest.param((0, 0, 4, 2, 0), (2, 0, 4, 2, 0), 1 / 3, id="half shifted along"),
        pytest.param((0, 0, 4, 2, 0), (4, 0, 4, 2, 0), 0, id="touching along an edge"),
        pytest.param((0, 0, 4, 2, 0), (4, 2, 4, 2, 0), 0, id="touching at a corner"),
        pytest.param((0, 0, 4, 4, 0), (0, 0, 2, 2, 0.4), 0.25, id="one inside the other"),
        pytest.param((0, 0, 2, 2, 0.4), (0, 0, 4, 4, 0), 0.25, id="one around the other"),
        pytest.param((0, 0, 4, 4, 0), (1, 1, 2, 2, 0), 0.25, id="inside, sharing two edges"),
        pytest.param((0, 0, 2, 2, 0), (0, 0, 2, 2, PI / 4), 1 / math.sqrt(2), id="octagon"),
        pytest.param((0, 0, 1, 1, 0), (50, 0, 1, 1, 0), 0, id="far apart"),
        pytest.param((0, 0, 100, 0.001, 0), (0, 0, 0.001, 100, 0), 1e-6 / (0.2 - 1e-6), id="two slivers"),
        pytest.param((1000, -2000, 4, 2, 0.3), (1000, -2000, 4, 2, 0.3), 1, id="far from the origin"),
        pytest.param((40, 30, 0.5, 0.5, 0.2), (0, 0, 100, 100, 0), 0.25 / 1e4, id="small in a corner of a large one"),
    ],
)
def test_analytic(iou, check_close, a, b, want, dtype) -> None:
    got = iou(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype))
    check_close(got, torch.tensor([[want]], dtype=torch.float64), TOLERANCE[dtype] * max(want, 1e-3))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 0, 2, 0),
        (0, 0, 4, 0, 0),
        (0, 0, 0, 0, 0),
        (0, 0, -4, 2, 0),
        (0, 0, -4, -2, 0),
        (NAN, 0, 4, 2, 0),
        (0, 0, NAN, 2, 0),
        (0, 0, 4, 2, NAN),
        (INF, 0, 4, 2, 0),
        (0, 0, INF, 2, 0),
        (0, 0, 4, 2, INF),
        (0, 0, 1e-30, 1e-30, 0),
        (0, 0, 1e30, 1e30, 0),
    ],
    ids=str,
)
def test_a_box_without_area_or_not_finite_overlaps_nothing(iou, box) -> None:
    boxes = torch.tensor([box, (0, 0, 4, 2, 0)], dtype=torch.float32)
    assert iou(boxes, boxes).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("offset", [1e-7, 1e-5, 1e-3])
def test_changes_continuously_where_edges_nearly_coincide(iou, offset) -> None:
    box = torch.tensor([[5.0, -3.0, 4.2, 1.8, 0.7]], dtype=torch.float64)
    for column in range(5):
        moved = box.clone()
        moved[0, column] += offset
        assert abs(1 - iou(box, moved).item()) < 5 * offset, f"moved column {column}"


def test_is_symmetric_and_at_most_one(iou, check_close) -> None:
    boxes = torch.from_numpy(random_boxes(40, 9)).float()
    table = iou(boxes, boxes)
    check_close(table, table.T, 1e-6)
    check_close(table.diagonal(), torch.ones(40))
    assert float(table.min()) >= 0
    assert float(table.max()) <= 1


def test_does_not_change_when_the_world_turns(iou, check_close) -> None:
    boxes = torch.from_numpy(random_boxes(20, 3))
    turned = boxes.clone()
    cos, sin = math.cos(1.1), math.sin(1.1)
    turned[:, 0], turned[:, 1] = boxes[:, 0] * cos - boxes[:, 1] * sin + 7, boxes[:, 0] * sin + boxes[:, 1] * cos - 2
    turned[:, 4] += 1.1
    check_close(iou(turned, turned), iou(boxes, boxes), 1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (0, 3), (3, 0), (1, 1)])
def test_shape(iou, rows, columns) -> None:
    assert iou(torch.ones(rows, 5), torch.ones(columns, 5)).shape == (rows, columns)


def test_types_are_promoted_to_float32_at_least() -> None:
    half, double = torch.ones(2, 5).half(), torch.ones(3, 5).double()
    assert iou_rotated(half, half).dtype == torch.float32
    assert iou_rotated(half, double).dtype == torch.float64


def test_long_lists_are_computed_in_parts(monkeypatch, check_close) -> None:
    boxes = torch.from_numpy(random_boxes(23, 4))
    want = reference.iou_rotated(boxes, boxes)
    monkeypatch.setattr(reference, "_SLICE_PAIRS", 50)
    check_close(reference.iou_rotated(boxes, boxes), want)


def strided(boxes: Tensor) -> Tensor:
    return boxes.T.contiguous().T


def test_strided_boxes(iou, check_close) -> None:
    boxes = torch.from_numpy(random_boxes(7, 2))
    check_close(iou(strided(boxes), strided(boxes)), iou(boxes, boxes))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(2, 4), torch.ones(2, 5), r"boxes_a must be \(M, 5\), got \(2, 4\)"),
        (torch.ones(2, 5), torch.ones(5), r"boxes_b must be \(M, 5\), got \(5,\)"),
        (torch.ones(2, 5).long(), torch.ones(2, 5), "boxes_a must be floating point, got torch.int64"),
        (torch.ones(2, 5), torch.ones(2, 5, device="meta"), "one device, got cpu and meta"),
    ],
)
def test_refuses(a, b, message) -> None:
    with pytest.raises(ValueError, match=message):
        iou_rotated(a, b)
