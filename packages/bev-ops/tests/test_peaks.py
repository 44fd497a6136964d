"""Heat-map peaks against a loop over boxes and cells, and the CUDA source on the CPU."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import _kernels, draw_peaks

X, Y, PLANES = 11, 7, 3


def make_boxes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """plane, cell_xy and radius; some draw nothing, some reach beyond the map, and what they hold may be anything."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.randint(-1, PLANES, (count,), generator=generator)
    cell_xy = torch.stack([torch.randint(0, n, (count,), generator=generator) for n in (X, Y)], dim=1)
    radius = torch.randint(0, 6, (count,), generator=generator)
    radius[::5] = 40
    radius[plane < 0] = -(2**63)
    cell_xy[plane < 0] = 2**62
    return plane, cell_xy, radius


def oracle(plane: Tensor, cell_xy: Tensor, radius: Tensor) -> Tensor:
    heatmaps = np.zeros((PLANES, Y, X), np.float32)
    for p, (x, y), r in zip(plane.tolist(), cell_xy.tolist(), radius.tolist(), strict=True):
        if p < 0:
            continue
        for row in range(max(0, y - r), min(Y, y + r + 1)):
            for column in range(max(0, x - r), min(X, x + r + 1)):
                squared, sigma = (row - y) ** 2 + (column - x) ** 2, (2 * r + 1) / 6
                value = np.float32(math.exp(-squared / (2 * sigma * sigma)))
                heatmaps[p, row, column] = max(heatmaps[p, row, column], value)
    return torch.from_numpy(heatmaps)


CASES = [(40, 0), (7, 1), (1, 2), (0, 3)]


@pytest.mark.parametrize(("count", "seed"), CASES)
def test_it_is_a_loop_over_boxes(check_close, device, count, seed) -> None:
    boxes = make_boxes(count, seed)
    got = draw_peaks(*(t.to(device) for t in boxes), PLANES, (X, Y))
    assert got.dtype == torch.float32
    check_close(got, oracle(*boxes))


def test_the_centre_is_one_and_a_plane_without_boxes_empty(device) -> None:
    plane, cell, radius = (torch.tensor(v, device=device) for v in ([1], [[3, 2]], [0]))
    heatmaps = draw_peaks(plane, cell, radius, PLANES, (X, Y))
    assert heatmaps[1, 2, 3] == 1
    assert heatmaps.count_nonzero() == 1


def test_opcheck_and_compile(check_close, device) -> None:
    boxes = [t.to(device) for t in make_boxes(9, 4)]
    torch.library.opcheck(torch.ops.bev_ops.draw_peaks, (*boxes, PLANES, Y, X))
    compiled = torch.compile(lambda *b: draw_peaks(*b, PLANES, (X, Y)) * 2, fullgraph=True, backend="aot_eager")
    check_close(compiled(*boxes), draw_peaks(*boxes, PLANES, (X, Y)) * 2)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, torch.zeros(3, 3, dtype=torch.int64), r"wants cell_xy \(3, 2\) int64 on cpu, got \(3, 3\)"),
        (2, torch.zeros(3), r"wants radius \(3,\) int64 on cpu, got \(3,\) torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused(position, value, message) -> None:
    boxes = list(make_boxes(3, 5))
    boxes[position] = value
    with pytest.raises(ValueError, match=message):
        draw_peaks(*boxes, PLANES, (X, Y))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: heat-map peaks were not tested on one")
def test_on_a_gpu_nothing_waits() -> None:
    assert _kernels.load("cuda"), str(_kernels.kernel_status()[1])
    boxes = [t.cuda() for t in make_boxes(40, 0)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw_peaks(*boxes, PLANES, (X, Y))
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- the CUDA source, run on the CPU ----


class Args(ctypes.Structure):
    """PeakArgs of peak_kernels.cuh."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("plane", "cell_xy", "radius", "heatmaps")),
        ("height", ctypes.c_int64),
        ("width", ctypes.c_int64),
    ]


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_peaks.cpp")


@pytest.mark.parametrize("order", [0, 1, 2], ids=["forward", "backward", "random"])
@pytest.mark.parametrize(("count", "seed"), CASES[:3])
def test_the_cuda_source_is_a_loop_over_boxes(emulator, check_close, order, count, seed) -> None:
    boxes, out = make_boxes(count, seed), torch.zeros(PLANES, Y, X)
    emulator.emulate_peaks.restype = ctypes.c_char_p
    args = Args(*(t.data_ptr() for t in (*boxes, out)), Y, X)
    fault = emulator.emulate_peaks(order, ctypes.c_int64(count), ctypes.byref(args))
    assert not fault, fault.decode()
    check_close(out, oracle(*boxes))
