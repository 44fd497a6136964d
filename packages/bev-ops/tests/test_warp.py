"""Affine warping against the rule written out one cell at a time, its gradient, and the CUDA source on the CPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import _kernels, warp_affine

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2, torch.float64: 3}
ORDERS = {"forward": 0, "backward": 1, "random": 2}
ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 4e-5, torch.float64: 4e-5}


def turned(degrees: float, x: float = 0.0, y: float = 0.0, scale: float = 1.0) -> list[list[float]]:
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return [[c, -s, x], [s, c, y]]


MOTIONS = {
    "a little": turned(2, 0.3, -0.7),
    "a quarter": turned(88, 9.2, -0.4),
    "standing still": turned(0),
    "whole cells": turned(0, 2, -1),
    "half cells": turned(0, 0.5, 2.5),
    "mirrored": [[-1, 0, 9.3], [0, 1, 0.2]],
    "far away": turned(1, 1e4, 3),
    "shrunk": turned(30, 1, 1, 0.2),
    "enlarged": turned(-50, 1, 1, 3.7),
    "onto a line": [[1, 1, 0], [1, 1, 0.5]],
    "onto a point": [[0, 0, 1.25], [0, 0, 2.5]],
    "no number": [[math.nan, 0, 0], [0, 1, 0]],
}


def oracle(maps: Tensor, cells: Tensor) -> Tensor:
    """One cell at a time, in float64."""
    source, out = maps.double().numpy(), np.zeros(maps.shape)
    _, _, height, width = maps.shape
    for b, y, x in np.ndindex(maps.shape[0], height, width):
        column, row = (float(np.dot(cells[b, i].double().numpy(), (x, y, 1))) for i in range(2))
        if not (-1 < column < width and -1 < row < height):
            continue
        for j in (math.floor(row), math.floor(row) + 1):
            for i in (math.floor(column), math.floor(column) + 1):
                if 0 <= j < height and 0 <= i < width:
                    out[b, :, y, x] += (1 - abs(column - i)) * (1 - abs(row - j)) * source[b, :, j, i]
    return torch.from_numpy(out)


def make_maps(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def grid_sample_gradient(grad: Tensor, cells: Tensor) -> Tensor:
    """What autograd makes of the plain rule, in float64."""
    leaf = torch.zeros(grad.shape, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(warp_affine(leaf, cells), leaf, grad.double())[0]


@pytest.mark.parametrize("name", [name for name in MOTIONS if name != "no number"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_it_is_the_rule(check_close, device, name, dtype) -> None:
    maps, cells = make_maps(2, 3, 7, 11, dtype=dtype), torch.tensor([MOTIONS[name], turned(1, 0.1)])
    got = warp_affine(maps.to(device), cells.to(device))
    assert got.dtype == dtype
    check_close(got, oracle(maps, cells), ROUNDING[dtype] * float(maps.abs().max()))


def test_every_map_moves_its_own_way(check_close, device) -> None:
    maps, cells = make_maps(4, 9, 6, 5).to(device), torch.tensor(list(MOTIONS.values())[:4]).to(device)
    together = warp_affine(maps, cells)
    for i in range(4):
        check_close(together[i : i + 1], warp_affine(maps[i : i + 1], cells[i : i + 1]))


def test_memory_formats_give_the_same_bits(check_close, device) -> None:
    maps, cells = make_maps(2, 3, 7, 11).to(device), torch.tensor([MOTIONS["a little"]] * 2).to(device)
    want = warp_affine(maps, cells)
    check_close(warp_affine(maps.contiguous(memory_format=torch.channels_last), cells), want)
    check_close(warp_affine(torch.stack([maps, maps], dim=-1)[..., 0], cells), want)


@pytest.mark.parametrize("name", ["a little", "a quarter", "mirrored", "shrunk", "enlarged", "onto a line"])
def test_gradient(device, name) -> None:
    maps = make_maps(1, 2, 4, 5, dtype=torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(warp_affine, (maps, torch.tensor([MOTIONS[name]]).to(device)))


@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_gradient_of_every_type(check_close, device, dtype) -> None:
    cells, grad = torch.tensor([MOTIONS["a little"]]), make_maps(1, 9, 6, 7, dtype=dtype)
    leaf = torch.zeros(grad.shape, dtype=dtype, device=device, requires_grad=True)
    (got,) = torch.autograd.grad(warp_affine(leaf, cells.to(device)), leaf, grad.to(device))
    assert got.dtype == dtype
    check_close(got, grid_sample_gradient(grad, cells), 4 * ROUNDING[dtype])


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5)], ids=str)
def test_nothing_to_warp(device, shape) -> None:
    out = warp_affine(torch.zeros(shape, device=device), torch.zeros(shape[0], 2, 3, device=device))
    assert out.shape == shape


def test_opcheck_and_compile(check_close, device) -> None:
    maps, cells = make_maps(2, 3, 4, 5).to(device), torch.tensor(list(MOTIONS.values())[:2]).to(device)
    torch.library.opcheck(torch.ops.bev_ops.warp_affine, (maps.clone().requires_grad_(), cells))
    torch.library.opcheck(torch.ops.bev_ops.warp_affine_backward, (maps, cells))
    compiled = torch.compile(lambda m: warp_affine(m, cells).relu(), fullgraph=True, backend="aot_eager")
    check_close(compiled(maps), warp_affine(maps, cells).relu())


@pytest.mark.parametrize(
    ("maps", "cells", "message"),
    [
        ((3, 4, 5), (3, 2, 3), r"wants maps \(B, C, Y, X\) of floats, got \(3, 4, 5\)"),
        ((2, 3, 4, 5), (1, 2, 3), r"wants cells \(2, 2, 3\) float32 on cpu for these maps, got \(1, 2, 3\)"),
        ((2, 3, 4, 5), (2, 3, 3), r"got \(2, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(maps, cells, message) -> None:
    with pytest.raises(ValueError, match=message):
        warp_affine(torch.zeros(maps), torch.zeros(cells))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: affine warping was not tested on one")
def test_the_kernels_are_compiled_on_a_gpu() -> None:
    assert _kernels.load("cuda"), str(_kernels.kernel_status()[1])
    for name in ("warp_affine", "warp_affine_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"bev_ops::{name}", "CUDA"), name


# ---- the CUDA source, run on the CPU ----


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_warp.cpp")


def emulated(emulator: ctypes.CDLL, source: Tensor, cells: Tensor, order: str, *, backward: bool = False) -> Tensor:
    out = torch.full_like(source, math.nan)
    sizes = (ctypes.c_int64 * 4)(*source.shape)
    emulator.emulate_warp.restype = ctypes.c_char_p
    addresses = (ctypes.c_void_p(t.data_ptr()) for t in (source, cells, out))
    fault = emulator.emulate_warp(ORDERS[order], DTYPES[source.dtype], int(backward), sizes, *addresses)
    assert not fault, fault.decode()
    return out


@pytest.mark.parametrize("name", list(MOTIONS))
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_the_cuda_source_is_the_rule(emulator, check_close, name, dtype) -> None:
    maps, cells = make_maps(2, 9, 7, 11, dtype=dtype), torch.tensor([MOTIONS[name], turned(1, 0.1)])
    want = oracle(maps, cells)
    check_close(emulated(emulator, maps, cells, "forward"), want, ROUNDING[dtype] * float(maps.abs().max()))


@pytest.mark.parametrize("name", [name for name in MOTIONS if name != "no number"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_the_cuda_source_collects_the_gradient(emulator, check_close, name, dtype) -> None:
    grad, cells = make_maps(2, 9, 7, 11, dtype=dtype), torch.tensor([MOTIONS[name], turned(1, 0.1)])
    want = grid_sample_gradient(grad, cells)
    limit = ROUNDING[dtype] * (float(want.abs().max()) + 1)
    check_close(emulated(emulator, grad, cells, "forward", backward=True), want, limit)


@pytest.mark.parametrize("order", ["backward", "random"])
@pytest.mark.parametrize("backward", [False, True])
def test_no_result_depends_on_the_order_of_threads(emulator, check_close, order, backward) -> None:
    maps, cells = make_maps(2, 17, 17, 19), torch.tensor([MOTIONS["a little"], MOTIONS["a quarter"]])
    want = emulated(emulator, maps, cells, "forward", backward=backward)
    check_close(emulated(emulator, maps, cells, order, backward=backward), want)


def test_one_row_is_no_worse_than_the_reference(emulator) -> None:
    """A map of one row has no place between its first and its last: published as no number, here nothing is read."""
    out = emulated(emulator, make_maps(1, 2, 1, 6), torch.tensor([turned(0)]), "forward")
    assert not out.any()
