"""bev_pool: forward and backward of every implementation against loops in numpy."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bev_ops import PoolPlan, _kernels, bev_pool, reference

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [
    pytest.param((1, 1, 1, 1, 1, 1), id="a single point"),
    pytest.param((1, 6, 5, 64, 3, 4), id="six cameras"),
    pytest.param((2, 2, 5, 7, 3, 4), id="two samples"),
    pytest.param((3, 1, 4, 3, 1, 5), id="three samples"),
    pytest.param((1, 7, 3, 80, 2, 2), id="seven cameras"),
    pytest.param((1, 2, 9, 130, 5, 7), id="many channels"),
    pytest.param((2, 2, 5, 20, 18, 5), id="columns"),
    pytest.param((1, 1, 3, 80, 40, 2), id="high columns"),
]


@pytest.fixture(params=["reference", "kernels"])
def pool(request: pytest.FixtureRequest, device: str):
    """Pools on a device, by the plain-PyTorch path or by the compiled kernels, with the gradients on request."""
    if request.param == "kernels" and not _kernels.load(device):
        pytest.skip("; ".join(str(status) for status in _kernels.kernel_status()))
    run = by_reference if request.param == "reference" else by_operator
    return lambda inputs, grad=None: run(to_device(inputs, device), None if grad is None else grad.to(device))


@pytest.fixture
def repeatable_pool(pool, device: str, request: pytest.FixtureRequest):
    """Pools that give the same bits for the same input: PyTorch's index_add_ on a GPU does not."""
    if device == "cuda" and "reference" in request.node.callspec.id:
        pytest.skip("index_add_ adds in any order on a GPU")
    return pool


def to_device(inputs: SimpleNamespace, device: str) -> SimpleNamespace:
    return SimpleNamespace(**{name: value.to(device) for name, value in vars(inputs).items()})


def by_reference(inputs: SimpleNamespace, grad: Tensor | None) -> tuple[Tensor, ...]:
    plan = inputs.plan
    if grad is not None:
        return reference.bev_pool_backward(grad, inputs.depth, inputs.context, plan.cell_of_point)
    tables = (plan.entry_start, plan.entries, plan.column_runs, plan.long_cells, plan.cell_of_point)
    return (reference.bev_pool(inputs.depth, inputs.context, *tables, plan.grid.size, 0, 0, False),)


def by_operator(inputs: SimpleNamespace, grad: Tensor | None) -> tuple[Tensor, ...]:
    if grad is None:
        return (bev_pool(inputs.depth, inputs.context, inputs.plan),)
    leaves = tuple(tensor.detach().requires_grad_() for tensor in (inputs.depth, inputs.context))
    return torch.autograd.grad(bev_pool(*leaves, inputs.plan), leaves, grad)


def random_grad(inputs: SimpleNamespace) -> Tensor:
    (out,) = by_reference(inputs, None)
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(out.dtype)


