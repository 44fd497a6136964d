"""The CUDA kernels of overlap and suppression, their own source run on the CPU thread by thread.

The emulator switches threads only where they wait for each other, in several orders; see emulation/cuda_emulator.h.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bev_ops import reference

ORDERS = {"forward": 0, "backward": 1, "random": 2}
INF, NAN = float("inf"), float("nan")


class Sizes(ctypes.Structure):
    """NmsSizes of emulate_nms.cpp."""

    _fields_ = [(name, ctypes.c_int64) for name in ("samples", "rules", "count")]


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_nms.cpp")


def call(function: Callable[..., bytes], order: str, *args: object) -> None:
    function.restype = ctypes.c_char_p
    fault = function(ORDERS[order], *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in args))
    assert not fault, fault.decode()


def emulated(emulator: ctypes.CDLL, order: str, boxes: Tensor, valid: Tensor, limits: tuple[list, ...]) -> Tensor:
    keep = torch.ones_like(valid)
    function = emulator.emulate_nms_double if boxes.dtype == torch.float64 else emulator.emulate_nms_float
    overlaps, radii, most = limits
    tables = (torch.tensor(overlaps).double(), torch.tensor(radii).double(), torch.tensor(most))
    call(function, order, ctypes.byref(Sizes(*valid.shape)), boxes, valid, *tables, keep)
    return keep


def crowd(*shape: int, seed: int = 0) -> Tensor:
    scale = torch.tensor([20.0, 20.0, 5.0, 3.0, 6.3])
    return torch.rand(*shape, 5, generator=torch.Generator().manual_seed(seed)) * scale


MIXED = ([0.1, INF, 0.3, 0.1, -0.5], [-INF, 4.0, 0.5, -INF, -INF], [999, 999, 999, 7, 999])


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("order", list(ORDERS))
def test_every_group_is_the_reference(emulator, count, order) -> None:
    boxes = crowd(2, 5, count, seed=count)
    valid = torch.rand(2, 5, count, generator=torch.Generator().manual_seed(count)) < 0.8
    valid[1, 0] = False
    got = emulated(emulator, order, boxes, valid, MIXED)
    assert got.tolist() == reference.nms_batched(boxes, valid, *MIXED).tolist()


@pytest.mark.parametrize("first_valid", [0, 64, 130])
def test_words_without_a_candidate_are_passed_over(emulator, first_valid) -> None:
    boxes, valid = crowd(1, 1, 200), torch.zeros(1, 1, 200, dtype=torch.bool)
    valid[..., first_valid : first_valid + 40] = True
    limits = ([0.1], [-INF], [999])
    got = emulated(emulator, "random", boxes, valid, limits)
    assert got.tolist() == reference.nms_batched(boxes, valid, *limits).tolist()


def test_every_pair_of_a_tile_may_be_unsure(emulator) -> None:
    boxes = crowd(1, 1, 128) * torch.tensor([0.05, 0.05, 1.0, 1.0, 1.0])
    valid = torch.ones(1, 1, 128, dtype=torch.bool)
    limits = ([0.9], [-INF], [999])
    got = emulated(emulator, "random", boxes, valid, limits)
    assert got.tolist() == reference.nms_batched(boxes, valid, *limits).tolist()


def test_double_precision(emulator) -> None:
    boxes, valid = crowd(1, 5, 90).double(), torch.ones(1, 5, 90, dtype=torch.bool)
    got = emulated(emulator, "forward", boxes, valid, MIXED)
    assert got.tolist() == reference.nms_batched(boxes, valid, *MIXED).tolist()


def test_overlap_is_the_reference(emulator, check_close) -> None:
    a, b = crowd(21, seed=3) * 0.45, crowd(17, seed=4) * 0.45
    iou = torch.full((21, 17), NAN)
    call(emulator.emulate_iou, "forward", a, b, ctypes.c_int64(21), ctypes.c_int64(17), iou)
    check_close(iou, reference.iou_rotated(a, b), 1e-6)
