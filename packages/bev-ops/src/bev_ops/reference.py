"""The definition of every operator in plain PyTorch, and the oracle of its tests.

Each function takes the arguments of the operator of the same name (see the schemas in ``plan.py``, ``pool.py``,
``overlap.py``, ``nms.py`` and ``best.py``) and runs on any device.

Letters of the shape comments: B samples, N cameras, D depth bins, C channels, h x w feature pixels, (X, Y, Z) grid
cells, P = B*N*D*h*w frustum points, M and K boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Points are multiplied with their context row in slices of about this many numbers, so that memory stays bounded.
_SLICE_NUMBERS = 1 << 24
# Pairs of boxes whose overlap is computed at once; each needs some forty temporaries.
_SLICE_PAIRS = 1 << 20


def pool_plan(
    points: Tensor,  # (B, N, D, h, w, 3) float32, metres
    lower: Sequence[float],  # x, y, z
    step: Sequence[float],  # x, y, z
    size: Sequence[int],  # X, Y, Z
    long_cell: int,
    min_run: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sorts frustum points into cells.

    The run of an image column at one depth is the longest stretch of points of one cell under each other, the topmost
    of equals, if it has at least ``min_run`` points.

    Returns:
        entry_start (2*B*Z*Y*X + 1,): runs of cell i stand at entry_start[i]:entry_start[i + 1] of the next list, its
            points outside of runs at entry_start[cells + i]:entry_start[cells + i + 1].
        entries (B*N*D*w + P,): runs, as positions in the flattened column_runs, then single points, as positions in
            the flattened depth; each by cell, stable; then the numbers of all columns and points that are no entry.
        column_runs (B, N, D, w): first row of the run of a column, and 65536 times the row after its last; else 0.
        long_cells (``long_cell_slots`` of the entries,): cells with more than ``long_cell`` entries, filled up with -1.
        cell_of_point (B, N, D, h, w): cell ((b*Z + z)*Y + y)*X + x of each point, -1 where it is dropped.
        All int32.
    """
    cell = _cell_of_point(points, lower, step, size)
    num_cells = points.shape[0] * size[0] * size[1] * size[2]
    run_cell, first, end = _longest_runs(cell, min_run)
    row = torch.arange(cell.shape[-2], dtype=torch.int32, device=cell.device)[:, None]
    alone = (cell >= 0) & ((row < first) | (row >= end))
    column_key = torch.where(end > 0, run_cell, 2 * num_cells).flatten()
    point_key = torch.where(alone, cell + num_cells, 2 * num_cells).flatten()
    key, order = torch.sort(torch.cat((column_key, point_key)), stable=True)
    edges = torch.arange(2 * num_cells + 1, dtype=key.dtype, device=key.device)
    entry_start = torch.searchsorted(key, edges, out_int32=True)
    entries = torch.where(order < column_key.numel(), order, order - column_key.numel()).int()
    column_runs = (first + end * 65536).squeeze(-2)
    return entry_start, entries, column_runs, _long_cells(entry_start, entries.numel(), long_cell), cell


def long_cell_slots(num_entries: int, long_cell: int) -> int:
    """Length of a list that holds every cell with more than ``long_cell`` entries, however they fall.

    Two more than needed: tracing with dynamic shapes treats lengths of 0 and 1 as constants.
    """
    return num_entries // (long_cell + 1) + 2


