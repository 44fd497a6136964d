"""Pooling as public code does it, for comparison: BEVPoolv2, CUDA-BEVFusion's half kernel, and one in Triton.

Letters: B samples, N cameras, D depth bins, h x w feature pixels, C channels, (X, Y, Z) grid cells, P kept points,
I cells with points.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bev_ops import BevGrid


class Intervals(NamedTuple):
    """What the published preparation makes: kept points by cell, all int32."""

    cell: Tensor  # (P,)
    depth: Tensor  # (P,) position in depth
    pixel: Tensor  # (P,) position in the pixels
    start: Tensor  # (I,)
    length: Tensor  # (I,)


def sorted_intervals(points: Tensor, grid: BevGrid) -> Intervals:
    """BEVPoolv2's preparation: mask, argsort, and the places where the cell changes. Waits for the device."""
    b, n, d, h, w, _ = points.shape
    count = b * n * d * h * w
    depth = torch.arange(count, dtype=torch.int32, device=points.device)
    pixel = torch.arange(count // d, dtype=torch.int32, device=points.device).view(b, n, 1, h, w)
    pixel = pixel.expand(b, n, d, h, w).flatten()
    index = ((points - points.new_tensor(grid.lower)) / points.new_tensor(grid.step)).long().view(count, 3)
    sample = torch.arange(b, device=points.device).view(b, 1).expand(b, count // b).reshape(count, 1)
    index = torch.cat((index, sample), 1)
    x, y, z = grid.size
    kept = (index[:, 0] >= 0) & (index[:, 0] < x) & (index[:, 1] >= 0) & (index[:, 1] < y)
    kept = kept & (index[:, 2] >= 0) & (index[:, 2] < z)
    index, depth, pixel = index[kept], depth[kept], pixel[kept]
    cell = ((index[:, 3] * z + index[:, 2]) * y + index[:, 1]) * x + index[:, 0]
    order = cell.argsort()
    return _intervals(cell[order], cell[order].int(), depth[order], pixel[order])


def pool_published(depth: Tensor, context: Tensor, intervals: Intervals, grid: BevGrid) -> Tensor:
    """BEVPoolv2 forward as the published operator runs it: float32, zeroed output, NHWC to NCHW at the end."""
    b, _, channels, _, _ = context.shape
    rows = context.permute(0, 1, 3, 4, 2).contiguous().float()
    out = rows.new_zeros(b, grid.size[2], grid.size[1], grid.size[0], channels)
    pool_published_kernel(depth.contiguous().float(), rows, intervals, out)
    return out.permute(0, 4, 1, 2, 3).contiguous()


def pool_published_kernel(depth: Tensor, rows: Tensor, intervals: Intervals, out: Tensor) -> None:
    """The published kernel alone: float32 rows of channels in, float32 (B, Z, Y, X, C) out, zeroed by the caller."""
    tensors = (depth, rows, intervals.depth, intervals.pixel, intervals.cell, intervals.start, intervals.length, out)
    _call("pool_one_channel_per_thread", rows.shape[-1], len(intervals.start), *tensors)


def backward_published(grad: Tensor, depth: Tensor, context: Tensor, intervals: Intervals) -> tuple[Tensor, Tensor]:
    """BEVPoolv2 backward, its sort of every step included: gradients of depth and of the rows of channels."""
    order = intervals.pixel.argsort()
    cell, point, pixel = intervals.cell[order], intervals.depth[order], intervals.pixel[order]
    by_pixel = _intervals(pixel, cell, point, pixel)
    rows = context.permute(0, 1, 3, 4, 2).contiguous().float()
    depth = depth.contiguous().float()
    grad = grad.permute(0, 2, 3, 4, 1).contiguous().float()
    depth_grad, rows_grad = torch.zeros_like(depth), torch.zeros_like(rows)
    tensors = (grad, depth, rows, by_pixel.depth, by_pixel.pixel, by_pixel.cell, by_pixel.start, by_pixel.length)
    _call("pool_gradients_per_pixel", rows.shape[-1], len(by_pixel.start), *tensors, depth_grad, rows_grad)
    return depth_grad, rows_grad


def pool_fusion(depth: Tensor, rows: Tensor, intervals: Intervals, out: Tensor) -> None:
    """CUDA-BEVFusion's way: float16 rows (B, N, h, w, C) in, float16 (B, C, Z, Y, X) out, zeroed here as there."""
    _, channels, z, y, x = out.shape
    bins, pixels = depth.shape[2], depth.shape[3] * depth.shape[4]
    out.zero_()
    tensors = (depth, rows, intervals.depth, intervals.cell, intervals.start, intervals.length)
    _call("pool_ten_channels_per_thread", channels, len(intervals.start), bins, pixels, *tensors, x * y * z, out)


def pool_triton(depth: Tensor, rows: Tensor, intervals: Intervals, out: Tensor) -> None:
    """One Triton program per cell with points: rows (B, N, h, w, C) in, (B, C, Z, Y, X) out, zeroed here."""
    _, channels, z, y, x = out.shape
    out.zero_()
    block = triton.next_power_of_2(channels)
    arguments = (depth, rows, intervals.depth, intervals.pixel, intervals.cell, intervals.start, intervals.length, out)
    _triton_pool[(len(intervals.start),)](*arguments, channels, x * y * z, BLOCK=block, num_warps=max(1, block // 64))


@triton.jit
def _triton_pool(
    depth, rows, point_depth, point_pixel, point_cell, start, length, out, channels, cells, BLOCK: tl.constexpr
):
    interval = tl.program_id(0)
    begin = tl.load(start + interval)
    count = tl.load(length + interval)
    lane = tl.arange(0, BLOCK)
    inside = lane < channels
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for i in range(begin, begin + count):
        weight = tl.load(depth + tl.load(point_depth + i)).to(tl.float32)
        row = tl.load(point_pixel + i).to(tl.int64) * channels
        total += weight * tl.load(rows + row + lane, mask=inside, other=0.0).to(tl.float32)
    cell = tl.load(point_cell + begin).to(tl.int64)
    target = out + (cell // cells * channels + lane) * cells + cell % cells
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)


def _intervals(key: Tensor, cell: Tensor, depth: Tensor, pixel: Tensor) -> Intervals:
    first = torch.ones(len(key), dtype=torch.bool, device=key.device)
    first[1:] = key[1:] != key[:-1]
    start = torch.where(first)[0].int()
    length = torch.zeros_like(start)
    length[:-1] = start[1:] - start[:-1]
    length[-1] = len(key) - start[-1]
    return Intervals(cell.contiguous(), depth.contiguous(), pixel.contiguous(), start, length)


def _call(name: str, *arguments: int | Tensor) -> None:
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_int(a) for a in arguments]
    code = getattr(_library(), name)(*values, stream)
    if code:
        raise RuntimeError(f"{name} failed to launch: CUDA error {code}")


@cache
def _library() -> ctypes.CDLL:
    major, minor = torch.cuda.get_device_capability()
    source = Path(__file__).with_suffix(".cu")
    target = Path(tempfile.mkdtemp(prefix="pooling-baselines-")) / "pooling.so"
    command = ["nvcc", "-O3", "--use_fast_math", f"-arch=sm_{major}{minor}", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run([*command, str(source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))
