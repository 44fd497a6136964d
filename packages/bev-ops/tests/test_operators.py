"""The operators as torch.compile, torch.export and the dispatcher see them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from bev_ops import BevGrid, PoolPlan, _kernels, bev_pool, iou_rotated, nms_circle, nms_rotated
from bev_ops.plan import LONG_CELL, min_run

OPS = torch.ops.bev_ops
INF = float("inf")


def pool_arguments(inputs: SimpleNamespace) -> tuple[object, ...]:
    plan = inputs.plan
    tables = (plan.entry_start, plan.entries, plan.column_runs, plan.long_cells, plan.cell_of_point)
    return (inputs.depth, inputs.context, *tables, plan.grid.size, LONG_CELL, min_run(plan.grid), False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: no operator was tested on one")
def test_every_kernel_is_compiled_on_a_gpu() -> None:
    assert _kernels.load("cuda"), str(_kernels.kernel_status()[1])
    for name in ("pool_plan", "bev_pool", "bev_pool_backward", "iou_rotated", "nms_batched"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bev_ops::{name}", "CUDA"), name


def test_opcheck_pool_plan(make_inputs, grid, device) -> None:
    points = make_inputs(device=device).points
    torch.library.opcheck(OPS.pool_plan, (points, grid.lower, grid.step, grid.size, 4, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_bev_pool(make_inputs, device, dtype) -> None:
    inputs = make_inputs(device=device, dtype=dtype)
    torch.library.opcheck(OPS.bev_pool, pool_arguments(inputs))
    inputs.depth.requires_grad_()
    inputs.context.requires_grad_()
    torch.library.opcheck(OPS.bev_pool, pool_arguments(inputs), atol=1e-5, rtol=1e-5)


def test_opcheck_bev_pool_backward(make_inputs, device) -> None:
    inputs = make_inputs(device=device)
    grad = torch.randn(2, 7, 2, 6, 8, device=device)
    torch.library.opcheck(OPS.bev_pool_backward, (grad, inputs.depth, inputs.context, inputs.plan.cell_of_point))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_opcheck_overlap_and_suppression(device, dtype) -> None:
    boxes = torch.rand(6, 5, device=device, dtype=dtype)
    torch.library.opcheck(OPS.iou_rotated, (boxes, boxes[:4].clone()))
    valid = torch.ones(2, 3, 4, dtype=torch.bool, device=device)
    groups = torch.rand(2, 3, 4, 5, device=device, dtype=dtype)
    limits = ([0.3, INF, 0.1], [-INF, 0.3, 0.1], [4, 4, 1])
    torch.library.opcheck(OPS.nms_batched, (groups, valid, *limits))


class Lift(nn.Module):
    """The whole path, plan included, as a model traces it."""

    def __init__(self, grid: BevGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, depth: Tensor, context: Tensor, points: Tensor) -> Tensor:
        return bev_pool(depth.softmax(2), context, PoolPlan.from_points(points, self.grid)).relu()


def traced(body: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch._dynamo.reset()
    return torch.compile(body, fullgraph=True, backend="aot_eager")


def test_compiles_as_one_graph_with_gradients(make_inputs, check_close, grid, device) -> None:
    inputs = make_inputs(device=device)
    model = Lift(grid)
    results = []
    for run in (model, traced(model)):
        leaves = (inputs.depth.clone().requires_grad_(), inputs.context.clone().requires_grad_())
        out = run(*leaves, inputs.points)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    for got, want in zip(*results, strict=True):
        check_close(got, want, 1e-5)


def test_compiles_with_a_finished_plan_and_under_autocast(make_inputs, check_close, device) -> None:
    inputs = make_inputs(device=device, dtype=torch.bfloat16)

    def body(depth: Tensor, context: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return bev_pool(depth, context, inputs.plan)

    got = traced(body)(inputs.depth, inputs.context)
    assert got.dtype == torch.float32
    check_close(got, body(inputs.depth, inputs.context))


def test_compiles_suppression_as_one_graph() -> None:
    boxes, scores = torch.rand(12, 5), torch.rand(12)

    def body(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        return nms_rotated(boxes, scores, 0.2), nms_circle(boxes[:, :2], scores, 0.1)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        got = traced(body)(boxes, scores)
    for one, other in zip(got, body(boxes, scores), strict=True):
        assert one.tolist() == other.tolist()


def test_exports_with_any_number_of_samples(make_inputs, check_close, grid, device) -> None:
    inputs = make_inputs(3, device=device)
    model, batch = Lift(grid), torch.export.Dim("batch", min=1, max=64)
    example = (inputs.depth, inputs.context, inputs.points)
    program = torch.export.export(model, example, dynamic_shapes=({0: batch}, {0: batch}, {0: batch}))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"bev_ops.pool_plan.default", "bev_ops.bev_pool.default"} <= targets
    for samples in (1, 3):
        fewer = tuple(tensor[:samples] for tensor in example)
        check_close(program.module()(*fewer), model(*fewer))


def test_exports_suppression() -> None:
    class Suppress(nn.Module):
        def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
            return nms_rotated(boxes, scores, 0.2)

    boxes, scores = torch.rand(12, 5), torch.rand(12)
    program = torch.export.export(Suppress(), (boxes, scores))
    other = torch.rand(12, 5)
    assert program.module()(other, scores).tolist() == nms_rotated(other, scores, 0.2).tolist()


def test_shapes_without_data(make_inputs, grid) -> None:
    inputs = make_inputs()
    plan = PoolPlan.from_points(inputs.points.to("meta"), grid)
    assert plan.cell_of_point.shape == inputs.plan.cell_of_point.shape
    out = bev_pool(inputs.depth.to("meta"), inputs.context.to("meta"), plan)
    assert out.shape == (2, 7, 2, 6, 8)
    assert iou_rotated(torch.ones(3, 5, device="meta"), torch.ones(4, 5, device="meta")).shape == (3, 4)
