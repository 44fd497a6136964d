"""Affine warping of maps: every cell looks up where its place was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import reference_warp
from ._library import define_op, register_autograd

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def warp_affine(
    maps: Tensor,  # (B, C, Y, X)
    cells: Tensor,  # (B, 2, 3) float32
) -> Tensor:
    """Maps of then as the cells of now see them: bilinear, zero where then saw nothing.

    ``cells[b]`` takes cell (x, y, 1) of now to cell (x, y) of then. Every map has its own: the history of several
    frames goes through one call. Sums are float32, float64 for float64 maps; the maps keep their type.

    Equal to ``torch.nn.functional.grid_sample(align_corners=True)`` but for the rounding of the sum, and on the CPU it
    is that function: it is vectorised there. On a GPU no grid of positions is written, half-precision maps are not
    converted, and the gradient is gathered instead of scattered with atomics: equal input gives equal bits.
    Differentiable in ``maps``.

    Raises:
        ValueError: if shapes, types or devices do not fit.
    """
    if maps.ndim != 4 or maps.dtype not in _DTYPES:
        raise ValueError(f"warp_affine wants maps (B, C, Y, X) of floats, got {tuple(maps.shape)} {maps.dtype}")
    if tuple(cells.shape) != (maps.shape[0], 2, 3) or cells.dtype != torch.float32 or cells.device != maps.device:
        raise ValueError(
            f"warp_affine wants cells ({maps.shape[0]}, 2, 3) float32 on {maps.device} for these maps, "
            f"got {tuple(cells.shape)} {cells.dtype} on {cells.device}"
        )
    return _warp_affine(maps, cells.detach().contiguous())


def _fake(maps: Tensor, cells: Tensor) -> Tensor:
    return maps.new_empty(maps.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (cells,) = ctx.saved_tensors
    return _warp_affine_backward(grad, cells), None


_warp_affine = define_op("warp_affine", "(Tensor maps, Tensor cells) -> Tensor", reference_warp.warp_affine, _fake)
_warp_affine_backward = define_op(
    "warp_affine_backward", "(Tensor grad, Tensor cells) -> Tensor", reference_warp.warp_affine_backward, _fake
)
register_autograd("warp_affine", _backward, _setup_context)
