"""The pooling kernel of the plugin: its PTX, its arguments, and how to launch it without TensorRT.

The PTX is a file of the package, so that building an engine needs no CUDA compiler; ``tools/compile_pool_ptx.py`` makes
it from ``csrc``.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from bev_deploy.tables import PoolTables

__all__ = ["KERNELS", "PoolKernel", "blocks_of", "pool_on_gpu", "pool_ptx", "sizes_of"]

# By the type of weights, features and sums.
KERNELS = {"float32": "bev_pool_float32", "float16": "bev_pool_float16"}
THREADS = 256
_CELLS_PER_BLOCK = 8
_CHANNELS_PER_BLOCK = 128


@functools.cache
def pool_ptx() -> str:
    """The kernels, for compute capability 8.0 and newer."""
    return files("bev_deploy.tensorrt").joinpath("pool_tables.ptx").read_text()


def sizes_of(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    """The integers that the kernel takes after its inputs.

    Args:
        shapes: of the inputs, in order; numbers, or expressions that can be added and multiplied.
    """
    depth, columns, run_first, _, point_depth, _, sums_1, sums_2, sums_3, cell_row = shapes
    _, _, bins, rows, width = depth
    runs = math.prod(run_first[1:], start=run_first[0])
    return [bins, rows, width, columns[4], runs, point_depth[0], sums_1[0], sums_2[0], sums_3[1], cell_row[0]]


def blocks_of(shapes: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """Blocks along x and y; arguments as of :func:`sizes_of`."""
    channels, cells = shapes[1][4], shapes[-1][0]
    return (
        (cells + (_CELLS_PER_BLOCK - 1)) // _CELLS_PER_BLOCK,
        (channels + (_CHANNELS_PER_BLOCK - 1)) // _CHANNELS_PER_BLOCK,
    )


def pool_on_gpu(
    depth: Tensor,  # (B, N, D, h, w) float16 or float32, CUDA
    columns: Tensor,  # (B, N, w, h, C) the same type
    tables: PoolTables,
    size: tuple[int, int, int],
) -> Tensor:
    """What ``torch.ops.bev_deploy.bev_pool`` gives, by the plugin's kernel: (B, Z, Y, X, C).

    Args:
        depth: weights.
        columns: features.
        tables: of the calibration, on the same device.
        size: cells along x, y, z.

    Raises:
        ValueError: types that there is no kernel for, or a tensor elsewhere.
        RuntimeError: what the CUDA driver says.
    """
    inputs = [t.contiguous() for t in (depth, columns, *tables)]
    name = str(depth.dtype).removeprefix("torch.")
    if name not in KERNELS or columns.dtype != depth.dtype:
        raise ValueError(
            f"depth and columns must both be one of {', '.join(KERNELS)}, got {depth.dtype} and {columns.dtype}"
        )
    if any(t.device != depth.device or not t.is_cuda for t in inputs):
        raise ValueError(f"all inputs must be on one CUDA device, got {sorted({str(t.device) for t in inputs})}")
    x, y, z = size
    cells = columns.new_empty(len(depth), z, y, x, columns.shape[4])
    with torch.cuda.device(depth.device):
        stream = torch.cuda.current_stream().cuda_stream
        kernel = PoolKernel.on_device(name, torch.cuda.current_device())
        kernel([t.data_ptr() for t in inputs], [t.shape for t in inputs], cells.data_ptr(), stream)
    return cells


class PoolKernel:
    """One kernel, loaded by the CUDA driver into the current context.

    Args:
        name: of :data:`KERNELS`.

    Raises:
        RuntimeError: no driver, or the driver refuses the PTX.
    """

    def __init__(self, name: str) -> None:
        self._driver = _driver()
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._driver.cuModuleLoadData(ctypes.byref(self._module), pool_ptx().encode() + b"\0"))
        found = self._driver.cuModuleGetFunction(ctypes.byref(self._function), self._module, KERNELS[name].encode())
        self._check(found)

    @staticmethod
    @functools.cache
    def on_device(name: str, device: int) -> PoolKernel:
        """The kernel of a device, which must be the current one; loaded once."""
        del device  # part of the cache's key
        return PoolKernel(name)

    def __call__(self, inputs: Sequence[int], shapes: Sequence[Sequence[int]], output: int, stream: int) -> None:
        """Launch it.

        Args:
            inputs: device addresses, in order.
            shapes: of the inputs.
            output: device address.
            stream: CUDA stream.
        """
        pointers = [ctypes.c_void_p(address) for address in inputs]
        values = [*pointers, *(ctypes.c_int(int(size)) for size in sizes_of(shapes)), ctypes.c_void_p(output)]
        arguments = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        grid = [int(count) for count in blocks_of(shapes)]
        handle = ctypes.c_void_p(stream)
        self._check(self._driver.cuLaunchKernel(self._function, *grid, 1, THREADS, 1, 1, 0, handle, arguments, None))

    def _check(self, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(status, ctypes.byref(text))
            reason = text.value.decode() if text.value else f"error {status}"
            raise RuntimeError(f"the CUDA driver cannot run the pooling kernel: {reason}")


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"no CUDA driver here ({error})") from None
