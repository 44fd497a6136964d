"""Lift-splat pooling: every depth-weighted context vector is added to the cell it falls into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import reference
from ._library import define_op, register_autograd
from .plan import LONG_CELL, PoolPlan, min_run

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def bev_pool(
    depth: Tensor,  # (B, N, D, h, w)
    context: Tensor,  # (B, N, C, h, w)
    plan: PoolPlan,
    *,
    channels_last: bool = False,
) -> Tensor:
    """Lifts context along depth and sums it per grid cell: BEVPoolv2 (arXiv 2211.17111), without the frustum tensor.

    ``out[b, :, z, y, x]`` is the sum of ``depth[b, n, d, i, j] * context[b, n, :, i, j]`` over the points (n, d, i, j)
    that the plan puts into cell (z, y, x), always in the same order, so equal input gives equal bits.

    Sums are taken in float32 for float16, bfloat16 and float32 and in float64 for float64; the result has the type of
    the inputs. Inputs of different types are promoted to the wider one. Under autocast both are converted to float32
    and the result is float32, as published. Differentiable once in depth and context.

    Args:
        depth: weight of every depth bin of every feature pixel.
        context: feature of every pixel; NCHW or channels-last memory.
        plan: geometry for exactly these N, D, h and w, on the same device, and for these B samples or for one: then
            all samples share it, such as the frames of a car whose cameras do not move on it.
        channels_last: lay the result out in memory with the channels innermost (``torch.channels_last_3d``), for
            convolutions that want it so.

    Returns:
        (B, C, Z, Y, X), contiguous unless ``channels_last``. Cells without points are zero.

    Raises:
        ValueError: if shapes, types or devices do not fit together or do not fit the plan.
    """
    _check_inputs(depth, context, plan)
    dtype = _common_dtype(depth, context)
    return _bev_pool(
        depth.to(dtype),
        context.to(dtype),
        plan.entry_start,
        plan.entries,
        plan.column_runs,
        plan.long_cells,
        plan.cell_of_point,
        plan.grid.size,
        LONG_CELL,
        min_run(plan.grid),
        channels_last,
    )


def _check_inputs(depth: Tensor, context: Tensor, plan: PoolPlan) -> None:
    b, n, d, h, w = plan.shape
    if b == 1 and depth.ndim == 5:
        b = depth.shape[0]
    if tuple(depth.shape) != (b, n, d, h, w):
        raise ValueError(
            f"the plan is for depth (B, N, D, h, w) = {(b, n, d, h, w)}, got {tuple(depth.shape)}: "
            "build a plan from the points of this input"
        )
    if context.ndim != 5 or (*context.shape[:2], *context.shape[3:]) != (b, n, h, w):
        raise ValueError(
            f"the plan is for context (B, N, C, h, w) = ({b}, {n}, C, {h}, {w}), got {tuple(context.shape)}"
        )
    if depth.dtype not in _DTYPES or context.dtype not in _DTYPES:
        raise ValueError(f"bev_pool takes float16, bfloat16, float32 or float64, got {depth.dtype} and {context.dtype}")
    if not depth.device == context.device == plan.device:
        raise ValueError(
            f"depth, context and plan must be on one device, got {depth.device}, {context.device} and {plan.device}: "
            "move the plan with plan.to(device)"
        )


def _common_dtype(depth: Tensor, context: Tensor) -> torch.dtype:
    dtype = torch.promote_types(depth.dtype, context.dtype)
    device = depth.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)  # meta tensors have no autocast to ask for
    return torch.promote_types(dtype, torch.float32) if autocast else dtype


def _fake_bev_pool(
    depth: Tensor,
    context: Tensor,
    entry_start: Tensor,
    entries: Tensor,
    column_runs: Tensor,
    long_cells: Tensor,
    cell_of_point: Tensor,
    grid_size: Sequence[int],
    long_cell: int,
    min_run: int,
    channels_last: bool,
) -> Tensor:
    x, y, z = grid_size
    b, c = context.shape[0], context.shape[2]
    if channels_last:
        return context.new_empty(b, z, y, x, c).permute(0, 4, 1, 2, 3)
    return context.new_empty(b, c, z, y, x)


def _fake_bev_pool_backward(
    grad: Tensor, depth: Tensor, context: Tensor, cell_of_point: Tensor
) -> tuple[Tensor, Tensor]:
    return depth.new_empty(depth.shape), context.new_empty(context.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    depth, context, *_ = inputs
    cell_of_point = inputs[6]
    ctx.save_for_backward(depth, context, cell_of_point)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    depth_grad, context_grad = _bev_pool_backward(grad, *ctx.saved_tensors)
    return depth_grad, context_grad, *[None] * 9


_bev_pool = define_op(
    "bev_pool",
    "(Tensor depth, Tensor context, Tensor entry_start, Tensor entries, Tensor column_runs, Tensor long_cells, "
    "Tensor cell_of_point, int[] grid_size, int long_cell, int min_run, bool channels_last) -> Tensor",
    reference.bev_pool,
    _fake_bev_pool,
)
_bev_pool_backward = define_op(
    "bev_pool_backward",
    "(Tensor grad, Tensor depth, Tensor context, Tensor cell_of_point) -> (Tensor, Tensor)",
    reference.bev_pool_backward,
    _fake_bev_pool_backward,
)
register_autograd("bev_pool", _backward, _setup_context)
