"""The definition of heat-map peaks in plain PyTorch, and the oracle of its tests; see ``peaks.py``.

On the CPU it is also what runs. On other devices it waits for the size of the list of cells.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_peaks(
    plane: Tensor,  # (N,) int64
    cell_xy: Tensor,  # (N, 2) int64
    radius: Tensor,  # (N,) int64
    num_planes: int,
    height: int,
    width: int,
) -> Tensor:
    """Heat maps (num_planes, height, width) float32.

    Every box lists the cells of its square, cut at the border; all lists lie one after another.
    """
    drawn = plane >= 0
    plane, cell_xy, radius = plane[drawn], cell_xy[drawn], radius[drawn]
    size = torch.tensor([width, height], device=cell_xy.device)
    reach = radius.clamp(max=height + width)[:, None]
    first = (cell_xy - reach).clamp(min=0)
    extent = torch.minimum(cell_xy + reach + 1, size) - first
    area = extent.prod(dim=1)
    owner = torch.repeat_interleave(area)
    rank = torch.arange(len(owner), device=owner.device) - (area.cumsum(0) - area)[owner]
    columns = extent[owner, 0]
    xy = first[owner] + torch.stack([rank % columns, rank // columns], dim=1)

    sigma = (2 * radius + 1).double() / 6
    squared_distance = (xy - cell_xy[owner]).square().sum(dim=1)
    value = torch.exp(-squared_distance / (2 * sigma * sigma)[owner]).float()
    index = (plane[owner] * height + xy[:, 1]) * width + xy[:, 0]
    heatmaps = value.new_zeros(num_planes * height * width)
    return heatmaps.scatter_reduce(0, index, value, "amax").view(num_planes, height, width)