def bound(dtype: torch.dtype, want: Tensor, terms: int) -> float:
    """Rounding of the result, and of so many sums before it."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return float(want.abs().max()) * (torch.finfo(dtype).eps + terms * torch.finfo(exact).eps) + 1e-30


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_oracle(pool, make_inputs, oracle, check_close, shape, dtype) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    want = oracle.pool(inputs.depth, inputs.context, inputs.points, inputs.plan.grid)
    (got,) = pool(inputs)
    assert got.dtype == dtype
    assert got.is_contiguous()
    check_close(got, want, bound(dtype, want, 40))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_the_oracle(pool, make_inputs, oracle, check_close, shape, dtype) -> None:
    inputs = make_inputs(*shape, dtype=dtype)
    grad = random_grad(inputs)
    want = oracle.backward(grad, inputs.depth, inputs.context, inputs.points, inputs.plan.grid)
    for one, other, like in zip(pool(inputs, grad), want, (inputs.depth, inputs.context), strict=True):
        assert one.dtype == like.dtype
        check_close(one, other, bound(dtype, other, shape[3] + 20))


@pytest.mark.parametrize("channels", [1, 7, 15, 16, 17, 64, 80, 130, 256, 300])
@pytest.mark.parametrize("rows", [3, 17])
def test_any_number_of_channels(pool, make_inputs, check_close, channels, rows) -> None:
    inputs = make_inputs(1, 2, 4, channels, rows, 4)
    check_close(pool(inputs)[0], by_reference(inputs, None)[0], 1e-5)
    grad = random_grad(inputs)
    for one, other in zip(pool(inputs, grad), by_reference(inputs, grad), strict=True):
        check_close(one, other, bound(torch.float32, other, channels + 20))


@pytest.mark.parametrize(
    ("shape", "spread"),
    [
        pytest.param((2, 2, 40, 5, 4, 4), 0.0, id="one crowded cell"),
        pytest.param((2, 2, 9, 5, 16, 8), 0.0, id="one cell crowded with columns"),
        pytest.param((1, 2, 5, 5, 3, 3), 1e6, id="no point in range"),
        pytest.param((1, 2, 5, 5, 16, 3), 1e6, id="no column in range"),
    ],
)
def test_extreme_geometry(pool, make_inputs, oracle, check_close, shape, spread) -> None:
    inputs = make_inputs(*shape, spread=spread)
    want = oracle.pool(inputs.depth, inputs.context, inputs.points, inputs.plan.grid)
    check_close(pool(inputs)[0], want, bound(torch.float32, want, 1280))
    assert inputs.plan.num_cells == (2 if spread == 0 else 0)
    grad = random_grad(inputs)
    for one, other in zip(pool(inputs, grad), by_reference(inputs, grad), strict=True):
        check_close(one, other, bound(torch.float32, other, 200))


def test_no_camera_at_all(pool, make_inputs, check_close) -> None:
    inputs = make_inputs(2, 0, 5, 7, 3, 4)
    check_close(pool(inputs)[0], torch.zeros(2, 7, 2, 6, 8))
    assert [g.numel() for g in pool(inputs, torch.ones(2, 7, 2, 6, 8))] == [0, 0]


@pytest.mark.parametrize("channels", [7, 64])
@pytest.mark.parametrize("rows", [3, 17])
def test_memory_layout_of_the_inputs_changes_no_bit(repeatable_pool, make_inputs, check_close, channels, rows) -> None:
    inputs = make_inputs(2, 2, 5, channels, rows, 4)
    strided = SimpleNamespace(
        depth=inputs.depth.transpose(3, 4).contiguous().transpose(3, 4),
        context=inputs.context.movedim(2, -1).contiguous().movedim(-1, 2),
        plan=inputs.plan,
    )
    assert not strided.depth.is_contiguous()
    assert not strided.context.is_contiguous()
    check_close(repeatable_pool(strided)[0], repeatable_pool(inputs)[0])
    grad = random_grad(inputs)
    channels_last = grad.movedim(1, -1).contiguous().movedim(-1, 1)
    for one, other in zip(repeatable_pool(strided, channels_last), repeatable_pool(inputs, grad), strict=True):
        check_close(one, other)


def test_gradient_of_a_sum_has_no_strides(repeatable_pool, make_inputs, check_close) -> None:
    inputs = make_inputs()
    ones = torch.ones(1)
    shape = by_reference(inputs, None)[0].shape
    spread, whole = (repeatable_pool(inputs, grad) for grad in (ones.expand(shape), torch.ones(shape)))
    for one, other in zip(spread, whole, strict=True):
        check_close(one, other)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_channels_last_is_the_same_in_another_order_of_memory(make_inputs, check_close, device, shape, dtype) -> None:
    inputs = make_inputs(*shape, dtype=dtype, device=device)
    leaves = tuple(tensor.requires_grad_() for tensor in (inputs.depth, inputs.context))
    want, got = (bev_pool(*leaves, inputs.plan, channels_last=last) for last in (False, True))
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    check_close(got, want)
    grad = random_grad(make_inputs(*shape, dtype=dtype)).to(device)
    for one, other in zip(*(torch.autograd.grad(out, leaves, grad) for out in (got, want)), strict=True):
        check_close(one, other)


@pytest.mark.parametrize("rows", [4, 16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_low_precision_is_at_most_twice_as_far_off_as_pytorch(pool, make_inputs, rows, dtype) -> None:
    """Against float32 on the same numbers, beside PyTorch's own multiply and index_add_ in the low precision."""
    inputs = make_inputs(1, 6, 40, 64, rows, 6, dtype=dtype)
    exact = SimpleNamespace(depth=inputs.depth.float(), context=inputs.context.float(), plan=inputs.plan)
    (want,) = by_reference(exact, None)
    error = (pool(inputs)[0].cpu().float() - want).abs().max()
    plain_error = (index_add(inputs).float() - want).abs().max()
    assert error <= 2 * plain_error, f"error {error:.3g}, PyTorch's own {plain_error:.3g}"


