"""Stereo matching against the rule written out one pixel, one depth at a time; every device and type it runs on."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from bev_ops import SweepViews, _build, _kernels, kernel_status, matching_cost, matching_probability, reference_sweep

DTYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
ORDERS = {"forward": 0, "backward": 1, "random": 2}
DEPTHS = torch.tensor([0.5, 1.0, 1.1, 1.2, 2.0, 3.5, 7.0, 20.0, 60.0])
STRIDE, BIAS = 4, 5.0


def make_views(images: int, height: int, width: int) -> SweepViews:
    """Cameras that moved, each otherwise: some depths lie behind them, some outside of their view."""
    generator = torch.Generator().manual_seed(images)
    v, u = torch.meshgrid(
        torch.linspace(0, height * STRIDE - 1, height), torch.linspace(0, width * STRIDE - 1, width), indexing="ij"
    )
    focal = 1.5 * width
    intrinsics = torch.tensor([[focal, 0, 2 * width], [0, focal * 1.1, 2 * height], [0, 0, 1]]).repeat(images, 1, 1)
    turn = torch.eye(3) + 0.05 * torch.randn(images, 3, 3, generator=generator)
    translation = torch.randn(images, 3, generator=generator) * torch.tensor([0.3, 0.1, 1.0])
    image_aug = torch.eye(3) + 0.02 * torch.randn(images, 3, 3, generator=generator)
    return SweepViews(
        torch.stack([u, v]).expand(images, -1, -1, -1).contiguous(),
        turn @ torch.linalg.inv(intrinsics),
        translation,
        intrinsics,
        image_aug,
    )


def make_features(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    current, previous = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    previous[previous.abs() < 0.05] = 0  # read as nothing, where it is the judged channel that a position falls on
    return current, previous


def oracle_position(views: SweepViews, image: int, u: float, v: float, depth: float, size: tuple[int, int]) -> tuple:
    """x, y, z in numpy's float32, one operation at a time."""
    f = np.float32
    m, t, k, a = (
        getattr(views, name)[image].numpy() for name in ("pixel_to_previous", "translation", "intrinsics", "image_aug")
    )
    u, v, depth = f(u) * f(depth), f(v) * f(depth), f(depth)
    x, y, z = (m[i, 0] * u + m[i, 1] * v + m[i, 2] * depth + t[i] for i in range(3))
    u, v = ((k[i, 0] * x + k[i, 1] * y + k[i, 2] * z) / z for i in range(2))
    seen = [a[i, 0] * u + a[i, 1] * v + a[i, 2] for i in range(2)]
    x, y = (
        (p / f(size[1 - i] * STRIDE - 1) * f(2) - f(1) + f(1)) * f((size[1 - i] - 1) / 2) for i, p in enumerate(seen)
    )
    return x, y, z


def oracle(current: Tensor, previous: Tensor, views: SweepViews, depths: Tensor, bias: float) -> Tensor:
    """(M, D, H, W) float64, one pixel and one depth at a time."""
    images, channels, height, width = current.shape
    own, other = current.double().numpy(), previous.double().numpy()
    costs = np.zeros((images, len(depths), height, width))
    with np.errstate(all="ignore"):
        for m, d, i, j in np.ndindex(*costs.shape):
            u, v = views.pixels[m, :, i, j].tolist()
            x, y, z = oracle_position(views, m, u, v, float(depths[d]), (height, width))
            warped = np.zeros(channels)
            if z >= np.float32(1e-3) and -1 < x < width and -1 < y < height:
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            weight = (1 - abs(float(x) - column)) * (1 - abs(float(y) - row))
                            warped += weight * other[m, :, row, column]
            costs[m, d, i, j] = np.abs(own[m, :, i, j] - warped).sum() + bias * (warped[-4] == 0)
    return torch.from_numpy(costs)