def bev_pool(
    depth: Tensor,  # (B, N, D, h, w)
    context: Tensor,  # (B, N, C, h, w), same dtype
    entry_start: Tensor,
    entries: Tensor,
    column_runs: Tensor,
    long_cells: Tensor,
    cell_of_point: Tensor,
    grid_size: Sequence[int],  # X, Y, Z
    long_cell: int,
    min_run: int,
    channels_last: bool,
) -> Tensor:
    """Sums depth * context: points of a run from the top, then runs and single points of a cell in order.

    A plan of one sample serves all samples of depth and context.

    Returns (B, C, Z, Y, X), in memory with the channels innermost if wanted.
    """
    if cell_of_point.shape[0] < depth.shape[0]:
        plan = (entry_start, entries, column_runs, long_cells, cell_of_point, grid_size, long_cell, min_run)
        samples = zip(depth.split(1), context.split(1), strict=True)
        pooled = torch.cat([bev_pool(*sample, *plan, channels_last=False) for sample in samples])
        return pooled.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else pooled
    x, y, z = grid_size
    b, channels = context.shape[0], context.shape[2]
    cells = b * z * y * x
    rows = _pixel_rows(context)
    weight = depth.reshape(-1).to(rows.dtype)
    cell = cell_of_point.reshape(-1)
    num_runs, num_entries = entry_start[cells].item(), entry_start[-1].item()
    first, end = (column_runs & 0xFFFF).unsqueeze(-2), (column_runs >> 16).unsqueeze(-2)
    run_cell = cell_of_point.gather(-2, first.long())
    row = torch.arange(depth.shape[-2], device=depth.device)[:, None]
    in_run = ((row >= first) & (row < end)).flatten()
    column = _numbers(column_runs).unsqueeze(-2).expand_as(depth).flatten()
    runs = rows.new_zeros(column_runs.numel(), channels)
    for point in _parts(torch.nonzero(in_run).squeeze(1), channels):
        runs.index_add_(0, column[point], _lifted(weight, rows, point, depth.shape))
    pooled = rows.new_zeros(cells, channels)
    listed = entries[:num_runs].long()
    pooled.index_add_(0, run_cell.flatten()[listed].long(), runs[listed])
    for point in _parts(entries[num_runs:num_entries].long(), channels):
        pooled.index_add_(0, cell[point].long(), _lifted(weight, rows, point, depth.shape))
    pooled = pooled.view(b, z, y, x, channels).permute(0, 4, 1, 2, 3).to(context.dtype)
    return pooled if channels_last else pooled.contiguous()


def bev_pool_backward(
    grad: Tensor,  # (B, C, Z, Y, X)
    depth: Tensor,  # (B, N, D, h, w)
    context: Tensor,  # (B, N, C, h, w)
    cell_of_point: Tensor,  # (B, N, D, h, w), or of one sample that serves all
) -> tuple[Tensor, Tensor]:
    """Gradients of ``bev_pool`` for depth and context, in their shapes and dtypes."""
    if cell_of_point.shape[0] < depth.shape[0]:
        samples = zip(grad.split(1), depth.split(1), context.split(1), strict=True)
        depth_grad, context_grad = zip(*(bev_pool_backward(*sample, cell_of_point) for sample in samples), strict=True)
        return torch.cat(depth_grad), torch.cat(context_grad)
    channels = context.shape[2]
    rows = _pixel_rows(context)
    weight = depth.reshape(-1).to(rows.dtype)
    grad_rows = grad.movedim(1, -1).reshape(-1, channels).to(rows.dtype)
    cell = cell_of_point.reshape(-1)
    kept = torch.nonzero(cell >= 0).squeeze(1)
    depth_grad = torch.zeros_like(weight)
    rows_grad = torch.zeros_like(rows)
    for point in _parts(kept, channels):
        pixel = _pixel_of(point, depth.shape)
        cell_grad = grad_rows[cell[point].long()]
        depth_grad[point] = (cell_grad * rows[pixel]).sum(1)
        rows_grad.index_add_(0, pixel, cell_grad * weight[point, None])
    context_grad = rows_grad.view(*context.shape[:2], *context.shape[3:], channels).movedim(-1, 2)
    return depth_grad.view(depth.shape).to(depth.dtype), context_grad.to(context.dtype).contiguous()


