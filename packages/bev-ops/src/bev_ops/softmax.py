"""Depth distributions: the softmax of what a depth net says, as pooling wants it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._library import define_op, register_autograd

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_BINS = 160  # of the kernel: all depths of 32 pixels lie in 48 KiB of shared memory, as doubles too


def depth_softmax(
    logits: Tensor,  # (M, D, h, w)
) -> Tensor:
    """Softmax over the depths, in float32 (float64 for float64), laid out for :func:`bev_pool`.

    Equal to ``logits.float().softmax(1)`` made contiguous, but for the rounding of sums on a GPU. There it is one pass
    over memory instead of three: logits are read as a convolution leaves them, channels-last or not, as a slice of a
    wider tensor or not, in half precision too, and the first kernel of pooling starts while this one ends. On the CPU
    it is that function. Differentiable once.

    Returns:
        (M, D, h, w), contiguous; sums to 1 over D.

    Raises:
        ValueError: logits that are not (M, D, h, w) of floats.
    """
    if logits.ndim != 4 or logits.dtype not in _DTYPES:
        raise ValueError(f"depth_softmax wants logits (M, D, h, w) of floats, got {tuple(logits.shape)} {logits.dtype}")
    return _depth_softmax(logits) if logits.shape[1] <= _MOST_BINS else _in_pytorch(logits)


def _in_pytorch(logits: Tensor) -> Tensor:
    return logits.to(_result_type(logits)).softmax(dim=1).contiguous()


def _result_type(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _fake(logits: Tensor) -> Tensor:
    return logits.new_empty(logits.shape, dtype=_result_type(logits))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)
    ctx.logits_type = inputs[0].dtype


def _backward(ctx: Any, grad: Tensor) -> Tensor:
    (depth,) = ctx.saved_tensors
    return torch.ops.aten._softmax_backward_data(grad, depth, 1, depth.dtype).to(ctx.logits_type)


_depth_softmax = define_op("depth_softmax", "(Tensor logits) -> Tensor", _in_pytorch, _fake)
register_autograd("depth_softmax", _backward, _setup_context)
