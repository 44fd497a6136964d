"""The plugin's kernel: its source on the CPU thread by thread, the shipped PTX, and on a GPU the PTX itself."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bev_deploy.pooling import pool_by_plugin, pool_by_tables
from bev_deploy.tables import PoolTables, pool_tables
from bev_deploy.tensorrt.kernel import KERNELS, blocks_of, pool_on_gpu, pool_ptx, sizes_of
from bev_ops import BevGrid, PoolPlan

ROOT = Path(__file__).resolve().parents[3]
EMULATOR = ROOT / "packages" / "bev-ops" / "tests" / "emulation"
FLAT = BevGrid(x=(-8.0, 8.0, 1.0), y=(-6.0, 6.0, 1.0), z=(-5.0, 3.0, 8.0))
TALL = BevGrid(x=(-4.0, 4.0, 2.0), y=(-4.0, 4.0, 2.0), z=(-4.0, 4.0, 1.0))
SHAPE = (2, 2, 5, 6, 4)  # B, N, D, h, w

# How far points spread, and the grid: from one cell that takes all (every level of sums) to cells with few points.
CASES = {"all in one cell": (0.0, FLAT), "many in a cell": (4.0, TALL), "few in a cell": (14.0, FLAT)}
DTYPES = [torch.float32, torch.float16]


def some_inputs(case: str, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, PoolTables, BevGrid]:
    spread, grid = CASES[case]
    generator = torch.Generator().manual_seed(0)
    b, n, d, h, w = SHAPE
    column = spread * (torch.rand(b, n, d, 1, w, 3, generator=generator) - 0.5)
    points = column + 0.4 * torch.rand(b, n, d, h, w, 3, generator=generator)
    tables = pool_tables(PoolPlan.from_points(points, grid))
    depth = torch.rand(SHAPE, generator=generator).to(dtype)
    context = torch.randn(b, n, channels, h, w, generator=generator).to(dtype)
    return depth, context, tables.padded(tables.bounds.scaled(1.5)), grid


def assert_same_sums(got: Tensor, depth: Tensor, context: Tensor, tables: PoolTables, grid: BevGrid) -> None:
    """Float32 sums in another order, rounded once to the type."""
    want = pool_by_tables(depth.float(), context.float(), tables, grid).movedim(1, -1)
    limit = want.abs().max().item() * (torch.finfo(got.dtype).eps + 64 * torch.finfo(torch.float32).eps)
    assert (got.float() - want).abs().max().item() <= limit


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> ctypes._CFuncPtr:
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None or not EMULATOR.is_dir():
        pytest.skip("needs a C++ compiler and the emulator of bev-ops' tests")
    target = tmp_path_factory.mktemp("emulation") / "pool_tables.so"
    csrc = ROOT / "packages" / "bev-deploy" / "src" / "bev_deploy" / "tensorrt" / "csrc"
    torch_include = Path(importlib.util.find_spec("torch").origin).parent / "include"
    includes = ["-I", str(EMULATOR), "-I", str(csrc), "-isystem", str(torch_include)]
    source = Path(__file__).parent / "emulation" / "emulate_pool_tables.cpp"
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *includes, str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(target)).emulate_pool_tables
    function.restype = ctypes.c_char_p
    return function


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [1, 33, 130])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_source_pools_in_every_order_of_threads(emulate, case, channels, dtype, order) -> None:
    depth, context, tables, grid = some_inputs(case, channels, dtype)
    columns = context.permute(0, 1, 4, 3, 2).contiguous()
    inputs = [depth, columns, *(t.contiguous() for t in tables)]
    shapes = [t.shape for t in inputs]
    x, y, z = grid.size
    cells = torch.full((len(depth), z, y, x, channels), float("nan"), dtype=dtype)
    pointers = (ctypes.c_void_p * len(inputs))(*(t.data_ptr() for t in inputs))
    sizes = (ctypes.c_int * 10)(*sizes_of(shapes))
    half = ctypes.c_bool(dtype == torch.float16)
    fault = emulate(order, half, pointers, sizes, *blocks_of(shapes), ctypes.c_void_p(cells.data_ptr()))
    assert not fault, fault.decode()
    assert_same_sums(cells, depth, context, tables, grid)


@pytest.mark.parametrize("case", CASES)
def test_the_operator_pools_like_the_tables(case: str) -> None:
    depth, context, tables, grid = some_inputs(case, 7, torch.float32)
    assert torch.equal(pool_by_plugin(depth, context, tables, grid), pool_by_tables(depth, context, tables, grid))


def test_the_operator_is_a_proper_one() -> None:
    depth, context, tables, grid = some_inputs("few in a cell", 7, torch.float32)
    columns = context.permute(0, 1, 4, 3, 2).contiguous()
    torch.library.opcheck(torch.ops.bev_deploy.bev_pool.default, (depth, columns, *tables, *grid.size))


def test_the_shipped_ptx_is_made_from_the_sources() -> None:
    tool = ROOT / "tools" / "compile_pool_ptx.py"
    if not tool.is_file():
        pytest.skip("needs the repository's tools")
    compiler = runpy.run_path(str(tool))
    ptx = pool_ptx()
    assert ptx.startswith(compiler["header"]()), "run tools/compile_pool_ptx.py"
    assert all(f".entry {name}(" in ptx for name in KERNELS.values())
    assert f".version {compiler['PTX_VERSION']}" in ptx and f".target sm_{compiler['ARCHITECTURE']}" in ptx


def test_the_ptx_takes_what_the_wrapper_passes() -> None:
    ptx = pool_ptx()
    parameters = ptx[ptx.index(".entry bev_pool_float32(") :].split(")")[0].split(",")
    kinds = [".u64" if ".u64" in parameter else ".u32" for parameter in parameters]
    assert kinds == [".u64"] * 10 + [".u32"] * 10 + [".u64"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda depth, columns: (depth.double(), columns.double()), "must both be one of"),
        (lambda depth, columns: (depth, columns.half()), "must both be one of"),
        (lambda depth, columns: (depth, columns), "one CUDA device"),
    ],
)
def test_inputs_that_there_is_no_kernel_for(change, error: str) -> None:
    depth, context, tables, grid = some_inputs("few in a cell", 7, torch.float32)
    with pytest.raises(ValueError, match=error):
        pool_on_gpu(*change(depth, context.permute(0, 1, 4, 3, 2)), tables, grid.size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_ptx_pools_on_the_gpu() -> None:
    for case, channels, dtype in itertools.product(CASES, (1, 33, 80, 130), DTYPES):
        depth, context, tables, grid = some_inputs(case, channels, dtype)
        columns = context.permute(0, 1, 4, 3, 2)
        got = pool_on_gpu(depth.cuda(), columns.cuda(), PoolTables(*(t.cuda() for t in tables)), grid.size)
        assert_same_sums(got.cpu(), depth, context, tables, grid)
