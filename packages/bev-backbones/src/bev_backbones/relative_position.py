"""Relative position tables of one window size, resized to another by the published rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["resize_relative_position_table"]


def resize_relative_position_table(table: Tensor, size: int) -> Tensor:
    """Relative position biases of another window size (the rule of BEiT, arXiv:2106.08254, and of the published Swin).

    The known offsets are spread in a geometric progression, dense around zero, so that they reach the largest offset
    wanted, and a bicubic interpolating spline through them is read at whole offsets. Beyond the last known offset the
    spline keeps its border value. Where the new window is smaller, the published search for the progression ends at
    its lower bound of 1.01: offsets keep about their distance, and the outermost are cut off.

    Args:
        table: (S * S, heads), S = 2 window - 1 offsets along each axis.
        size: offsets wanted along each axis, 2 window - 1.

    Returns:
        (size * size, heads), of the type of ``table``.

    Raises:
        ValueError: a table that is not of a square window of at least 3 pixels.
    """
    known = math.isqrt(len(table))
    if known * known != len(table) or known % 2 == 0 or known < 5:
        raise ValueError(
            "a relative position table has (2 window - 1)^2 rows, with a window of at least 3 to be interpolated, "
            f"got {len(table)} rows"
        )
    reach = float(size // 2)
    offsets = torch.linspace(-reach, reach, size, dtype=torch.float64)
    weights = _cubic_spline_weights(_known_offsets(known // 2, size // 2), offsets).to(table.device)
    grid = table.double().unflatten(0, (known, known))
    resized = torch.einsum("ik,jl,klh->ijh", weights, weights, grid)
    return resized.flatten(0, 1).to(table.dtype)


def _known_offsets(count: int, reach: int) -> Tensor:
    """Where the known offsets lie among the wanted ones: 0 and ``count`` to each side, the last near ``reach``."""
    low, high = 1.01, 1.5
    ratio = low
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    right = torch.tensor([ratio**i for i in range(count)], dtype=torch.float64).cumsum(0)
    return torch.cat([-right.flip(0), right.new_zeros(1), right])


def _cubic_spline_weights(knots: Tensor, points: Tensor) -> Tensor:
    """Weights of the values at the knots in the cubic spline through them, read at the points.

    The spline has continuous second derivatives and no break of the third one at the second and the last but one knot
    ("not-a-knot"), which makes it the interpolating spline of FITPACK.

    Args:
        knots: (n,) increasing, at least 4, float64.
        points: (m,) float64; those outside the knots are moved to the nearest one.

    Returns:
        (m, n) float64.
    """
    points = points.clamp(knots[0], knots[-1])
    gaps = knots.diff()
    curvature = _second_derivatives(gaps)
    left = (torch.searchsorted(knots, points, right=True) - 1).clamp(0, len(gaps) - 1)
    gap = gaps[left, None]
    below, above = points[:, None] - knots[left, None], knots[left + 1, None] - points[:, None]
    values = torch.eye(len(knots), dtype=torch.float64)
    cubic = (above**3 * curvature[left] + below**3 * curvature[left + 1]) / (6 * gap)
    return (
        cubic
        + above * (values[left] / gap - curvature[left] * gap / 6)
        + below * (values[left + 1] / gap - curvature[left + 1] * gap / 6)
    )


def _second_derivatives(gaps: Tensor) -> Tensor:
    """Second derivatives of the spline at its n knots as weights of the values there, (n, n)."""
    count = len(gaps) + 1
    system = torch.zeros(count, count, dtype=torch.float64)
    right = torch.zeros_like(system)
    for i in range(1, count - 1):
        before, after = gaps[i - 1], gaps[i]
        system[i, i - 1 : i + 2] = torch.stack([before, 2 * (before + after), after])
        right[i, i - 1 : i + 2] = 6 * torch.stack([1 / before, -1 / before - 1 / after, 1 / after])
    for row, i in ((0, 0), (count - 1, count - 3)):
        before, after = gaps[i], gaps[i + 1]
        system[row, i : i + 3] = torch.stack([after, -before - after, before])
    return torch.linalg.solve(system, right)