def index_add(inputs: SimpleNamespace) -> Tensor:
    plan, context = inputs.plan, inputs.context
    cell = plan.cell_of_point.flatten().long()
    point = torch.nonzero(cell >= 0).squeeze(1)
    _, _, d, h, w = plan.shape
    pixel = point // (d * h * w) * (h * w) + point % (h * w)
    rows = context.movedim(2, -1).reshape(-1, context.shape[2])
    lifted = rows[pixel] * inputs.depth.reshape(-1)[point, None]
    out = rows.new_zeros(len(context) * plan.grid.num_cells, rows.shape[1]).index_add_(0, cell[point], lifted)
    x, y, z = plan.grid.size
    return out.view(-1, z, y, x, rows.shape[1]).movedim(-1, 1)


@pytest.mark.parametrize("rows", [4, 24])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_equals_the_reference_to_the_last_bit_on_the_cpu(make_inputs, check_close, rows, dtype) -> None:
    if not _kernels.load("cpu"):
        pytest.skip(str(_kernels.kernel_status()[0]))
    inputs = make_inputs(2, 3, 30, 70, rows, 6, dtype=dtype)
    check_close(by_operator(inputs, None)[0], by_reference(inputs, None)[0])


@pytest.mark.parametrize("rows", [4, 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_number_of_threads_changes_no_bit(make_inputs, check_close, rows, dtype) -> None:
    inputs = make_inputs(2, 6, 20, 33, rows, 6, dtype=dtype)
    grad = random_grad(inputs)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        want = (*by_operator(inputs, None), *by_operator(inputs, grad))
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)
            for one, other in zip((*by_operator(inputs, None), *by_operator(inputs, grad)), want, strict=True):
                check_close(one, other)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [4, 18])
