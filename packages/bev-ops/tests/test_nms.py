"""nms_rotated, nms_circle and nms_batched against a greedy loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import NmsRule, _kernels, nms_batched, nms_circle, nms_rotated, reference

INF, NAN = float("inf"), float("nan")
OPERATORS = {"nms_rotated": nms_rotated, "nms_circle": nms_circle}


@pytest.fixture(params=["reference", "kernels"])
def suppress(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch):
    """``suppress(name, boxes, scores, limit)`` on a device, by the plain-PyTorch path or by the compiled kernels."""
    if request.param == "reference":
        monkeypatch.setattr("bev_ops.nms._nms_batched", reference.nms_batched)
    elif not _kernels.load(device):
        pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
    return lambda name, boxes, scores, limit: OPERATORS[name](boxes.to(device), scores.to(device), limit).tolist()


def crowd(count: int, seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    side = max(6.0, count**0.5 * 2)
    boxes = rng.uniform((0, 0, 1, 1, -3), (side, side, 5, 3, 3), (count, 5)).astype(np.float32)
    scores = rng.choice([0.1, 0.2, 0.5, 0.9], count) if seed % 2 else rng.random(count)
    return torch.from_numpy(boxes), torch.from_numpy(scores).float()


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("seed", [0, 1], ids=["distinct scores", "many equal scores"])
@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.5])
def test_rotated_is_the_greedy_loop(suppress, oracle, count, seed, threshold) -> None:
    boxes, scores = crowd(count, seed)
    iou = reference.iou_rotated(boxes, boxes)
    assert iou.sub(threshold).abs()[iou != 0].min() > 1e-6, "a pair stands on the threshold: the case is ill-posed"
    want = oracle.nms(scores.numpy(), lambda a, b: iou[a, b] > threshold)
    assert suppress("nms_rotated", boxes, scores, threshold) == want


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("seed", [0, 1], ids=["distinct scores", "many equal scores"])
@pytest.mark.parametrize("radius", [0.0, 1.0, 9.0])
def test_circle_is_the_greedy_loop(suppress, oracle, count, seed, radius) -> None:
    boxes, scores = crowd(count, seed)
    centers = boxes[:, :2].round()  # whole metres: squared distances are exact and often stand on the radius
    squared = torch.cdist(centers.double(), centers.double()).square().round()
    want = oracle.nms(scores.numpy(), lambda a, b: squared[a, b] <= radius)
    assert suppress("nms_circle", centers, scores, radius) == want


@pytest.mark.parametrize("name", list(OPERATORS))
def test_nothing_in_nothing_out(suppress, name) -> None:
    width = 5 if name == "nms_rotated" else 2
    assert suppress(name, torch.zeros(0, width), torch.zeros(0), 0.5) == []


def test_overlap_equal_to_the_threshold_is_kept(suppress) -> None:
    boxes = torch.tensor([[0, 0, 4, 2, 0], [2, 0, 4, 2, 0.0]])  # their overlap is a third
    assert suppress("nms_rotated", boxes, torch.tensor([0.9, 0.8]), 0.34) == [0, 1]
    assert suppress("nms_rotated", boxes, torch.tensor([0.9, 0.8]), 0.33) == [0]
    same = torch.tensor([[0, 0, 4, 2, 0.0]]).repeat(2, 1)
    assert suppress("nms_rotated", same, torch.tensor([0.9, 0.8]), 1.0) == [0, 1]


def test_radius_is_compared_with_the_squared_distance(suppress) -> None:
    centers, scores = torch.tensor([[0.0, 0], [2, 0], [0, 3]]), torch.tensor([0.9, 0.8, 0.7])
    assert suppress("nms_circle", centers, scores, 3.9) == [0, 1, 2]
    assert suppress("nms_circle", centers, scores, 4.0) == [0, 2]
    assert suppress("nms_circle", centers, scores, 9.0) == [0]


@pytest.mark.parametrize("name", list(OPERATORS))
def test_best_first_and_equal_scores_by_index(suppress, name) -> None:
    boxes = torch.tensor([[10.0 * i, 0, 4, 2, 0] for i in range(6)])
    boxes = boxes if name == "nms_rotated" else boxes[:, :2]
    assert suppress(name, boxes, torch.tensor([0.2, 0.9, 0.2, 0.9, 0.5, 0.2]), 0.5) == [1, 3, 4, 0, 2, 5]


@pytest.mark.parametrize("name", list(OPERATORS))
def test_a_suppressed_one_suppresses_nobody(suppress, name) -> None:
    boxes = torch.tensor([[3.0 * i, 0, 4, 2, 0] for i in range(3)])  # a chain: each overlaps the next only
    boxes, limit = (boxes, 0.1) if name == "nms_rotated" else (boxes[:, :2], 9.0)
    assert suppress(name, boxes, torch.tensor([0.9, 0.8, 0.7]), limit) == [0, 2]


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_boxes_that_are_not_finite_are_dropped(suppress, name, bad) -> None:
    boxes = torch.tensor([[0, 0, 4, 2, 0], [bad, 0, 4, 2, 0], [0, 0.1, 4, 2, 0], [9, 9, 4, 2, 0.0]])
    boxes = boxes if name == "nms_rotated" else boxes[:, :2]
    assert suppress(name, boxes, torch.tensor([0.5, 0.9, 0.4, 0.3]), 0.2) == [0, 3]


@pytest.mark.parametrize("name", list(OPERATORS))
def test_boxes_whose_score_is_nan_are_dropped(suppress, name) -> None:
    boxes = torch.tensor([[0, 0, 4, 2, 0.0]]).repeat(4, 1)
    boxes = boxes if name == "nms_rotated" else boxes[:, :2]
    assert suppress(name, boxes, torch.tensor([NAN, 0.1, NAN, 0.2]), 0.2) == [3]
    assert suppress(name, boxes, torch.tensor([NAN, -INF, NAN, -INF]), 0.2) == [1]
    assert suppress(name, boxes, torch.full((4,), NAN), 0.2) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", list(OPERATORS))
def test_types(suppress, name, dtype) -> None:
    boxes = torch.tensor([[0, 0, 4, 2, 0], [0.5, 0, 4, 2, 0], [9, 9, 4, 2, 0.0]], dtype=dtype)
    boxes = boxes if name == "nms_rotated" else boxes[:, :2]
    assert suppress(name, boxes, torch.tensor([0.1, 0.3, 0.2], dtype=dtype), 0.5) == [1, 2]


@pytest.mark.parametrize("name", list(OPERATORS))
def test_strided_boxes_and_gradients_are_welcome(suppress, name) -> None:
    boxes, scores = crowd(50, 0)
    boxes = boxes if name == "nms_rotated" else boxes[:, :2].contiguous()
    want = suppress(name, boxes, scores, 0.3)
    assert suppress(name, boxes.T.contiguous().T.requires_grad_(), scores.requires_grad_(), 0.3) == want


def test_indices_are_int64(device) -> None:
    boxes, scores = crowd(5, 0)
    assert nms_rotated(boxes.to(device), scores.to(device), 0.3).dtype == torch.int64


RULES = (
    NmsRule(overlap=0.1),
    NmsRule(squared_radius=4.0),
    NmsRule(overlap=0.2, squared_radius=1.0),
    NmsRule(overlap=0.1, most=5),
    NmsRule(squared_radius=0.25, most=0),
    NmsRule(),
    NmsRule(overlap=-0.5),
)


@pytest.fixture(params=["reference", "kernels"])
def suppress_groups(request: pytest.FixtureRequest, device: str, monkeypatch: pytest.MonkeyPatch):
    """``suppress_groups(boxes, valid, rules)`` on a device, by the plain-PyTorch path or by the compiled kernels."""
    if request.param == "reference":
        monkeypatch.setattr("bev_ops.nms._nms_batched", reference.nms_batched)
    elif not _kernels.load(device):
        pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
    return lambda boxes, valid, rules: nms_batched(boxes.to(device), valid.to(device), rules).cpu()


def kept_by_loop(boxes: Tensor, valid: Tensor, rule: NmsRule) -> list[int]:
    iou, kept = reference.iou_rotated(boxes, boxes), []
    for candidate in valid.nonzero()[:, 0].tolist():
        offsets = boxes[kept, :2] - boxes[candidate, :2]
        near = (offsets * offsets).sum(1) <= rule.squared_radius
        if len(kept) < rule.most and not (near | (iou[kept, candidate] > rule.overlap)).any():
            kept.append(candidate)
    return kept


@pytest.mark.parametrize("count", [1, 64, 150])
@pytest.mark.parametrize(
    "spread", [1.0, 0.2, 0.0], ids=["boxes here and there", "boxes in clusters", "boxes in one place"]
)
def test_every_group_follows_its_own_rule(suppress_groups, count, spread) -> None:
    groups = [[crowd(count, 2 * (b + len(RULES) * t))[0] for t in range(len(RULES))] for b in range(3)]
    boxes = torch.stack([torch.stack(sample) for sample in groups])
    boxes[..., :2] = (boxes[..., :2] / 8).round() * 8 + (boxes[..., :2] - (boxes[..., :2] / 8).round() * 8) * spread
    valid = torch.rand(3, len(RULES), count, generator=torch.Generator().manual_seed(count)) < 0.9
    valid[1, 2] = False
    keep = suppress_groups(boxes, valid, RULES)
    for b in range(3):
        for t, rule in enumerate(RULES):
            assert keep[b, t].nonzero()[:, 0].tolist() == kept_by_loop(boxes[b, t], valid[b, t], rule), (b, rule)


@pytest.mark.parametrize("size", [0.0, -1.0, 1e19], ids=str)
def test_degenerate_sizes(suppress_groups, size) -> None:
    boxes, _ = crowd(40, 0)
    boxes[::2, 2] = size
    boxes[1::3, 3] = size
    want = reference.nms_batched(boxes[None, None], torch.ones(1, 1, 40, dtype=torch.bool), [0.0], [-INF], [99])
    keep = suppress_groups(boxes[None, None], torch.ones(1, 1, 40, dtype=torch.bool), [NmsRule(overlap=0.0)])
    assert keep.tolist() == want.tolist()


@pytest.mark.parametrize("shape", [(0, 2, 3), (2, 0, 3), (2, 2, 0)], ids=str)
def test_empty_groups(suppress_groups, shape) -> None:
    keep = suppress_groups(torch.zeros(*shape, 5), torch.zeros(shape, dtype=torch.bool), RULES[: shape[1]])
    assert keep.shape == shape


def test_what_is_not_valid_removes_nothing(suppress_groups) -> None:
    boxes = torch.tensor([[NAN] * 5, [0, 0, 4, 2, 0], [0, 0, 4, 2, 0.0]])[None, None]
    valid = torch.tensor([False, False, True])[None, None]
    assert suppress_groups(boxes, valid, [NmsRule(overlap=0.1, squared_radius=9.0)]).tolist() == [
        [[False, False, True]]
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: no CUDA graph was captured")
def test_a_cuda_graph_captures_it() -> None:
    boxes = torch.stack([crowd(300, seed)[0] for seed in range(4)]).view(2, 2, 300, 5).cuda()
    valid = torch.ones(2, 2, 300, dtype=torch.bool, device="cuda")
    rules = (NmsRule(overlap=0.1), NmsRule(squared_radius=4.0))
    want = nms_batched(boxes, valid, rules)
    input_boxes = torch.zeros_like(boxes)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep = nms_batched(input_boxes, valid, rules)
    input_boxes.copy_(boxes)
    graph.replay()
    assert torch.equal(keep, want)


def batched(boxes: Tensor, rules: int = 2) -> Tensor:
    return nms_batched(boxes, torch.ones(1, max(2, rules), 3, dtype=torch.bool), [NmsRule()] * rules)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nms_rotated(torch.ones(3, 4), torch.ones(3), 0.5), r"boxes must be \(M, 5\), got \(3, 4\)"),
        (lambda: nms_circle(torch.ones(3, 3), torch.ones(3), 0.5), r"centers must be \(M, 2\), got \(3, 3\)"),
        (lambda: nms_rotated(torch.ones(3, 5), torch.ones(2), 0.5), r"scores must be \(3,\).*got \(2,\)"),
        (lambda: nms_rotated(torch.ones(3, 5), torch.ones(3, 1), 0.5), r"scores must be \(3,\).*got \(3, 1\)"),
        (lambda: nms_rotated(torch.ones(3, 5), torch.ones(3, device="meta"), 0.5), "got .* on meta"),
        (lambda: nms_rotated(torch.ones(3, 5).long(), torch.ones(3), 0.5), "floating point"),
        (lambda: nms_rotated(torch.ones(3, 5), torch.ones(3), NAN), "threshold must be a number"),
        (lambda: nms_circle(torch.ones(3, 2), torch.ones(3), -1.0), "radius must not be negative, got -1"),
        (lambda: nms_circle(torch.ones(3, 2), torch.ones(3), NAN), "radius must not be negative, got nan"),
        (lambda: NmsRule(overlap=NAN), "overlap and squared_radius must be numbers, got nan and -inf"),
        (lambda: NmsRule(most=-1), "most must not be negative, got -1"),
        (lambda: batched(torch.ones(3, 5)), r"boxes must be floating \(B, T, M, 5\), got torch.float32 \(3, 5\)"),
        (lambda: batched(torch.ones(1, 2, 3, 5).int()), r"must be floating .* got torch.int32"),
        (lambda: batched(torch.ones(1, 2, 4, 5)), r"valid must be bool \(1, 2, 4\) .* got torch.bool \(1, 2, 3\)"),
        (lambda: batched(torch.ones(1, 2, 3, 5), rules=1), "rules must be one per .* here 2, and at most 64; got 1"),
        (lambda: batched(torch.ones(1, 65, 3, 5), rules=65), "at most 64; got 65"),
    ],
)
def test_refuses(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
