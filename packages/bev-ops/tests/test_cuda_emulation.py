"""The CUDA kernels' own source, run on the CPU thread by thread, against the plain-PyTorch reference.

The emulator switches threads only where they wait for each other. Results that change with its order of threads would
show a missing barrier; equal bits in every order are part of the test.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bev_ops import reference
from bev_ops.plan import PoolPlan

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
ORDERS = {"forward": 0, "backward": 1, "random": 2}
NAN = float("nan")


class Sizes(ctypes.Structure):
    """PoolSizes of emulate_kernels.cpp."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("samples", "cameras", "bins", "channels", "height", "width", "cells"),
            *("long_cell", "long_slots", "plan_samples"),
        )
    ]


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_kernels.cpp")


def call(function: Callable[..., bytes], order: str, *args: object) -> None:
    function.restype = ctypes.c_char_p
    fault = function(ORDERS[order], *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in args))
    assert not fault, fault.decode()


def sizes_of(depth: Tensor, context: Tensor, plan: PoolPlan, long_cell: int, long_slots: int) -> object:
    b, n, d, h, w = depth.shape
    limits = long_cell, long_slots, plan.shape[0]
    return ctypes.byref(Sizes(b, n, d, context.shape[2], h, w, plan.grid.num_cells, *limits))


def emulated_pool(
    emulator: ctypes.CDLL,
    inputs: SimpleNamespace,
    long_cell: int,
    order: str,
    *,
    min_run: int = 2,
    products: bool = True,
    channels_last: bool = False,
    at_once: int = 8,
) -> Tensor:
    depth, context, grid = inputs.depth, inputs.context, inputs.plan.grid
    x, y, z = grid.size
    tables = reference.pool_plan(inputs.points, grid.lower, grid.step, grid.size, long_cell, min_run)[:4]
    sizes = sizes_of(depth, context, inputs.plan, long_cell, tables[3].numel())
    shape = (depth.shape[0], z, y, x, context.shape[2]) if channels_last else (*context.shape[::2][:2], z, y, x)
    out = torch.full(shape, NAN, dtype=depth.dtype)
    options = (ctypes.c_bool(products), ctypes.c_bool(channels_last), ctypes.c_int64(at_once))
    call(emulator.emulate_forward, order, DTYPES[depth.dtype], sizes, *options, depth, context, *tables, out)
    return out.movedim(-1, 1) if channels_last else out


def emulated_backward(
    emulator: ctypes.CDLL, grad: Tensor, inputs: SimpleNamespace, order: str
) -> tuple[Tensor, Tensor]:
    depth, context = inputs.depth, inputs.context
    sizes = sizes_of(depth, context, inputs.plan, 0, 0)
    depth_grad, context_grad = torch.full_like(depth, NAN), torch.full_like(context, NAN)
    tensors = (grad, depth, context, inputs.plan.cell_of_point, depth_grad, context_grad)
    call(emulator.emulate_backward, order, DTYPES[depth.dtype], sizes, *tensors)
    return depth_grad, context_grad


def reference_pool(inputs: SimpleNamespace) -> Tensor:
    plan = inputs.plan
    tables = (plan.entry_start, plan.entries, plan.column_runs, plan.long_cells, plan.cell_of_point)
    return reference.bev_pool(inputs.depth, inputs.context, *tables, plan.grid.size, 0, 0, False)


