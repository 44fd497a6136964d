"""Helpers of the bev-ops tests: inputs, oracles in plain numpy loops, and an assertion that shows the worst element."""

from __future__ import annotations

import ctypes
import importlib.util
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import BevGrid, PoolPlan, _build

GRID = BevGrid(x=(-4.0, 4.0, 1.0), y=(-3.0, 3.0, 1.0), z=(-1.0, 3.0, 2.0))  # 8 x 6 x 2 cells
FLAT_GRID = BevGrid(x=(-4.0, 4.0, 1.0), y=(-3.0, 3.0, 1.0), z=(-5.0, 3.0, 8.0))  # 8 x 6 x 1 cells

# Without a GPU one test says so, instead of half of all being skipped: see test_operators.py.
DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every device type whose kernels can be tried here."""
    return request.param


@pytest.fixture
def grid() -> BevGrid:
    """A small grid with several cells along every axis."""
    return GRID


@pytest.fixture
def check_close() -> Callable[..., None]:
    """``check_close(got, want, limit)``: the largest difference may not exceed the limit."""
    return _check_close


@pytest.fixture
def make_inputs() -> Callable[..., SimpleNamespace]:
    """``make_inputs(b, n, d, c, h, w)`` -> depth, context, points and plan, drawn from a seed."""
    return _make_inputs


@pytest.fixture
def oracle() -> SimpleNamespace:
    """Definitions in plain numpy loops, sharing no code with the package."""
    return SimpleNamespace(plan=_oracle_plan, pool=_oracle_pool, backward=_oracle_backward, nms=_oracle_nms)


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ctypes.CDLL]:
    """``emulation(source)``: the CUDA kernels that a file of the folder emulation runs on the CPU."""
    folder = Path(__file__).parent / "emulation"

    def compiled(source: str) -> ctypes.CDLL:
        compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
        if compiler is None:
            pytest.skip("no C++ compiler here")
        target = tmp_path_factory.mktemp("emulation") / "emulation.so"
        torch_include = Path(importlib.util.find_spec("torch").origin).parent / "include"
        includes = ["-I", str(folder), "-I", str(_build.SOURCE_ROOT), "-isystem", str(torch_include)]
        flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, *includes, str(folder / source), "-o", target], check=True)
        return ctypes.CDLL(str(target))

    return compiled


def _check_close(got: Tensor, want: Tensor, limit: float = 0.0) -> None:
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    if got.numel() == 0:
        return
    difference = (got.detach().cpu().double() - want.detach().cpu().double()).abs()
    difference = difference.nan_to_num(nan=math.inf)
    index = np.unravel_index(int(difference.argmax()), tuple(difference.shape))
    index = tuple(int(i) for i in index)
    worst = float(difference[index])
    message = f"worst element {index}: got {got[index].item()!r}, wanted {want[index].item()!r}, off by {worst:.3g}"
    assert worst <= limit, f"{message}, allowed {limit:.3g}"


def _make_inputs(
    b: int = 2,
    n: int = 2,
    d: int = 5,
    c: int = 7,
    h: int = 3,
    w: int = 4,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    spread: float = 1.3,
    seed: int = 0,
) -> SimpleNamespace:
    """Points reach beyond the grid by ``spread``; 0 puts all of them into one cell.

    Images of 16 rows or more are as cameras see them: the grid is flat, and the points of a column at one depth fall
    into one cell, but for some that do not, so that there are runs of many lengths and points outside of runs.
    """
    generator = torch.Generator().manual_seed(seed)
    grid = FLAT_GRID if h >= 16 else GRID
    points = (torch.rand(b, n, d, h, w, 3, generator=generator) * 2 - 1) * torch.tensor(grid.upper) * spread
    points = points + torch.tensor([0.1, 0.1, 0.5])
    if h >= 16:
        stray = torch.rand(b, n, d, h, w, 1, generator=generator) < 0.1
        points = torch.where(stray, points, points[:, :, :, :1])
    depth = torch.rand(b, n, d, h, w, generator=generator).to(dtype)
    context = torch.randn(b, n, c, h, w, generator=generator).to(dtype)
    plan = PoolPlan.from_points(points, grid)
    return SimpleNamespace(
        depth=depth.to(device), context=context.to(device), points=points.to(device), plan=plan.to(device)
    )


def _oracle_plan(points: Tensor, grid: BevGrid) -> list[list[int]]:
    """Points of every cell, in order: the published rule, one point at a time."""
    b, n, d, h, w, _ = points.shape
    x, y, z = grid.size
    cells: list[list[int]] = [[] for _ in range(b * z * y * x)]
    lower, step = np.array(grid.lower, np.float32), np.array(grid.step, np.float32)
    for i, point in enumerate(points.reshape(-1, 3).numpy().astype(np.float32)):
        with np.errstate(over="ignore", invalid="ignore"):
            position = (point - lower) / step
        if not np.isfinite(position).all():
            continue
        column, row, level = (math.trunc(float(v)) for v in position)
        if 0 <= column < x and 0 <= row < y and 0 <= level < z:
            cells[((i // (n * d * h * w) * z + level) * y + row) * x + column].append(i)
    return cells


def _pixel_of(point: int, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    b, n, _, i, j = (int(v) for v in np.unravel_index(point, shape))
    return b, n, i, j


def _oracle_pool(depth: Tensor, context: Tensor, points: Tensor, grid: BevGrid) -> Tensor:
    """float64 sums, one point at a time."""
    weights, features = depth.double().numpy(), context.double().numpy()
    x, y, z = grid.size
    out = np.zeros((depth.shape[0], z * y * x, context.shape[2]))
    for cell, members in enumerate(_oracle_plan(points, grid)):
        for point in members:
            b, n, i, j = _pixel_of(point, depth.shape)
            out[b, cell % (z * y * x)] += weights.reshape(-1)[point] * features[b, n, :, i, j]
    return torch.from_numpy(out.transpose(0, 2, 1).reshape(depth.shape[0], context.shape[2], z, y, x).copy())


def _oracle_backward(
    grad: Tensor, depth: Tensor, context: Tensor, points: Tensor, grid: BevGrid
) -> tuple[Tensor, Tensor]:
    weights, features = depth.double().numpy(), context.double().numpy()
    x, y, z = grid.size
    grads = grad.double().numpy().reshape(grad.shape[0], grad.shape[1], -1)
    depth_grad, context_grad = np.zeros(depth.shape), np.zeros(context.shape)
    for cell, members in enumerate(_oracle_plan(points, grid)):
        for point in members:
            b, n, i, j = _pixel_of(point, depth.shape)
            row = grads[b, :, cell % (z * y * x)]
            depth_grad.reshape(-1)[point] = row @ features[b, n, :, i, j]
            context_grad[b, n, :, i, j] += weights.reshape(-1)[point] * row
    return torch.from_numpy(depth_grad), torch.from_numpy(context_grad)


def _oracle_nms(scores: np.ndarray, suppresses: Callable[[int, int], bool]) -> list[int]:
    """Greedy, best first, equal scores by index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    kept: list[int] = []
    for candidate in order:
        if not any(suppresses(better, candidate) for better in kept):
            kept.append(candidate)
    return kept
