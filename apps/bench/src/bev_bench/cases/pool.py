"""Lift-splat pooling and its plan, against index_add_ and an argsort.

Shapes: B samples, N cameras, D depth bins, h x w feature pixels, C channels, P = B*N*D*h*w points, K of them kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bev_bench.cases.case import Case, DisagreementError, Problem, check_close, random_generator
from bev_lss import DepthBins, frustum_points, points_to_ego
from bev_ops import BevGrid, PoolPlan, bev_pool
from bev_zoo import nuscenes_rig

__all__ = ["PlainPlan", "PoolSize", "plain_plan", "plain_pool", "pool_cases"]

_STRIDE = 16
_FLOAT32_TOLERANCE = 1e-5  # sums of thousands of products, in different orders


@dataclass(frozen=True, kw_only=True)
class PoolSize:
    """A pooling problem with the geometry of a real rig."""

    input_size: tuple[int, int]
    bins: DepthBins
    cell_m: float
    channels: int = 80

    @property
    def name(self) -> str:
        """6xDxhxw, channels and how the bins are spaced."""
        height, width = (side // _STRIDE for side in self.input_size)
        spacing = "log-spaced" if self.bins.log_spaced else "uniform"
        return f"6x{self.bins.count}x{height}x{width} C={self.channels} {spacing}"

    def points(self, device: torch.device) -> Tensor:
        """(1, 6, D, h, w, 3) metres, of the nuScenes-like rig in motion."""
        frustum = frustum_points(tuple(side // _STRIDE for side in self.input_size), _STRIDE, self.bins)
        cameras = nuscenes_rig(self.input_size, rolling=True).frame_cameras(0)
        return points_to_ego(frustum, *cameras.tensors()).to(device)

    def grid(self) -> BevGrid:
        """One layer of cells, 102.4 m wide."""
        side = (-51.2, 51.2, self.cell_m)
        return BevGrid(x=side, y=side, z=(-5.0, 3.0, 8.0))


def _sizes(quick: bool) -> Iterator[PoolSize]:
    for log_spaced in (False, True):
        coarse = DepthBins(1.0, 60.0, 1.0, log_spaced=log_spaced)
        fine = DepthBins(1.0, 60.0, 0.5, log_spaced=log_spaced)
        if quick:
            yield PoolSize(input_size=(128, 352), bins=coarse, cell_m=0.8)
        else:
            yield PoolSize(input_size=(256, 704), bins=coarse, cell_m=0.8)
            yield PoolSize(input_size=(512, 1408), bins=fine, cell_m=0.4)


def pool_cases(*, quick: bool, device: torch.device, dtype: torch.dtype, seed: int) -> list[Problem]:
    """Plan, forward, backward and both, at the sizes of the published systems."""
    return [Problem(size.name, lambda size=size: _cases(size, device, dtype, seed)) for size in _sizes(quick)]


class PlainPlan(NamedTuple):
    """What the argsort preparation gives: the kept points, sorted by cell, and where the points of each cell begin."""

    cell: Tensor  # (K,) int64, sorted
    depth: Tensor  # (K,) int64 position in the flattened depth
    pixel: Tensor  # (K,) int64 position in the flattened (B, N, h, w)
    begin: Tensor  # (cells hit,) int64
    length: Tensor  # (cells hit,) int64
    shape: tuple[int, int, int, int]  # B, Z, Y, X


def plain_plan(points: Tensor, grid: BevGrid) -> PlainPlan:
    """The published way: number the cells, drop what is outside, argsort, find where the number changes.

    Args:
        points: (B, N, D, h, w, 3) metres.
        grid: the cells.
    """
    b, n, d, h, w, _ = points.shape
    lower, step, size = (points.new_tensor(values) for values in (grid.lower, grid.step, grid.size))
    x, y, z = ((points - lower) / step).trunc().view(-1, 3).unbind(1)
    kept = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1]) & (z >= 0) & (z < size[2])
    depth = torch.arange(b * n * d * h * w, device=points.device)
    sample, pixel = depth // (n * d * h * w), depth // (d * h * w) * (h * w) + depth % (h * w)
    cells_x, cells_y, cells_z = grid.size
    cell = ((sample * cells_z + z.long()) * cells_y + y.long()) * cells_x + x.long()
    cell, depth, pixel = cell[kept], depth[kept], pixel[kept]
    order = cell.argsort()
    cell, depth, pixel = cell[order], depth[order], pixel[order]
    first = torch.ones_like(cell, dtype=torch.bool)
    first[1:] = cell[1:] != cell[:-1]
    begin = first.nonzero().flatten()
    length = torch.diff(begin, append=begin.new_tensor([len(cell)]))
    return PlainPlan(cell, depth, pixel, begin, length, (b, cells_z, cells_y, cells_x))


def plain_pool(depth: Tensor, context: Tensor, plan: PlainPlan) -> Tensor:
    """Gather, multiply, ``index_add_``: (B, C, Z, Y, X), contiguous.

    Args:
        depth: (B, N, D, h, w).
        context: (B, N, C, h, w).
        plan: of their points.
    """
    pixels = context.movedim(2, -1).flatten(0, -2)
    lifted = depth.flatten()[plan.depth, None] * pixels[plan.pixel]
    b, z, y, x = plan.shape
    pooled = lifted.new_zeros(b * z * y * x, context.shape[2]).index_add_(0, plan.cell, lifted)
    return pooled.view(b, z, y, x, -1).movedim(-1, 1).contiguous()


def _cases(size: PoolSize, device: torch.device, dtype: torch.dtype, seed: int) -> list[Case]:
    points, grid = size.points(device), size.grid()
    depth, context = _inputs(points, size.channels, dtype, seed)
    plan, sorted_points = PoolPlan.from_points(points, grid), plain_plan(points, grid)
    sides = _Differentiable(depth, context, plan, sorted_points)
    return [
        Case(
            "plan",
            "argsort",
            lambda: plain_plan(points, grid),
            lambda: PoolPlan.from_points(points, grid),
            lambda: _check_plan(plan, sorted_points),
        ),
        Case(
            "bev_pool forward",
            "index_add_",
            lambda: plain_pool(depth, context, sorted_points),
            lambda: bev_pool(depth, context, plan),
            sides.check_forward,
        ),
        Case("bev_pool backward", "index_add_", sides.plain_backward, sides.our_backward, sides.check_backward),
        Case("bev_pool forward + backward", "index_add_", sides.plain_both, sides.our_both, sides.check_backward),
    ]


def _inputs(points: Tensor, channels: int, dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    """Depth distributions and context, drawn on the CPU."""
    b, n, d, h, w, _ = points.shape
    generator = random_generator(seed)
    depth = torch.randn(b, n, d, h, w, generator=generator).softmax(dim=2)
    context = torch.randn(b, n, channels, h, w, generator=generator)
    return depth.to(points.device, dtype), context.to(points.device, dtype)


class _Differentiable:
    """Both sides with gradients; the graph of one forward pass is kept for timing the backward pass alone."""

    def __init__(self, depth: Tensor, context: Tensor, plan: PoolPlan, sorted_points: PlainPlan) -> None:
        self.inputs = (depth.detach().requires_grad_(), context.detach().requires_grad_())
        self.plan, self.sorted_points = plan, sorted_points
        self.our_result: Tensor | None = None
        self.plain_result: Tensor | None = None
        with torch.no_grad():
            self.grad = torch.randn_like(bev_pool(depth, context, plan))

    def check_forward(self) -> None:
        with torch.no_grad():
            self._check("bev_pool", self._our_forward, self._plain_forward)

    def check_backward(self) -> None:
        for i, name in enumerate(("depth", "context")):
            ours, plain = (lambda i=i: self.our_both()[i]), (lambda i=i: self.plain_both()[i])
            self._check(f"bev_pool gradient of {name}", ours, plain)

    def our_both(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._our_forward(), self.inputs, self.grad)

    def plain_both(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self._plain_forward(), self.inputs, self.grad)

    def our_backward(self) -> tuple[Tensor, ...]:
        if self.our_result is None:
            self.our_result = self._our_forward()
        return torch.autograd.grad(self.our_result, self.inputs, self.grad, retain_graph=True)

    def plain_backward(self) -> tuple[Tensor, ...]:
        if self.plain_result is None:
            self.plain_result = self._plain_forward()
        return torch.autograd.grad(self.plain_result, self.inputs, self.grad, retain_graph=True)

    def _our_forward(self) -> Tensor:
        return bev_pool(*self.inputs, self.plan)

    def _plain_forward(self) -> Tensor:
        return plain_pool(*self.inputs, self.sorted_points)

    def _check(self, name: str, ours: Callable[[], Tensor], plain: Callable[[], Tensor]) -> None:
        """float32 by its rounding; half precision may be as wrong as twice the plain version is, against float32."""
        if self.inputs[0].dtype == torch.float32:
            check_close(name, ours(), plain(), _FLOAT32_TOLERANCE)
            return
        our_result, plain_result = ours(), plain()
        given, self.inputs = self.inputs, tuple(t.detach().float().requires_grad_() for t in self.inputs)
        grad, self.grad = self.grad, self.grad.float()
        try:
            exact = plain()
        finally:
            self.inputs, self.grad = given, grad
        scale = exact.abs().max().item()
        error = (plain_result.float() - exact).abs().max().item() / scale
        check_close(name, our_result, exact, 2 * max(error, torch.finfo(given[0].dtype).eps))


def _check_plan(plan: PoolPlan, plain: PlainPlan) -> None:
    ours, wanted = (plan.num_points, plan.num_cells), (len(plain.cell), len(plain.begin))
    if ours != wanted:
        raise DisagreementError(f"plan: ours has {ours[0]} points in {ours[1]} cells, the plain one {wanted}")