def published_cost(current: Tensor, previous: Tensor, views: SweepViews, depths: Tensor, bias: float) -> Tensor:
    """(M, D, H, W) float32, rounded after every operation of the published code as PyTorch 1.13.1 runs it on a CPU."""
    images, channels, height, width = current.shape
    own, other = current.numpy(), np.pad(previous.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    costs = np.zeros((images, len(depths), height, width), np.float32)
    for m, d, i, j in np.ndindex(*costs.shape):
        x, y, z = oracle_position(views, m, *views.pixels[m, :, i, j].tolist(), float(depths[d]), (height, width))
        warped = np.zeros(channels, np.float32)
        if z >= np.float32(1e-3) and -1 < x < width and -1 < y < height:
            left, top = math.floor(x), math.floor(y)
            right_weight, bottom_weight = x - np.float32(left), y - np.float32(top)
            for row, row_weight in ((top, np.float32(1) - bottom_weight), (top + 1, bottom_weight)):
                for column, weight in ((left, np.float32(1) - right_weight), (left + 1, right_weight)):
                    product = np.multiply(weight * row_weight, other[m, :, row + 1, column + 1], dtype=np.float64)
                    warped = (product + warped).astype(np.float32)  # fused: rounded once
        for a, b, c, e in np.abs(own[m, :, i, j] - warped).reshape(-1, 4):
            costs[m, d, i, j] += ((a + b) + c) + e
        costs[m, d, i, j] += np.float32(bias) * (warped[-4] == 0)
    return torch.from_numpy(costs)


def cpu_fuses() -> bool:
    """Every processor with AVX2 has fused operations, too; kernels shipped in a wheel do not use them."""
    path = kernel_status()[0].path
    return torch.backends.cpu.get_cpu_capability().startswith("AVX") and (path is None or path.parent.name != "_lib")


def on(device: str, views: SweepViews) -> SweepViews:
    return SweepViews(*(getattr(views, field.name).to(device) for field in fields(views)))


CASES = {
    "four channels": (1, 4, 5, 7),
    "channels that fill no vector": (2, 20, 4, 6),
    "one run and a rest": (1, 76, 3, 5),
    "several walks of a group": (1, 300, 2, 3),
    "one row": (2, 8, 1, 9),
    "one column": (2, 8, 9, 1),
    "more pixels than a tile": (1, 8, 9, 17),
}


@pytest.mark.parametrize("shape", list(CASES.values()), ids=list(CASES))
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_it_is_the_rule(check_close, device, shape, dtype) -> None:
    (current, previous), views = make_features(*shape, dtype=dtype), make_views(shape[0], *shape[2:])
    want = oracle(current, previous, views, DEPTHS, BIAS)
    arguments = (current.to(device), previous.to(device), on(device, views), DEPTHS.to(device), STRIDE, BIAS)
    got = matching_cost(*arguments)
    assert got.dtype == torch.float32
    check_close(got, want, 4e-6 * float(want.max()))
    check_close(matching_probability(*arguments), (-got.double()).softmax(1), 1e-6)


@pytest.mark.parametrize("shape", list(CASES.values()), ids=list(CASES))
def test_it_rounds_as_published_on_a_cpu(check_close, shape) -> None:
    """The softmax over depths is sharp: the last bits of a cost are a per mille of gradients."""
    if not cpu_fuses():
        pytest.skip("without fused operations the products of the four pixels round otherwise")
    features, views = make_features(*shape), make_views(shape[0], *shape[2:])
    want = published_cost(*features, views, DEPTHS, BIAS)
    check_close(matching_cost(*features, views, DEPTHS, STRIDE, BIAS), want)
    cameras = [getattr(views, field.name) for field in fields(views)]
    check_close(reference_sweep.matching_cost(*features, *cameras, DEPTHS, STRIDE, BIAS, False), want)


def test_the_cases_see_something_and_nothing() -> None:
    """Without that the comparisons above would be about less than they say."""
    views = make_views(2, 9, 17)
    seen = matching_cost(torch.zeros(2, 4, 9, 17), torch.ones(2, 4, 9, 17), views, DEPTHS, STRIDE, 0.0)
    for share in ((seen == 0), (seen > 0) & (seen < 3.99), seen > 3.99):  # outside, at the border, inside
        assert share.float().mean() > 0.02


def test_memory_formats_give_the_same_bits(check_close, device) -> None:
    views = on(device, make_views(2, 5, 7))
    current, previous = (t.to(device) for t in make_features(2, 32, 5, 7))
    want = matching_cost(current, previous, views, DEPTHS.to(device), STRIDE, BIAS)
    last = [t.contiguous(memory_format=torch.channels_last) for t in (current, previous)]
    strided = [torch.stack([t, t], dim=-1)[..., 0] for t in (current, previous)]
    for features in (last, (last[0], previous), (current, last[1]), strided):
        check_close(matching_cost(*features, views, DEPTHS.to(device), STRIDE, BIAS), want)


def test_half_precision_is_compared_in_float32(check_close, device) -> None:
    views = on(device, make_views(1, 5, 7))
    for dtype in (torch.float16, torch.bfloat16):
        features = [t.to(device) for t in make_features(1, 32, 5, 7, dtype=dtype)]
        want = matching_cost(*(t.float() for t in features), views, DEPTHS.to(device), STRIDE, BIAS)
        check_close(matching_cost(*features, views, DEPTHS.to(device), STRIDE, BIAS), want, 1e-5)


def test_positions_exactly_on_a_pixel_read_only_it(check_close, device) -> None:
    """A camera that stood still finds every feature where it was: at 35 / 8 and 19 / 4 pixels apart, nothing rounds."""
    v, u = torch.meshgrid(torch.arange(5) * 19 / 4, torch.arange(9) * 35 / 8, indexing="ij")
    same = torch.eye(3)[None]
    still = SweepViews(torch.stack([u, v])[None], same, torch.zeros(1, 3), same, same)
    features = make_features(1, 8, 5, 9)[0].to(device)
    depths = torch.tensor([1.0, 2.0, 4.0], device=device)
    costs = matching_cost(features, features, on(device, still), depths, STRIDE, 0.0)
    check_close(costs, torch.zeros(1, 3, 5, 9))


def test_what_is_no_number_sees_nothing(device) -> None:
    views = make_views(1, 3, 4)
    broken = replace(views, pixels=torch.full_like(views.pixels, math.nan))
    features = torch.ones(1, 4, 3, 4, device=device)
    costs = matching_cost(features, features, on(device, broken), DEPTHS.to(device), STRIDE, BIAS)
    assert (costs == 4 + BIAS).all()


@pytest.mark.parametrize("shape", [(0, 8, 3, 4), (2, 8, 0, 4), (2, 8, 3, 0)], ids=str)
def test_without_pixels(device, shape) -> None:
    features = torch.zeros(shape, device=device)
    views = SweepViews(
        torch.zeros(shape[0], 2, *shape[2:], device=device),
        *(torch.zeros(shape[0], *rest, device=device) for rest in ((3, 3), (3,), (3, 3), (3, 3))),
    )
    got = matching_probability(features, features, views, DEPTHS.to(device), STRIDE, BIAS)
    assert got.shape == (shape[0], len(DEPTHS), *shape[2:])


def test_without_depths(device) -> None:
    features = torch.zeros(1, 4, 3, 4, device=device)
    got = matching_cost(features, features, on(device, make_views(1, 3, 4)), DEPTHS[:0].to(device), STRIDE, BIAS)
    assert got.shape == (1, 0, 3, 4)


@pytest.mark.parametrize("chunk", [30, 100, 1 << 12])
def test_pieces_of_any_size_of_the_reference_give_the_same(monkeypatch, check_close, chunk) -> None:
    features, views = make_features(2, 8, 5, 7), make_views(2, 5, 7)
    cameras = [getattr(views, field.name) for field in fields(views)]
    whole = reference_sweep.matching_cost(*features, *cameras, DEPTHS, STRIDE, BIAS, False)
    check_close(matching_cost(*features, views, DEPTHS, STRIDE, BIAS), whole, 4e-6 * float(whole.max()))
    monkeypatch.setattr(reference_sweep, "_POSITIONS", {True: chunk})
    monkeypatch.setattr(reference_sweep, "_WARPED", {True: 3 * chunk})
    check_close(reference_sweep.matching_cost(*features, *cameras, DEPTHS, STRIDE, BIAS, False), whole, 1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc, which is Linux's")
def test_memory_stays_far_below_the_warped_volume() -> None:
    """The published way holds four channels at every depth, twice, beside positions: here one map and the result."""
    output = subprocess.run([sys.executable, "-c", MEMORY_SCRIPT], capture_output=True, text=True, check=True).stdout
    extra, features, result = (int(word) for word in output.split())
    assert extra < features + result + (16 << 20)


MEMORY_SCRIPT = """
import resource, torch
from bev_ops import SweepViews, matching_probability
def run(features):
    m, _, h, w = features.shape
    same = torch.eye(3).repeat(m, 1, 1)
    views = SweepViews(torch.rand(m, 2, h, w) * 80, same, torch.rand(m, 3), same, same)
    return matching_probability(features, features, views, torch.linspace(1, 60, 59), 4, 5.0)
run(torch.randn(1, 64, 8, 8))
features = torch.randn(2, 64, 96, 96)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = run(features)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, features[0].nbytes, out.nbytes)
"""

SCRIPT = """
import sys, torch
from bev_ops import SweepViews, matching_probability
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)
same = torch.eye(3).repeat(2, 1, 1)
views = SweepViews(torch.rand(2, 2, 20, 30) * 80, same, torch.rand(2, 3), same, same)
out = matching_probability(torch.randn(2, 100, 20, 30), torch.randn(2, 100, 20, 30), views, torch.rand(21), 4, 5.0)
print(out.view(torch.int32).sum().item(), out.view(torch.int32).double().square().sum().item())
"""


def test_equal_bits_for_any_number_of_threads() -> None:
    outputs = {
        subprocess.run([sys.executable, "-c", SCRIPT, str(n)], capture_output=True, text=True, check=True).stdout
        for n in (1, 2, 3)
    }
    assert len(outputs) == 1


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="vectors have one width here")
def test_equal_bits_for_vectors_of_any_width(tmp_path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {_build.find_cxx()} "$@" -march=x86-64-v3\n')  # the last -march counts
    compiler.chmod(0o755)
    narrow = {**os.environ, "CXX": str(compiler), "BEV_OPS_CACHE": str(tmp_path)}
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT, "1"], env=environment, capture_output=True, text=True, check=True
        ).stdout
        for environment in (narrow, dict(os.environ))
    }
    assert len(outputs) == 1


