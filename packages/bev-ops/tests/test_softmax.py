"""Softmax over depth against its formula in float64, and the CUDA source on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bev_ops import _kernels, depth_softmax

# Layouts a depth net leaves its logits in: what slices of which memory.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda t: t,
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "slice": lambda t: torch.cat([t, t], dim=1)[:, : t.shape[1]],
    "slice of channels-last": lambda t: torch.cat([t, t], 1).contiguous(memory_format=torch.channels_last)[
        :, : t.shape[1]
    ],
    "every second column": lambda t: torch.stack([t, t], dim=-1).flatten(3)[..., ::2],
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
}
IN_LINE = [name for name in LAYOUTS if name != "transposed"]  # rows follow each other at one distance
TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(2, 5, 3, 4), (3, 59, 2, 17), (1, 1, 1, 1), (2, 9, 7, 1), (1, 160, 1, 33)]


def make_logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * 4 + 30).to(dtype)


def formula(logits: Tensor) -> Tensor:
    exponential = torch.exp(logits.cpu().double() - logits.cpu().double().amax(1, keepdim=True))
    return exponential / exponential.sum(1, keepdim=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_its_formula(check_close, device, shape, dtype, layout) -> None:
    logits = LAYOUTS[layout](make_logits(shape, dtype).to(device))
    depth = depth_softmax(logits)
    assert depth.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert depth.is_contiguous()
    check_close(depth, formula(logits), 1e-6)


def test_no_images_and_no_pixels(device) -> None:
    for shape in ((0, 5, 3, 4), (2, 5, 0, 4)):
        assert depth_softmax(torch.zeros(shape, device=device)).shape == shape


def test_more_depths_than_the_kernel_takes(check_close, device) -> None:
    logits = make_logits((1, 500, 2, 3)).to(device)
    check_close(depth_softmax(logits), formula(logits), 1e-6)


def test_numbers_that_are_not_finite_stay_in_their_pixel(device) -> None:
    logits = make_logits((1, 6, 1, 4)).to(device)
    logits[0, 2, 0, 1], logits[0, 2, 0, 2] = torch.nan, -torch.inf
    depth = depth_softmax(logits)
    assert depth[..., 1].isnan().all()
    assert depth[0, 2, 0, 2] == 0
    assert depth[..., [0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_gradient(check_close, device, dtype) -> None:
    logits = make_logits((2, 7, 3, 4), dtype).to(device).requires_grad_()
    weight = make_logits((2, 7, 3, 4)).to(device)
    (depth_softmax(logits) * weight).sum().backward()
    exact = logits.detach().double().requires_grad_()
    (exact.softmax(1) * weight.double()).sum().backward()
    assert logits.grad.dtype == dtype
    check_close(logits.grad, exact.grad, 1e-4 if torch.finfo(dtype).bits >= 32 else 0.05)


def test_gradcheck(device) -> None:
    assert torch.autograd.gradcheck(depth_softmax, make_logits((1, 4, 2, 2), torch.float64).to(device).requires_grad_())


def test_opcheck_and_compile(check_close, device) -> None:
    logits = make_logits((2, 5, 3, 4)).to(device).requires_grad_()
    torch.library.opcheck(torch.ops.bev_ops.depth_softmax, (logits,))
    compiled = torch.compile(lambda t: depth_softmax(t) * 2, fullgraph=True, backend="aot_eager")
    check_close(compiled(logits), depth_softmax(logits) * 2)


@pytest.mark.parametrize("logits", [torch.zeros(2, 3, 4), torch.zeros(1, 2, 3, 4, dtype=torch.int64)], ids=str)
def test_what_is_not_logits_is_refused(logits) -> None:
    with pytest.raises(ValueError, match=r"wants logits \(M, D, h, w\) of floats, got \("):
        depth_softmax(logits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: softmax was not tested on one")
def test_on_a_gpu_it_is_compiled_and_nothing_waits() -> None:
    assert _kernels.load("cuda"), str(_kernels.kernel_status()[1])
    assert torch._C._dispatch_has_kernel_for_dispatch_key("bev_ops::depth_softmax", "CUDA")
    logits = make_logits((2, 59, 16, 44), torch.float16).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        depth_softmax(logits)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ---- the CUDA source, run on the CPU ----


class Sizes(ctypes.Structure):
    """SoftmaxSizes of emulate_softmax.cpp."""

    _fields_ = [
        (name, ctypes.c_int64) for name in ("image_stride", "bin_stride", "pixel_stride", "pixels", "bins", "images")
    ]


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_softmax.cpp")


@pytest.mark.parametrize("order", [0, 1, 2], ids=["forward", "backward", "random"])
@pytest.mark.parametrize("layout", IN_LINE)
@pytest.mark.parametrize(("shape", "dtype"), list(zip(SHAPES, [*TYPES, torch.float32], strict=True)), ids=str)
def test_the_cuda_source_is_the_formula(emulator, check_close, shape, dtype, layout, order) -> None:
    logits = LAYOUTS[layout](make_logits(shape, dtype))
    depth = torch.full(shape, torch.nan, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    images, bins, height, width = shape
    pixel_stride = logits.stride(3) if width > 1 else logits.stride(2)
    sizes = Sizes(logits.stride(0), logits.stride(1), pixel_stride, height * width, bins, images)
    emulator.emulate_softmax.restype = ctypes.c_char_p
    pointers = (ctypes.c_void_p(t.data_ptr()) for t in (logits, depth))
    fault = emulator.emulate_softmax(order, TYPES.index(dtype), ctypes.byref(sizes), *pointers)
    assert not fault, fault.decode()
    check_close(depth, formula(logits), 1e-6)


def test_the_cuda_source_keeps_nan_in_its_pixel(emulator) -> None:
    logits = make_logits((1, 20, 1, 40))
    logits[0, 9, 0, 3] = torch.nan
    depth = torch.zeros_like(logits)
    sizes = Sizes(*logits.stride()[:2], 1, 40, 20, 1)
    emulator.emulate_softmax.restype = ctypes.c_char_p
    assert not emulator.emulate_softmax(
        0, 2, ctypes.byref(sizes), *(ctypes.c_void_p(t.data_ptr()) for t in (logits, depth))
    )
    assert depth.isnan().any(dim=1).flatten().nonzero().flatten().tolist() == [3]