def rounding(dtype: torch.dtype, largest: float, terms: int) -> float:
    """Bound on the difference of two sums of the same terms, rounded once to a type."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return largest * (torch.finfo(dtype).eps + terms * torch.finfo(exact).eps)


@pytest.mark.parametrize("rows", [3, 17])
@pytest.mark.parametrize("min_run", [2, 8])
def test_plan_is_the_reference(emulator, make_inputs, rows, min_run) -> None:
    inputs = make_inputs(2, 2, 5, 1, rows, 4)
    grid = inputs.plan.grid
    want = reference.pool_plan(inputs.points, grid.lower, grid.step, grid.size, 1, min_run)
    got = [torch.full_like(table, -7) for table in want]
    sizes = [torch.tensor(v, dtype=torch.int64) for v in (inputs.plan.shape, grid.size)]
    lower, step = (torch.tensor(v, dtype=torch.float32) for v in (grid.lower, grid.step))
    limits = (ctypes.c_int64(v) for v in (1, want[3].numel(), min_run))
    call(emulator.emulate_plan, "random", inputs.points, sizes[0], lower, step, sizes[1], *limits, *got)
    for one, other in zip(got, want, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("channels", [1, 7, 64, 80, 130, 256])
@pytest.mark.parametrize(("rows", "long_cell"), [(3, 1), (3, 256), (17, 20)])
def test_forward_is_the_reference(emulator, make_inputs, check_close, dtype, channels, rows, long_cell) -> None:
    inputs = make_inputs(2, 2, 6, channels, rows, 5, dtype=dtype)
    want = reference_pool(inputs)
    got = emulated_pool(emulator, inputs, long_cell, "forward")
    check_close(got, want, rounding(dtype, float(want.abs().max()), 60))


@pytest.mark.parametrize(
    "options",
    [
        {"products": False},
        {"channels_last": True},
        {"at_once": 1},
        {"min_run": 1},
        {"min_run": 9, "products": False, "at_once": 2, "channels_last": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [5, 64])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_forward_in_every_layout(emulator, make_inputs, check_close, dtype, channels, options) -> None:
    inputs = make_inputs(3, 1, 5, channels, 20, 6, dtype=dtype)
    want = reference_pool(inputs)
    got = emulated_pool(emulator, inputs, 3, "forward", **options)
    check_close(got, want, rounding(dtype, float(want.abs().max()), 60))


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("long_cell", [1, 256])
def test_one_plan_for_all_samples(emulator, make_inputs, check_close, at_once, long_cell) -> None:
    inputs, batch = make_inputs(1, 2, 5, 20, 17, 4), make_inputs(3, 2, 5, 20, 17, 4, seed=1)
    batch.plan, batch.points = inputs.plan, inputs.points
    want = reference_pool(batch)
    got = emulated_pool(emulator, batch, long_cell, "random", at_once=at_once)
    check_close(got, want, rounding(torch.float32, float(want.abs().max()), 60))


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
@pytest.mark.parametrize("channels", [1, 7, 80, 256, 300])
@pytest.mark.parametrize("rows", [3, 17])
def test_backward_is_the_reference(emulator, make_inputs, check_close, dtype, channels, rows) -> None:
    inputs = make_inputs(1, 2, 35, channels, rows, 5, dtype=dtype)
    grad = torch.randn(reference_pool(inputs).shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    want = reference.bev_pool_backward(grad, inputs.depth, inputs.context, inputs.plan.cell_of_point)
    got = emulated_backward(emulator, grad, inputs, "forward")
    for one, other in zip(got, want, strict=True):
        check_close(one, other, rounding(dtype, float(other.abs().max()), channels + 40))


@pytest.mark.parametrize(
    ("shape", "spread"),
    [
        pytest.param((1, 1, 9, 5, 7, 9), 0.0, id="one crowded cell"),
        pytest.param((1, 1, 9, 5, 16, 9), 0.0, id="one cell crowded with columns"),
        pytest.param((2, 1, 4, 5, 3, 3), 90.0, id="hardly a point in range"),
        pytest.param((1, 7, 1, 5, 1, 1), 1.0, id="one pixel per camera"),
        pytest.param((3, 1, 33, 5, 1, 2), 1.0, id="more bins than pixels"),
        pytest.param((1, 1, 2, 5, 70, 1), 1.0, id="a column that is staged in parts"),
    ],
)
def test_adversarial_geometry(emulator, make_inputs, check_close, shape, spread) -> None:
    inputs = make_inputs(*shape, spread=spread)
    want = reference_pool(inputs)
    check_close(emulated_pool(emulator, inputs, 8, "forward"), want, rounding(torch.float32, 1e3, 40))
    grads = reference.bev_pool_backward(want, inputs.depth, inputs.context, inputs.plan.cell_of_point)
    for one, other in zip(emulated_backward(emulator, want, inputs, "forward"), grads, strict=True):
        check_close(one, other, rounding(torch.float32, float(other.abs().max()) + 1e-6, 40))


@pytest.mark.parametrize("order", ["backward", "random"])
@pytest.mark.parametrize("channels", [5, 40, 130])
@pytest.mark.parametrize("rows", [3, 17])
def test_no_result_depends_on_the_order_of_threads(emulator, make_inputs, check_close, order, channels, rows) -> None:
    inputs = make_inputs(1, 2, 18, channels, rows, 5)
    pooled = emulated_pool(emulator, inputs, 4, "forward")
    check_close(emulated_pool(emulator, inputs, 4, order), pooled)
    want = emulated_backward(emulator, pooled, inputs, "forward")
    for one, other in zip(emulated_backward(emulator, pooled, inputs, order), want, strict=True):
        check_close(one, other)