def test_runs_repeat_to_the_last_bit(repeatable_pool, make_inputs, check_close, rows) -> None:
    inputs = make_inputs(2, 3, 30, 24, rows, 6)
    grad = random_grad(inputs)
    first, again = ((*repeatable_pool(inputs), *repeatable_pool(inputs, grad)) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        check_close(one, other)


@pytest.mark.parametrize("spread", [0.0, 1.3])
def test_gradcheck(make_inputs, device, spread) -> None:
    inputs = make_inputs(2, 1, 3, 3, 2, 2, dtype=torch.float64, device=device, spread=spread)
    leaves = (inputs.depth.requires_grad_(), inputs.context.requires_grad_())
    assert torch.autograd.gradcheck(lambda depth, context: bev_pool(depth, context, inputs.plan), leaves)


def test_one_input_may_be_constant(make_inputs, check_close) -> None:
    inputs = make_inputs()
    want = by_operator(make_inputs(), torch.ones(2, 7, 2, 6, 8))
    bev_pool(inputs.depth.requires_grad_(), inputs.context, inputs.plan).sum().backward()
    check_close(inputs.depth.grad, want[0])
    inputs = make_inputs()
    bev_pool(inputs.depth, inputs.context.requires_grad_(), inputs.plan).sum().backward()
    check_close(inputs.context.grad, want[1])


@pytest.mark.parametrize(
    ("depth", "context", "result"),
    [
        (torch.float32, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float16, torch.float16, torch.float16),
    ],
    ids=str,
)
def test_mixed_types_are_promoted(make_inputs, check_close, device, depth, context, result) -> None:
    inputs = make_inputs(dtype=torch.float16, device=device)
    leaves = (inputs.depth.to(depth).requires_grad_(), inputs.context.to(context).requires_grad_())
    out = bev_pool(*leaves, inputs.plan)
    assert out.dtype == result
    check_close(out, bev_pool(leaves[0].to(result), leaves[1].to(result), inputs.plan))
    assert [g.dtype for g in torch.autograd.grad(out.sum(), leaves)] == [depth, context]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_autocast_pools_in_float32(make_inputs, check_close, device, dtype) -> None:
    inputs = make_inputs(dtype=dtype, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = bev_pool(inputs.depth, inputs.context, inputs.plan)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert out.dtype == wide
    check_close(out, bev_pool(inputs.depth.to(wide), inputs.context.to(wide), inputs.plan))


@pytest.mark.parametrize("rows", [3, 17])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_plan_of_one_sample_serves_a_batch(pool, make_inputs, check_close, rows, dtype) -> None:
    """Equal to a call per sample, forward and backward."""
    inputs = make_inputs(1, 2, 5, 20, rows, 4, dtype=dtype)
    batch = make_inputs(3, 2, 5, 20, rows, 4, dtype=dtype, seed=1)
    batch.plan = inputs.plan
    parts = [
        SimpleNamespace(depth=batch.depth[i : i + 1], context=batch.context[i : i + 1], plan=inputs.plan)
        for i in range(3)
    ]
    want = torch.cat([pool(part)[0] for part in parts])
    check_close(pool(batch)[0], want, bound(dtype, want, 40))
    grad = torch.cat([random_grad(part) for part in parts])
    for got, *each in zip(
        pool(batch, grad), *(pool(p, g) for p, g in zip(parts, grad.split(1), strict=True)), strict=True
    ):
        check_close(got, torch.cat(each), bound(dtype, torch.cat(each), 40))


def test_a_shared_plan_in_channels_last_memory(make_inputs, check_close, device) -> None:
    inputs, batch = make_inputs(1, device=device), make_inputs(3, seed=1, device=device)
    want, got = (bev_pool(batch.depth, batch.context, inputs.plan, channels_last=last) for last in (False, True))
    assert got.is_contiguous(memory_format=torch.channels_last_3d)
    check_close(got, want)


def test_a_plan_serves_many_calls(make_inputs, check_close) -> None:
    inputs = make_inputs()
    once = bev_pool(inputs.depth, inputs.context, inputs.plan)
    check_close(bev_pool(inputs.depth * 2, inputs.context, inputs.plan), once * 2)


@pytest.mark.parametrize(
    ("depth", "context", "message"),
    [
        pytest.param((2, 2, 6, 3, 4), (2, 2, 7, 3, 4), r"depth .*\(2, 2, 5, 3, 4\), got \(2, 2, 6, 3, 4\)", id="bins"),
        pytest.param((1, 2, 5, 3, 4), (1, 2, 7, 3, 4), r"depth .*got \(1, 2, 5, 3, 4\)", id="samples"),
        pytest.param((2, 5, 3, 4), (2, 2, 7, 3, 4), r"depth .*got \(2, 5, 3, 4\)", id="dimensions of depth"),
        pytest.param((2, 2, 5, 3, 4), (2, 2, 7, 4, 3), r"\(2, 2, C, 3, 4\), got \(2, 2, 7, 4, 3\)", id="pixels"),
        pytest.param((2, 2, 5, 3, 4), (2, 3, 7, 3, 4), r"\(2, 2, C, 3, 4\), got \(2, 3, 7, 3, 4\)", id="cameras"),
        pytest.param((2, 2, 5, 3, 4), (2, 7, 3, 4), r"\(2, 2, C, 3, 4\), got \(2, 7, 3, 4\)", id="dimensions"),
    ],
)
def test_refuses_another_shape_than_the_plan(make_inputs, depth, context, message) -> None:
    with pytest.raises(ValueError, match=message):
        bev_pool(torch.zeros(depth), torch.zeros(context), make_inputs().plan)


def test_refuses_integers_and_mixed_devices(make_inputs) -> None:
    inputs = make_inputs()
    with pytest.raises(ValueError, match=r"float16, bfloat16, float32 or float64, got torch\.int64"):
        bev_pool(inputs.depth.long(), inputs.context, inputs.plan)
    with pytest.raises(ValueError, match=r"one device, got cpu, cpu and meta.*plan.to\(device\)"):
        bev_pool(inputs.depth, inputs.context, inputs.plan.to("meta"))


def test_a_plan_of_this_shape_is_accepted_whatever_its_points(make_inputs, grid) -> None:
    inputs = make_inputs()
    empty = PoolPlan.from_points(inputs.points + 1e4, grid)
    assert empty.num_points == 0
    assert not bev_pool(inputs.depth, inputs.context, empty).any()
