"""The definition of affine warping in plain PyTorch, and the oracle of its tests; see ``warp.py``.

On the CPU it is also what runs: PyTorch's own sampling is vectorised there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp_affine(
    maps: Tensor,  # (B, C, Y, X)
    cells: Tensor,  # (B, 2, 3) float32
) -> Tensor:
    """Maps (B, C, Y, X) of the same type, bilinear, zero outside."""
    numbers = _computed(maps)
    places = _places(cells, maps.shape[2], maps.shape[3]).to(numbers.dtype)
    return F.grid_sample(numbers, places, align_corners=True).to(maps.dtype)


def warp_affine_backward(
    grad: Tensor,  # (B, C, Y, X)
    cells: Tensor,  # (B, 2, 3) float32
) -> Tensor:
    """Gradient of the maps: (B, C, Y, X)."""
    numbers = _computed(grad).contiguous()
    places = _places(cells, grad.shape[2], grad.shape[3]).to(numbers.dtype)
    bilinear = zeros = 0
    # The maps themselves matter for the gradient of the places only: anything of their shape does.
    maps_grad, _ = torch.ops.aten.grid_sampler_2d_backward(
        numbers, numbers, places, bilinear, zeros, True, [True, False]
    )
    return maps_grad.to(grad.dtype)


def _computed(maps: Tensor) -> Tensor:
    return maps if maps.dtype == torch.float64 else maps.float()


def _places(cells: Tensor, height: int, width: int) -> Tensor:
    """Where each cell of now lies then, as grid_sample wants it: (B, Y, X, 2), -1 the first cell, 1 the last."""
    x = torch.arange(width, device=cells.device, dtype=torch.float32)
    y = torch.arange(height, device=cells.device, dtype=torch.float32)[:, None]
    column, row = (
        cells[:, i, 0, None, None] * x + cells[:, i, 1, None, None] * y + cells[:, i, 2, None, None] for i in range(2)
    )
    return torch.stack((_normalised(column, width), _normalised(row, height)), dim=-1)


def _normalised(cell: Tensor, count: int) -> Tensor:
    # A tensor, because CUDA divides by a Python number through its reciprocal, which rounds otherwise.
    return cell / cell.new_full((), count - 1) * 2 - 1
