"""Gaussian peaks of the training heat maps of centre heads."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference_peaks
from ._library import define_op


def draw_peaks(
    plane: Tensor,  # (N,) int64, the map each box is drawn into; -1: into none
    cell_xy: Tensor,  # (N, 2) int64, the cell at which its peak stands
    radius: Tensor,  # (N,) int64, cells
    num_planes: int,
    size: tuple[int, int],  # X, Y cells
) -> Tensor:
    """Heat maps with a peak per box; where peaks meet, the higher wins.

    A peak is ``exp(-d^2 / (2 sigma^2))`` of the distance d to its cell, with ``sigma = (2 * radius + 1) / 6``, within
    ``radius`` cells along both axes (CenterPoint). Worked out in float64 and rounded once. On a GPU nothing waits for
    the device, and time is linear in the cells under the peaks.

    Returns:
        (num_planes, Y, X) float32, 1 at the cell of a box, 0 where no peak reaches.

    Raises:
        ValueError: if shapes, types or devices do not fit. Values are not looked at: a plane that is drawn into must be
            below ``num_planes`` and its cell lie on the map.
    """
    count = plane.shape[0] if plane.ndim else 0
    wanted = {"plane": (plane, (count,)), "cell_xy": (cell_xy, (count, 2)), "radius": (radius, (count,))}
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape or tensor.dtype != torch.int64 or tensor.device != plane.device:
            raise ValueError(
                f"draw_peaks wants {name} {shape} int64 on {plane.device}, "
                f"got {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}"
            )
    width, height = size
    return _draw_peaks(plane.contiguous(), cell_xy.contiguous(), radius.contiguous(), num_planes, height, width)


def _fake(plane: Tensor, cell_xy: Tensor, radius: Tensor, num_planes: int, height: int, width: int) -> Tensor:
    return plane.new_empty(num_planes, height, width, dtype=torch.float32)


_draw_peaks = define_op(
    "draw_peaks",
    "(Tensor plane, Tensor cell_xy, Tensor radius, int num_planes, int height, int width) -> Tensor",
    reference_peaks.draw_peaks,
    _fake,
)