def test_opcheck_and_compile(check_close, device) -> None:
    features = [t.to(device) for t in make_features(2, 8, 4, 6)]
    views = on(device, make_views(2, 4, 6))
    cameras = [getattr(views, field.name) for field in fields(views)]
    arguments = (*features, *cameras, DEPTHS.to(device), STRIDE, BIAS, True)
    torch.library.opcheck(torch.ops.bev_ops.matching_cost, arguments)

    def body(current: Tensor, previous: Tensor) -> Tensor:
        return matching_cost(current, previous, views, DEPTHS.to(device), STRIDE, BIAS) * 2

    compiled = torch.compile(body, fullgraph=True, backend="aot_eager")
    check_close(compiled(*features), body(*features))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"previous": (1, 8, 4, 5)}, r"both \(M, C, H, W\), got \(1, 8, 4, 6\) and \(1, 8, 4, 5\)"),
        ({"current": (1, 6, 4, 6), "previous": (1, 6, 4, 6)}, "channels in multiples of 4, got 6"),
        ({"current": (1, 0, 4, 6), "previous": (1, 0, 4, 6)}, "channels in multiples of 4, got 0"),
        ({"pixels": (1, 2, 4, 5)}, r"wants pixels \(1, 2, 4, 6\) float32 on cpu, got \(1, 2, 4, 5\)"),
        ({"translation": (1, 4)}, r"wants translation \(1, 3\)"),
        ({"depths": (2, 2)}, r"wants depths \(D,\) and a positive stride, got \(2, 2\), 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed, message) -> None:
    shapes = {"current": (1, 8, 4, 6), "previous": (1, 8, 4, 6), "depths": (9,), **changed}
    current, previous, depths = (torch.zeros(shapes[name]) for name in ("current", "previous", "depths"))
    of_views = {field.name for field in fields(SweepViews)}
    views = replace(make_views(1, 4, 6), **{k: torch.zeros(v) for k, v in changed.items() if k in of_views})
    with pytest.raises(ValueError, match=message):
        matching_cost(current, previous, views, depths, STRIDE, BIAS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32], ids=str)
