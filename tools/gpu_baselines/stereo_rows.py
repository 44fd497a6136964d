"""Temporal stereo and map warping, beside the published way of doing them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_lss import DepthBins
from bev_ops import BevGrid
from bev_temporal import StereoCostVolume, warp_bev

from .measure import Clock, Work, peak_bytes
from .report import Row

Way = Callable[[Tensor, Tensor, BevGrid], Tensor]

_STRIDE, _BIAS = 4, 5.0
_CASES = (
    (256, (64, 176), DepthBins(1.0, 60.0, 1.0)),
    (256, (64, 176), DepthBins(1.0, 60.0, 1.0, log_spaced=True)),
    (64, (128, 352), DepthBins(1.0, 60.0, 0.5)),
)


def stereo(clock: Clock) -> Iterator[Row]:
    """Six cameras against themselves one frame earlier; published: a grid for all depths, four channels at a time."""
    for channels, size, bins in _CASES:
        for dtype in (torch.float32, torch.float16):
            yield _stereo(channels, size, bins, dtype, clock)


def warp(clock: Clock) -> Iterator[Row]:
    """Eight maps brought to now; published: positions point by point, then grid_sample."""
    for degrees in (1.0, 12.0):
        yield from _warp(degrees, clock)


def _stereo(channels: int, size: tuple[int, int], bins: DepthBins, dtype: torch.dtype, clock: Clock) -> Row:
    current, previous = (t.to(dtype) for t in _features(channels, size))
    cameras = _cameras(size)
    module, depths = StereoCostVolume(bins), bins.values().cuda()

    def ours() -> Tensor:
        return module(current[None], previous[None], *(c[None] for c in cameras))[0]

    def theirs() -> Tensor:
        return _grouped_matching(current, previous, *cameras, depths)

    want = _grouped_matching(current.double(), previous.double(), *(c.double() for c in cameras), depths)
    # Where a position falls on the border of the image, its last bit decides whether anything is there.
    off = (ours() - want).abs() > 2e-3
    correct = float(off.float().mean()) < 1e-4 and torch.equal(ours(), ours())
    times = clock.eagerly({"ours": ours, "published": theirs})
    name = f"6x{channels}x{size[0]}x{size[1]}, D={bins.count}{', log-spaced' if bins.log_spaced else ''}"
    note = f"{peak_bytes(ours) / peak_bytes(theirs):.2f} of its memory"
    targets = {"published": 3.0} if dtype == torch.float32 else {}
    return Row("cost volume", f"{name}, {str(dtype)[6:]}", times.pop("ours"), times, correct, note, targets)


def _warp(degrees: float, clock: Clock) -> Iterator[Row]:
    grid = BevGrid(x=(-51.2, 51.2, 0.8), y=(-51.2, 51.2, 0.8), z=(-5.0, 3.0, 8.0))
    maps, motion = torch.randn(8, 80, 128, 128, device="cuda"), _motions(8, degrees)
    grad = torch.randn_like(maps)

    def forward(way: Way) -> Work:
        return lambda: way(maps, motion, grid)

    def both(way: Way) -> Work:
        return lambda: _with_gradient(way, maps, motion, grid, grad)

    ways = {"ours": warp_bev, "published": _pointwise_warp}
    pairs = zip(*(both(way)() for way in ways.values()), strict=True)
    correct = all(float((ours - theirs).abs().max()) < 2e-3 for ours, theirs in pairs)
    for name, what in {"forward": forward, "forward + backward": both}.items():
        times = clock.eagerly({n: what(way) for n, way in ways.items()})
        yield Row("warp", f"8x80x128x128, {degrees:g} degrees, {name}", times.pop("ours"), times, correct)


def _features(channels: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Smooth features of now, and of a moment ago: a little aside and a little different."""
    generator = torch.Generator("cuda").manual_seed(0)
    coarse = torch.randn(6, channels, size[0] // 4 + 1, size[1] // 4 + 1, generator=generator, device="cuda")
    now = F.interpolate(coarse, size=size, mode="bilinear")
    return now, now.roll(2, 3) + 0.05 * torch.randn(now.shape, generator=generator, device="cuda")


def _cameras(size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Motion of six cameras of a car that drove 2.5 m and turned by a degree, intrinsics, image augmentation."""
    scale = size[1] * _STRIDE / 1600
    intrinsics = torch.tensor([[1260 * scale, 0, 800 * scale], [0, 1260 * scale, 330 * scale], [0, 0, 1.0]])
    ego = torch.eye(4, dtype=torch.float64)
    ego[:2, :2], ego[0, 3] = _turn(1.0), 2.5
    level = torch.tensor([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]], dtype=torch.float64)
    motions = []
    for degrees in (0, 55, -55, 180, 110, -110):
        camera = torch.eye(4, dtype=torch.float64)
        camera[:2, :2] = _turn(degrees)
        camera[:3, :3] = camera[:3, :3] @ level
        camera[:3, 3] = torch.tensor([1.5, 0.5, 1.5])
        motions.append(torch.linalg.inv(camera) @ ego @ camera)
    aug = torch.tensor([[1.02, 0, -8.0], [0, 1.02, 2.0], [0, 0, 1.0]])
    cameras = (torch.stack(motions).float(), intrinsics.repeat(6, 1, 1), aug.repeat(6, 1, 1))
    return tuple(t.cuda() for t in cameras)


def _turn(degrees: float) -> Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


def _grouped_matching(
    current: Tensor, previous: Tensor, motion: Tensor, intrinsics: Tensor, aug: Tensor, depths: Tensor
) -> Tensor:
    """(M, C, H, W) twice -> (M, D, H, W): four channels are warped for all depths at a time."""
    images, channels, height, width = current.shape
    grid = _sweep_grid(motion, intrinsics, aug, depths, (height, width)).to(current.dtype)
    cost, warped = 0, None
    for first in range(0, channels, 4):
        warped = F.grid_sample(previous[:, first : first + 4], grid, align_corners=True)
        warped = warped.view(images, 4, len(depths), height, width)
        cost = cost + (current[:, first : first + 4, None] - warped).abs().sum(1)
    cost = cost + _BIAS * (warped[:, 0] == 0)
    return (-cost).softmax(1)


def _sweep_grid(motion: Tensor, intrinsics: Tensor, aug: Tensor, depths: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each pixel lies a frame earlier at each depth, as grid_sample wants it: (M, D*H, W, 2)."""
    height, width = size
    columns, rows = (torch.linspace(0, n * _STRIDE - 1, n, device="cuda", dtype=motion.dtype) for n in (width, height))
    frustum = torch.stack(torch.meshgrid(depths.to(motion.dtype), rows, columns, indexing="ij")[::-1], dim=-1)
    pixels = torch.linalg.inv(aug)[:, None, None, None] @ torch.cat(
        (frustum[..., :2], torch.ones_like(frustum[..., :1])), dim=-1
    ).unsqueeze(-1)
    points = torch.linalg.inv(intrinsics)[:, None, None, None] @ (pixels * frustum[..., 2:, None])
    points = motion[:, None, None, None, :3, :3] @ points + motion[:, None, None, None, :3, 3:]
    behind = points[..., 2, 0] < 1e-3
    pixels = intrinsics[:, None, None, None] @ points
    pixels = aug[:, None, None, None] @ (pixels / pixels[..., 2:, :])
    limit = torch.tensor([width * _STRIDE - 1.0, height * _STRIDE - 1.0], device="cuda", dtype=motion.dtype)
    grid = (pixels[..., :2, 0] / limit * 2 - 1).masked_fill(behind[..., None], -2)
    return grid.view(len(motion), -1, width, 2)


def _motions(count: int, degrees: float) -> Tensor:
    motion = torch.eye(4).repeat(count, 1, 1)
    for i in range(count):
        motion[i, :2, :2] = _turn(degrees * (i + 1) / count)
        motion[i, 0, 3] = 0.4 * (i + 1)
    return motion.cuda()


def _pointwise_warp(maps: Tensor, motion: Tensor, grid: BevGrid) -> Tensor:
    count, _, height, width = maps.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack((x, y, torch.ones_like(x)), dim=-1).to(maps).view(1, height, width, 3, 1)
    to_metres = torch.tensor([[grid.step[0], 0, grid.lower[0]], [0, grid.step[1], grid.lower[1]], [0, 0, 1]]).to(maps)
    planar = motion[:, [0, 1, 3]][:, :, [0, 1, 3]]
    between = (torch.linalg.inv(to_metres) @ planar @ to_metres).view(count, 1, 1, 3, 3)
    where = (between @ cells.expand(count, -1, -1, -1, -1))[..., :2, 0]
    limit = torch.tensor([width - 1.0, height - 1.0]).to(maps)
    return F.grid_sample(maps, where / limit * 2 - 1, align_corners=True)


def _with_gradient(way: Way, maps: Tensor, motion: Tensor, grid: BevGrid, grad: Tensor) -> tuple[Tensor, Tensor]:
    leaf = maps.detach().requires_grad_()
    out = way(leaf, motion, grid)
    return out.detach(), torch.autograd.grad(out, leaf, grad)[0]
