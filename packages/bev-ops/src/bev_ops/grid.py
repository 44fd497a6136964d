"""The bird's-eye-view grid: one place for range, step and size."""

from __future__ import annotations

import math
from dataclasses import dataclass

Range = tuple[float, float, float]  # lower, upper, step in metres

# A range must be a whole number of steps; this much of a step is forgiven for decimal fractions such as 6.4 / 0.4.
_STEP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class BevGrid:
    """A regular grid of cells over the ego frame.

    Cell (0, 0, 0) starts at the lower bound of every axis. Tensors over the grid have the axis order (..., Z, Y, X).

    Args:
        x: (lower, upper, step) along the forward axis, metres.
        y: (lower, upper, step) along the left axis, metres.
        z: (lower, upper, step) along the up axis, metres.

    Raises:
        ValueError: if a range is not three finite numbers with ``lower < upper``, ``step > 0`` and a whole number of
            steps between the bounds.

    Example:
        >>> BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0)).size
        (128, 128, 1)
    """

    x: Range
    y: Range
    z: Range

    def __post_init__(self) -> None:
        for axis in ("x", "y", "z"):
            object.__setattr__(self, axis, _checked_range(axis, getattr(self, axis)))

    @property
    def lower(self) -> tuple[float, float, float]:
        """Lower bound of x, y and z, metres."""
        return self.x[0], self.y[0], self.z[0]

    @property
    def upper(self) -> tuple[float, float, float]:
        """Upper bound of x, y and z, metres."""
        return self.x[1], self.y[1], self.z[1]

    @property
    def step(self) -> tuple[float, float, float]:
        """Edge lengths of a cell along x, y and z, metres."""
        return self.x[2], self.y[2], self.z[2]

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of cells (X, Y, Z). The axis order of a tensor over the grid is the reverse: (Z, Y, X)."""
        return _num_steps(self.x), _num_steps(self.y), _num_steps(self.z)

    @property
    def num_cells(self) -> int:
        """Cells of one sample: X * Y * Z."""
        x, y, z = self.size
        return x * y * z

    @property
    def bev_bounds(self) -> tuple[float, float, float, float]:
        """(x lower, y lower, x upper, y upper), metres."""
        return self.x[0], self.y[0], self.x[1], self.y[1]


def _checked_range(axis: str, value: Range) -> Range:
    try:
        lower, upper, step = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"BevGrid.{axis} must be (lower, upper, step) in metres, got {value!r}") from None
    if not all(math.isfinite(number) for number in (lower, upper, step)):
        raise ValueError(f"BevGrid.{axis} must hold finite metres, got {value!r}")
    if step <= 0 or upper <= lower:
        raise ValueError(f"BevGrid.{axis} needs lower < upper and step > 0, got {value!r}")
    steps = (upper - lower) / step
    if round(steps) < 1 or abs(steps - round(steps)) > _STEP_TOLERANCE:
        nearest = lower + max(1, round(steps)) * step
        raise ValueError(
            f"BevGrid.{axis} must span a whole number of steps, got {value!r} which is {steps:.4f} steps; "
            f"an upper bound of {nearest:g} would fit"
        )
    return lower, upper, step


def _num_steps(axis: Range) -> int:
    lower, upper, step = axis
    return round((upper - lower) / step)