def test_types_that_do_not_fit_are_refused(dtype) -> None:
    features = torch.zeros(1, 8, 4, 6, dtype=dtype)
    with pytest.raises(ValueError, match="takes float16, bfloat16 or float32 features"):
        matching_cost(features, features, make_views(1, 4, 6), DEPTHS, STRIDE, BIAS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: stereo matching was not tested on one")
def test_the_kernel_is_compiled_on_a_gpu() -> None:
    assert _kernels.load("cuda"), str(_kernels.kernel_status()[1])
    assert torch._C._dispatch_has_kernel_for_dispatch_key("bev_ops::matching_cost", "CUDA")


# ---- the CUDA source, run on the CPU ----


class Sizes(ctypes.Structure):
    """SweepSizes of emulate_sweep.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("images", "channels", "height", "width", "depths", "stride")),
        ("bias", ctypes.c_double),
        ("current_as_rows", ctypes.c_int64),
        ("probability", ctypes.c_int64),
    ]


@pytest.fixture(scope="module")
def emulator(emulation: Callable[[str], ctypes.CDLL]) -> ctypes.CDLL:
    return emulation("emulate_sweep.cpp")


def emulated(
    emulator: ctypes.CDLL, current: Tensor, previous: Tensor, views: SweepViews, order: str, probability: bool = False
) -> Tensor:
    images, channels, height, width = current.shape
    out = torch.full((images, len(DEPTHS), height, width), math.nan)
    as_rows = not current.is_contiguous()
    sizes = Sizes(images, channels, height, width, len(DEPTHS), STRIDE, BIAS, as_rows, probability)
    tensors = (current, previous, *(getattr(views, field.name) for field in fields(views)), DEPTHS, out)
    addresses = (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
    emulator.emulate_matching.restype = ctypes.c_char_p
    fault = emulator.emulate_matching(ORDERS[order], DTYPES[current.dtype], ctypes.byref(sizes), addresses)
    assert not fault, fault.decode()
    return out


@pytest.mark.parametrize("shape", list(CASES.values()), ids=list(CASES))
@pytest.mark.parametrize("dtype", list(DTYPES), ids=str)
def test_the_cuda_source_is_the_rule(emulator, check_close, shape, dtype) -> None:
    (current, previous), views = make_features(*shape, dtype=dtype), make_views(shape[0], *shape[2:])
    want = oracle(current, previous, views, DEPTHS, BIAS)
    got = emulated(emulator, current, previous, views, "forward")
    check_close(got, want, 4e-6 * float(want.max()))
    softened = emulated(emulator, current, previous, views, "forward", probability=True)
    check_close(softened, (-got.double()).softmax(1), 1e-6)


@pytest.mark.parametrize("order", ["backward", "random"])
@pytest.mark.parametrize("channels", [4, 20, 132, 300])
def test_no_result_depends_on_the_order_of_threads(emulator, check_close, order, channels) -> None:
    features, views = make_features(2, channels, 3, 5), make_views(2, 3, 5)
    want = emulated(emulator, *features, views, "forward", probability=True)
    check_close(emulated(emulator, *features, views, order, probability=True), want)


def test_the_cuda_source_reads_rows_of_channels(emulator, check_close) -> None:
    (current, previous), views = make_features(2, 24, 3, 5), make_views(2, 3, 5)
    want = emulated(emulator, current, previous, views, "forward")
    last = current.contiguous(memory_format=torch.channels_last)
    check_close(emulated(emulator, last, previous, views, "forward"), want)
