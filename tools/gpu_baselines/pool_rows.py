"""Lift-splat pooling: what is measured, and how its results are checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bev_lss import DepthBins
from bev_ops import BevGrid, PoolPlan, bev_pool, depth_softmax, reference

from . import pooling
from .measure import Clock, copy_bandwidth
from .report import Row
from .rig import nuscenes_points

GRID = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
VOXELS = BevGrid(x=(-40.0, 40.0, 0.4), y=(-40.0, 40.0, 0.4), z=(-1.0, 5.4, 0.4))


@dataclass(frozen=True)
class Case:
    """Six cameras of one size, and the cells their points fall into."""

    name: str
    stride: int
    bins: DepthBins
    batch: int = 1
    channels: int = 80
    grid: BevGrid = GRID
    input_size: tuple[int, int] = (256, 704)

    def points(self) -> Tensor:
        """(B, 6, D, h, w, 3) metres."""
        return nuscenes_points(self.batch, self.input_size, self.stride, self.bins, "cuda")

    def tensors(self, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Depth, and context with its channels innermost in memory."""
        generator = torch.Generator("cuda").manual_seed(seed)
        height, width = (size // self.stride for size in self.input_size)
        shape = (self.batch, 6, self.bins.count, height, width)
        depth = torch.randn(shape, generator=generator, device="cuda").softmax(2)
        context = torch.randn(self.batch, 6, height, width, self.channels, generator=generator, device="cuda")
        return depth.to(dtype), context.to(dtype).movedim(-1, 2)


CASES = (
    Case("6x59x16x44, uniform", 16, DepthBins(1.0, 60.0, 1.0)),
    Case("6x59x16x44, log-spaced", 16, DepthBins(1.0, 60.0, 1.0, log_spaced=True)),
    Case("6x118x32x88, uniform", 8, DepthBins(1.0, 60.0, 0.5)),
    Case("6x118x32x88, log-spaced", 8, DepthBins(1.0, 60.0, 0.5, log_spaced=True)),
    Case("8 x 6x118x32x88, uniform", 8, DepthBins(1.0, 60.0, 0.5), batch=8),
    Case("6x88x16x44, 200x200x16 voxels", 16, DepthBins(1.0, 45.0, 0.5), grid=VOXELS, channels=32),
)


def pool(clock: Clock) -> Iterator[Row]:
    """Forward."""
    bandwidth = copy_bandwidth()
    for case in CASES:
        for dtype in (torch.float16, torch.float32):
            yield _forward(case, dtype, clock, bandwidth)
    for case in (CASES[0], CASES[2]):
        yield _one_plan(replace(case, batch=8), torch.float16, clock)


def lift(clock: Clock) -> Iterator[Row]:
    """Softmax over depth and pooling, from what a convolution leaves: logits and context side by side."""
    for case in (*CASES[:4], CASES[-1]):
        for dtype in (torch.float16, torch.float32):
            for memory_format in (torch.channels_last, torch.contiguous_format):
                yield _lift(case, dtype, memory_format, clock)


def backward(clock: Clock) -> Iterator[Row]:
    """Backward, as training runs it: the published sort is part of every step."""
    for case in CASES[:4]:
        for dtype in (torch.float16, torch.float32):
            yield _backward(case, dtype, clock)


def plan(clock: Clock) -> Iterator[Row]:
    """Points to cells, sorted."""
    for case in CASES:
        points = case.points()
        ways = {
            "ours": lambda points=points, case=case: PoolPlan.from_points(points, case.grid),
            "published": lambda points=points, case=case: pooling.sorted_intervals(points, case.grid),
        }
        times = clock.eagerly(ways)
        graph = clock.in_graphs({"ours": ways["ours"]}, calls=3)["ours"]
        note = f"in a CUDA graph {graph:.1f} us"
        correct = _same_tables(PoolPlan.from_points(points, case.grid), points)
        yield Row("plan", case.name, times.pop("ours"), times, correct, note, {"published": 10})


def _forward(case: Case, dtype: torch.dtype, clock: Clock, bandwidth: float) -> Row:
    points = case.points()
    intervals, plan = pooling.sorted_intervals(points, case.grid), PoolPlan.from_points(points, case.grid)
    depth, context = case.tensors(dtype)
    images = context.contiguous()
    rows = context.movedim(2, -1)
    out = torch.empty(case.batch, case.channels, *reversed(case.grid.size), dtype=dtype, device="cuda")
    depth32, rows32 = depth.float(), rows.float()
    out32 = torch.zeros(*out.shape[:1], *out.shape[2:], case.channels, device="cuda")
    ways = {
        "ours": lambda: bev_pool(depth, context, plan),
        "ours, NCHW features": lambda: bev_pool(depth, images, plan),
        "ours, channels-last result": lambda: bev_pool(depth, context, plan, channels_last=True),
        "BEVPoolv2": lambda: pooling.pool_published(depth, context, intervals, case.grid),
        "its kernel alone, float32": lambda: pooling.pool_published_kernel(depth32, rows32, intervals, out32),
        "Triton": lambda: pooling.pool_triton(depth, rows, intervals, out),
    }
    targets = {"BEVPoolv2": 20.0 if case.bins.log_spaced else 5.0, "Triton": 2.0}
    if dtype == torch.float16 and case.channels % 10 == 0:
        ways["CUDA-BEVFusion"] = lambda: pooling.pool_fusion(depth, rows, intervals, out)
        targets["CUDA-BEVFusion"] = 2.0
    correct = _pool_correct(depth, context, plan) and _pool_correct(depth, images, plan)
    times = clock.in_graphs(ways)
    ours = times.pop("ours")
    floor = _bytes(depth, context, plan, out) / bandwidth * 1e6
    note = f"byte floor {floor:.1f} us: {ours / floor:.1f} times that"
    if dtype != torch.float16:
        targets = {}
    return Row("pool", f"{case.name}, C={case.channels}, {str(dtype)[6:]}", ours, times, correct, note, targets)


def _lift(case: Case, dtype: torch.dtype, memory_format: torch.memory_format, clock: Clock) -> Row:
    """In float32 from any type, as the models do it."""
    points = case.points()
    intervals, plan = pooling.sorted_intervals(points, case.grid), PoolPlan.from_points(points, case.grid)
    height, width = (size // case.stride for size in case.input_size)
    images = 6 * case.batch
    generator = torch.Generator("cuda").manual_seed(0)
    both = torch.randn(images, case.bins.count + case.channels, height, width, generator=generator, device="cuda")
    logits, context = both.to(dtype, memory_format=memory_format).split([case.bins.count, case.channels], dim=1)

    def lifted(softmax: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        return tuple(t.unflatten(0, (case.batch, 6)) for t in (softmax(logits), context.float()))

    def plain(logits: Tensor) -> Tensor:
        return logits.float().softmax(1)

    ways = {
        "ours": lambda: bev_pool(*lifted(depth_softmax), plan),
        "PyTorch's softmax, our pooling": lambda: bev_pool(*lifted(plain), plan),
        "PyTorch's softmax, BEVPoolv2": lambda: pooling.pool_published(*lifted(plain), intervals, case.grid),
        "our softmax alone": lambda: depth_softmax(logits),
        "PyTorch's softmax alone": lambda: plain(logits).contiguous(),
    }
    close = float((depth_softmax(logits).double() - logits.double().softmax(1)).abs().max()) <= 1e-6
    times = clock.in_graphs(ways)
    order = "channels-last" if memory_format == torch.channels_last else "NCHW"
    name = f"{case.name}, C={case.channels}, {str(dtype)[6:]}, {order}"
    return Row("lift", name, times.pop("ours"), times, close and _pool_correct(*lifted(depth_softmax), plan))


def _one_plan(case: Case, dtype: torch.dtype, clock: Clock) -> Row:
    """Samples of one calibration."""
    points = case.points()[:1]
    one, each = PoolPlan.from_points(points, case.grid), PoolPlan.from_points(points.expand(8, *[-1] * 5), case.grid)
    depth, context = case.tensors(dtype)
    pairs = list(zip(depth.split(1), context.split(1), strict=True))
    ways = {
        "ours": lambda: bev_pool(depth, context, one),
        "a call per sample": lambda: [bev_pool(*pair, one) for pair in pairs],
        "a plan of all samples": lambda: bev_pool(depth, context, each),
    }
    correct = torch.equal(ways["ours"](), torch.cat(ways["a call per sample"]()))
    times = clock.in_graphs(ways, calls=3)
    name = f"8 x {case.name} with one plan, C={case.channels}, {str(dtype)[6:]}"
    return Row("pool", name, times.pop("ours"), times, correct)


def _backward(case: Case, dtype: torch.dtype, clock: Clock) -> Row:
    points = case.points()
    intervals, plan = pooling.sorted_intervals(points, case.grid), PoolPlan.from_points(points, case.grid)
    depth, context = case.tensors(dtype)
    grad = torch.randn(case.batch, case.channels, *reversed(case.grid.size), device="cuda").to(dtype)
    ours = lambda: torch.ops.bev_ops.bev_pool_backward(grad, depth, context, plan.cell_of_point)  # noqa: E731
    ways = {"ours": ours, "BEVPoolv2": lambda: pooling.backward_published(grad, depth, context, intervals)}
    want = reference.bev_pool_backward(grad.double(), depth.double(), context.double(), plan.cell_of_point)
    plain = reference.bev_pool_backward(grad, depth, context, plan.cell_of_point)
    correct = all(
        _error(got, exact) <= 2 * _error(other, exact) + 1e-6
        for got, other, exact in zip(ours(), plain, want, strict=True)
    )
    times = clock.eagerly(ways)
    graph = clock.in_graphs({"ours": ours})["ours"]
    name = f"{case.name}, C={case.channels}, {str(dtype)[6:]}"
    return Row(
        "backward", name, times.pop("ours"), times, correct, f"in a CUDA graph {graph:.1f} us", {"BEVPoolv2": 10}
    )


def _pool_correct(depth: Tensor, context: Tensor, plan: PoolPlan) -> bool:
    """At most twice as far from float64 as float32 sums rounded once, and the same when run again."""
    tables = (plan.entry_start, plan.entries, plan.column_runs, plan.long_cells, plan.cell_of_point)
    options = (plan.grid.size, 0, 0, False)
    want = reference.bev_pool(depth.double(), context.double(), *tables, *options)
    plain = reference.bev_pool(depth, context, *tables, *options)
    got, again = bev_pool(depth, context, plan), bev_pool(depth, context, plan)
    last = bev_pool(depth, context, plan, channels_last=True)
    return _error(got, want) <= 2 * _error(plain, want) + 1e-6 and torch.equal(got, again) and torch.equal(got, last)


def _same_tables(plan: PoolPlan, points: Tensor) -> bool:
    from bev_ops.plan import LONG_CELL, min_run

    grid = plan.grid
    want = reference.pool_plan(points, grid.lower, grid.step, grid.size, LONG_CELL, min_run(grid))
    got = (plan.entry_start, plan.entries, plan.column_runs, plan.long_cells, plan.cell_of_point)
    in_any_order = 3  # the list of long cells
    pairs = [
        (one.sort().values, other.sort().values) if i == in_any_order else (one, other)
        for i, (one, other) in enumerate(zip(got, want, strict=True))
    ]
    return all(torch.equal(*pair) for pair in pairs)


def _error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


def _bytes(depth: Tensor, context: Tensor, plan: PoolPlan, out: Tensor) -> int:
    """Every input read once and every output written once; of the tables, what the kernels need."""
    tables = [plan.entry_start, plan.entries[: int(plan.entry_start[-1])]]
    tables += [plan.column_runs] if plan.grid.size[2] == 1 else []
    return sum(t.numel() * t.element_size() for t in (depth, context, out, *tables))
