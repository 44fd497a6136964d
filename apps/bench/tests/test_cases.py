"""Ours and the plain versions agree, and the checks would notice if they did not."""

from __future__ import annotations

import math

import pytest
import torch

from bev_bench.cases import DisagreementError, decode_cases, pool_cases, stereo, stereo_cases, warp_cases
from bev_bench.cases.case import Case, Problem, check_close
from bev_bench.cases.decode import plain_nms_circle, plain_nms_rotated
from bev_bench.cases.overlap import plain_iou
from bev_bench.cases.pool import plain_plan, plain_pool
from bev_ops import BevGrid

CPU = torch.device("cpu")
SMALL = {"quick": True, "device": CPU, "seed": 0}
HALF = {"quick": True, "device": CPU, "seed": 0, "dtype": torch.bfloat16}


def _quick_problems() -> list[Problem]:
    pool = pool_cases(dtype=torch.float32, **SMALL)
    return [*pool, *stereo_cases(**SMALL), *decode_cases(**SMALL), *warp_cases(**SMALL)]


@pytest.mark.parametrize("problem", _quick_problems(), ids=lambda problem: problem.size)
def test_ours_agrees_with_the_plain_version(problem: Problem) -> None:
    cases = problem.build()
    for case in cases:
        case.check()
        case.plain()
        case.ours()
    assert cases


def test_half_precision_is_judged_by_what_it_costs_the_plain_version() -> None:
    for case in pool_cases(**HALF)[1].build():
        case.check()


def _built(problems: list[Problem], name: str) -> Case:
    return next(case for problem in problems for case in problem.build() if case.name == name)


@pytest.mark.parametrize(
    ("problems", "name", "operator"),
    [
        (lambda: pool_cases(dtype=torch.float32, **SMALL)[:1], "bev_pool forward", "pool.bev_pool"),
        (lambda: pool_cases(dtype=torch.float32, **SMALL)[:1], "bev_pool backward", "pool.bev_pool"),
        (lambda: pool_cases(**HALF)[:1], "bev_pool forward", "pool.bev_pool"),
        (lambda: decode_cases(**SMALL), "nms_rotated", "decode.nms_rotated"),
        (lambda: decode_cases(**SMALL), "nms_circle", "decode.nms_circle"),
        (lambda: decode_cases(**SMALL), "decode + nms_rotated", "decode.decode_centers"),
        (lambda: warp_cases(**SMALL), "warp_bev", "warp.warp_bev"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_operator_is_noticed(monkeypatch: pytest.MonkeyPatch, problems, name: str, operator: str) -> None:
    case = _built(problems(), name)
    module, _, function = operator.partition(".")
    path = f"bev_bench.cases.{module}.{function}"
    right = getattr(__import__(f"bev_bench.cases.{module}", fromlist=[function]), function)
    monkeypatch.setattr(path, lambda *arguments: _spoilt(right(*arguments)))
    with pytest.raises(DisagreementError, match=name.split()[0]):
        case.check()


def _spoilt(result):
    """Results that are off by a little, or lack their last entry."""
    if isinstance(result, list):
        return [part[:-1] for part in result]
    return 1.1 * result if result.is_floating_point() else result[:-1]


def test_a_plan_that_lost_a_point_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(points, grid):
        plan = plain_plan(points, grid)
        return plan._replace(cell=plan.cell[1:], depth=plan.depth[1:], pixel=plan.pixel[1:])

    monkeypatch.setattr("bev_bench.cases.pool.plain_plan", forgetful)
    with pytest.raises(DisagreementError, match="plan: ours has"):
        _built(pool_cases(dtype=torch.float32, **SMALL)[:1], "plan").check()


def test_a_cost_volume_that_looks_beside_the_point_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = stereo._positions
    monkeypatch.setattr(stereo, "_positions", lambda *arguments: right(*arguments) + 0.02)  # a pixel or so
    with pytest.raises(DisagreementError, match="cost volume"):
        _built(stereo_cases(**SMALL), "cost volume").check()


def test_the_worst_element_is_named() -> None:
    wanted = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ours = torch.tensor([[1.0, 2.0], [3.5, 4.1]])
    with pytest.raises(DisagreementError, match=r"2 of 4 values .* at \(1, 0\) ours is 3.5, the plain version 3"):
        check_close("op", ours, wanted, 1e-3)
    check_close("op", ours, wanted, 1e-3, exceptions=0.5)
    with pytest.raises(DisagreementError, match="ours is nan"):
        check_close("op", torch.tensor([math.nan]), torch.ones(1), 1e-3)
    with pytest.raises(DisagreementError, match=r"shape \(1,\), the plain version \(2, 2\)"):
        check_close("op", torch.ones(1), wanted, 1e-3)


@pytest.mark.parametrize(
    ("box", "other", "iou"),
    [
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, 0), 1),
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 2), 1),
        ((0, 0, 2, 2, 0), (1, 0, 2, 2, 0), 1 / 3),
        ((0, 0, 2, 2, 0), (5, 0, 2, 2, 0), 0),
        ((0, 0, 4, 2, 0), (0, 0, 2, 1, 0), 1 / 4),
        # a square and itself turned by 45 degrees: a regular octagon of 8 (sqrt 2 - 1) square metres
        ((0, 0, 2, 2, 0), (0, 0, 2, 2, math.pi / 4), 8 * (2**0.5 - 1) / (8 - 8 * (2**0.5 - 1))),
    ],
)
def test_overlap_by_hand(box: tuple, other: tuple, iou: float) -> None:
    found = plain_iou(torch.tensor(box).float(), torch.tensor([other, other]).float())
    assert found.tolist() == pytest.approx([iou, iou], abs=1e-6)


def test_plain_suppression_by_hand() -> None:
    boxes = torch.tensor([[0, 0, 4, 2, 0], [0.5, 0, 4, 2, 0], [10, 0, 4, 2, 0], [10, 3, 4, 2, 0]]).float()
    scores = torch.tensor([0.5, 0.9, 0.3, 0.7])
    assert plain_nms_rotated(boxes, scores, 0.2).tolist() == [1, 3, 2]
    assert plain_nms_circle(boxes[:, :2], scores, 9.0).tolist() == [1, 3]
    assert plain_nms_rotated(boxes[:0], scores[:0], 0.2).tolist() == []


def test_plain_pooling_by_hand() -> None:
    grid = BevGrid(x=(0, 2, 1), y=(0, 1, 1), z=(0, 1, 1))
    x = torch.tensor([0.5, 1.5, 9.0, 1.5])  # two depths of two pixels
    points = torch.stack([x, torch.full((4,), 0.5), torch.full((4,), 0.5)], dim=-1).view(1, 1, 2, 1, 2, 3)
    plan = plain_plan(points, grid)
    assert (plan.cell.tolist(), plan.begin.tolist(), plan.length.tolist()) == ([0, 1, 1], [0, 1], [1, 2])
    depth = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 2, 1, 2)
    context = torch.tensor([10.0, 100.0]).view(1, 1, 1, 1, 2)
    assert plain_pool(depth, context, plan).flatten().tolist() == [10.0, 1000.0]