def iou_rotated(
    boxes_a: Tensor,  # (M, 5) x, y, length, width, yaw
    boxes_b: Tensor,  # (K, 5)
) -> Tensor:
    """Intersection over union of every pair of rotated boxes: (M, K)."""
    rows = max(1, _SLICE_PAIRS // max(1, boxes_b.shape[0]))
    parts = [_iou_pairs(part[:, None], boxes_b[None]) for part in boxes_a.split(rows)]
    return torch.cat(parts) if parts else boxes_a.new_zeros(0, boxes_b.shape[0])


def nms_batched(
    boxes: Tensor,  # (B, T, M, 5) best first
    valid: Tensor,  # (B, T, M) bool
    overlaps: Sequence[float],  # T
    radii: Sequence[float],  # T, squared metres
    most: Sequence[int],  # T
) -> Tensor:
    """Greedy suppression within every group, by overlap and by squared distance: (B, T, M) bool."""
    keep = torch.zeros_like(valid)
    for b, sample in enumerate(boxes):
        for t, group in enumerate(sample):
            removes = (iou_rotated(group, group) > overlaps[t]) | (_squared_distances(group) <= radii[t])
            keep[b, t] = _keep_greedily(removes, valid[b, t], most[t])
    return keep


def best_of_rows(values: Tensor, count: int) -> tuple[Tensor, Tensor]:  # (R, N)
    """The greatest numbers of every row, best first, and their indices: (R, count) each."""
    best, index = values.topk(count)
    return best, index


def _cell_of_point(points: Tensor, lower: Sequence[float], step: Sequence[float], size: Sequence[int]) -> Tensor:
    position = (points - _per_axis(points, lower)) / _per_axis(points, step)
    # Truncation toward zero sends (-1, 0) to cell 0. The comparisons are false for NaN.
    kept = ((position > -1) & (position < _per_axis(points, size))).all(-1)
    x, y, z = torch.where(kept[..., None], position, 0).to(torch.int32).unbind(-1)
    sample = torch.arange(points.shape[0], dtype=torch.int32, device=points.device).view(-1, 1, 1, 1, 1)
    return torch.where(kept, ((sample * size[2] + z) * size[1] + y) * size[0] + x, -1)


def _per_axis(points: Tensor, values: Sequence[float]) -> Tensor:
    # Filled on the device: a copy from the host would wait for it, and division by a plain number is not exact on CUDA.
    return torch.stack([points.new_full((), value) for value in values])


def _longest_runs(cell: Tensor, min_run: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every column of (B, N, D, h, w): cell, first row and row after the last of its run; (B, N, D, 1, w) int32."""
    height = cell.shape[-2]
    new = torch.ones_like(cell, dtype=torch.bool)
    new[..., 1:, :] = cell[..., 1:, :] != cell[..., :-1, :]
    row = torch.arange(height, dtype=torch.int32, device=cell.device)[:, None]
    first = torch.where(new, row, 0).cummax(dim=-2).values
    last = torch.ones_like(new)
    last[..., :-1, :] = new[..., 1:, :]
    end = torch.where(last, row + 1, height).flip(-2).cummin(dim=-2).values.flip(-2)
    length = torch.where(cell >= 0, end - first, 0)
    longest = length.argmax(dim=-2, keepdim=True)
    run = length.gather(-2, longest) >= min_run
    return (
        cell.gather(-2, longest),
        torch.where(run, first.gather(-2, longest), 0),
        torch.where(run, end.gather(-2, longest), 0),
    )


def _numbers(points: Tensor) -> Tensor:
    return torch.arange(points.numel(), device=points.device).view(points.shape)


def _long_cells(entry_start: Tensor, num_entries: int, long_cell: int) -> Tensor:
    slots = long_cell_slots(num_entries, long_cell)
    runs, points = entry_start.diff().chunk(2)
    is_long = runs + points > long_cell
    # Other cells are sent to one spare slot at the end, which is cut off.
    slot = torch.where(is_long, is_long.cumsum(0) - 1, slots)
    cells = torch.arange(is_long.numel(), dtype=torch.int32, device=entry_start.device)
    listed = torch.full((slots + 1,), -1, dtype=torch.int32, device=entry_start.device)
    return listed.scatter_(0, slot, cells)[:slots].clone()


def _pixel_rows(context: Tensor) -> Tensor:
    """(B, N, C, h, w) -> (B*N*h*w, C) in the type sums are taken in."""
    rows = context.movedim(2, -1).reshape(-1, context.shape[2])
    return rows if rows.dtype == torch.float64 else rows.float()


def _pixel_of(point: Tensor, shape: Sequence[int]) -> Tensor:
    """Number of the pixel of points of (B, N, D, h, w)."""
    _, _, d, h, w = shape
    return point // (d * h * w) * (h * w) + point % (h * w)


def _lifted(weight: Tensor, rows: Tensor, point: Tensor, shape: Sequence[int]) -> Tensor:
    return weight[point, None] * rows[_pixel_of(point, shape)]


def _parts(points: Tensor, channels: int) -> tuple[Tensor, ...]:
    return points.split(max(1, _SLICE_NUMBERS // max(1, channels)))


def _iou_pairs(a: Tensor, b: Tensor) -> Tensor:
    area_a = a[..., 2].clamp(min=0) * a[..., 3].clamp(min=0)
    area_b = b[..., 2].clamp(min=0) * b[..., 3].clamp(min=0)
    shared = _intersection(a, b).clamp(min=0).minimum(area_a).minimum(area_b)
    iou = shared / (area_a + area_b - shared)
    # False for NaN: a box without area, or with a coordinate that is not finite, overlaps nothing.
    return torch.where((shared > 0) & (iou > 0), iou, 0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area of the intersection of rotated rectangles, by Green's theorem.

    Seen from b, whose sides lie along the axes, clamping a point to b maps everything outside onto b's border. The
    area of the intersection is therefore the integral of clamp(x) d clamp(y) along the four edges of a. Nothing is
    clipped, no corner is sorted, and the result changes continuously with the boxes.
    """
    half_x, half_y = b[..., 2] / 2, b[..., 3] / 2
    cos_b, sin_b = b[..., 4].cos(), b[..., 4].sin()
    dx, dy = a[..., 0] - b[..., 0], a[..., 1] - b[..., 1]
    center_x, center_y = dx * cos_b + dy * sin_b, dy * cos_b - dx * sin_b
    turn = a[..., 4] - b[..., 4]
    cos, sin = turn.cos(), turn.sin()
    along_x, along_y = cos * (a[..., 2] / 2), sin * (a[..., 2] / 2)
    across_x, across_y = -sin * (a[..., 3] / 2), cos * (a[..., 3] / 2)
    signs = ((1, 1), (-1, 1), (-1, -1), (1, -1))  # corners of a, counter-clockwise
    xs = [center_x + s * along_x + t * across_x for s, t in signs]
    ys = [center_y + s * along_y + t * across_y for s, t in signs]
    # A constant taken off x changes nothing around a closed path, but keeps small boxes in large ones precise.
    origin = _clamp(center_x, half_x)
    edges = [_edge_integral(xs[i - 1], ys[i - 1], xs[i], ys[i], half_x, half_y, origin) for i in range(4)]
    return (edges[0] + edges[1]) + (edges[2] + edges[3])


def _edge_integral(
    x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor, half_x: Tensor, half_y: Tensor, origin: Tensor
) -> Tensor:
    """Integral of (clamp(x) - origin) d clamp(y) along the edge from (x0, y0) to (x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    enter, leave = _crossings(y0, dy, half_y, torch.zeros_like(dy), torch.ones_like(dy))
    bend_in, bend_out = _crossings(x0, dx, half_x, enter, leave)
    y_in, y_out = _clamp(y0 + bend_in * dy, half_y), _clamp(y0 + bend_out * dy, half_y)
    x_enter, x_leave = _clamp(x0 + enter * dx, half_x) - origin, _clamp(x0 + leave * dx, half_x) - origin
    x_in, x_out = _clamp(x0 + bend_in * dx, half_x) - origin, _clamp(x0 + bend_out * dx, half_x) - origin
    first = x_enter * (y_in - _clamp(y0, half_y))
    middle = (x_in + x_out) * 0.5 * (y_out - y_in)
    return first + middle + x_leave * (_clamp(y1, half_y) - y_out)


def _crossings(start: Tensor, delta: Tensor, half: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Where start + t*delta is at -half and at +half, in order of t, limited to [low, high]."""
    flat = delta == 0
    safe = torch.where(flat, 1, delta)
    first = torch.where(flat, 0, (-half - start) / safe)
    second = torch.where(flat, 0, (half - start) / safe)
    return (
        torch.minimum(first, second).maximum(low).minimum(high),
        torch.maximum(first, second).maximum(low).minimum(high),
    )


def _clamp(value: Tensor, half: Tensor) -> Tensor:
    return value.maximum(-half).minimum(half)


def _squared_distances(boxes: Tensor) -> Tensor:
    difference = boxes[:, None, :2] - boxes[None, :, :2]
    return (difference[..., 0] * difference[..., 0] + difference[..., 1] * difference[..., 1]).double()


def _keep_greedily(removes: Tensor, valid: Tensor, most: int) -> Tensor:
    """(M, M) bool, row removes column, and (M,) bool -> (M,) bool of the rows that are kept, taken in order."""
    table, left = removes.cpu(), valid.cpu().clone()
    keep = torch.zeros_like(left)
    for i in range(len(left)):
        if left[i] and most > 0:
            keep[i] = True
            most -= 1
            left &= ~table[i]
    return keep.to(valid.device)
