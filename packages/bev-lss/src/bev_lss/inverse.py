"""Matrix inverses that round as the published figures did, on every machine."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["published_inverse"]


def published_inverse(
    matrix: Tensor,  # (..., n, n)
) -> Tensor:
    """Inverse of small matrices, (..., n, n): LU of the transpose with row pivots, then two triangular solves.

    PyTorch hands row-major matrices to LAPACK as their transpose. How that rounds depends on the processor, and the
    last bit of a camera matrix moves points across cell borders and stereo matches by a per mille. Written out in
    single multiplications and subtractions (reciprocal pivots while factoring, divisions while solving), it rounds
    everywhere as it did for the recorded values of the published systems.
    """
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    lu, rows = _lu(flat.mT)
    size = flat.shape[-1]
    solved = torch.eye(size, dtype=flat.dtype, device=flat.device).expand_as(flat).clone()
    for i in range(size):  # the transpose of U, from above
        for j in range(i):
            solved[:, i] = solved[:, i] - lu[:, j, i, None] * solved[:, j]
        solved[:, i] = solved[:, i] / lu[:, i, i, None]
    for i in reversed(range(size)):  # the transpose of L, from below
        for j in range(i + 1, size):
            solved[:, i] = solved[:, i] - lu[:, j, i, None] * solved[:, j]
    inverse = torch.empty_like(solved).scatter(1, rows[:, :, None].expand_as(solved), solved)
    return inverse.view(matrix.shape)


def _lu(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """L below the diagonal (its ones left out) and U on and above: (M, n, n); which row stands where: (M, n)."""
    lu, size = matrix.clone(), matrix.shape[-1]
    rows = torch.arange(size, device=matrix.device).expand(len(matrix), size)
    for k in range(size):
        pivot = lu[:, k:, k].abs().argmax(dim=1) + k
        order = torch.arange(size, device=matrix.device).expand(len(matrix), size).clone()
        order[:, k] = pivot
        order = order.scatter(1, pivot[:, None], k)
        lu, rows = lu.gather(1, order[:, :, None].expand_as(lu)), rows.gather(1, order)
        reciprocal = 1 / lu[:, k, k, None]
        for i in range(k + 1, size):
            factor = lu[:, i, k, None] * reciprocal
            lu[:, i, k + 1 :] = lu[:, i, k + 1 :] - factor * lu[:, k, k + 1 :]
            lu[:, i, k] = factor[:, 0]
    return lu, rows
