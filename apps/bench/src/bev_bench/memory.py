"""How much memory a call needs beside what was there before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["working_mib"]

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"

# Parameters of mallopt (malloc.h), bytes, and the bit in front of a block that says it was mapped for itself alone.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE_BLOCK, _LARGEST_THRESHOLD = 2**18, 2**25
_FROM_SYSTEM = 2


def working_mib(run: Callable[[], object], device: torch.device) -> float | None:
    """The most memory that one call takes beyond what was taken before it, MiB; its result counts, its inputs do not.

    On a GPU: what PyTorch's allocator handed out at most. On a CPU: the high-water mark of the process's resident
    memory (``VmHWM``), which the kernel is told to forget first, after freed memory was given back to it. That counts
    everything, scratch memory of C++ code and libraries too, to within a few MiB.

    Returns:
        None where a CPU's operating system does not keep such a mark (it takes Linux).
    """
    return _gpu_mib(run, device) if device.type == "cuda" else _resident_mib(run)


def _gpu_mib(run: Callable[[], object], device: torch.device) -> float:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _resident_mib(run: Callable[[], object]) -> float | None:
    gc.collect()
    with _freed_memory_given_back():
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK)
            before = _status_mib("VmRSS")
        except OSError:
            return None
        run()
        return max(0.0, _status_mib("VmHWM") - before)


@contextmanager
def _freed_memory_given_back() -> Iterator[None]:
    """The GNU C library keeps freed blocks for later, which would hide what a call needs, or make it look like more.

    In here every block of some size comes from the system and goes back to it. Afterwards the library's thresholds are
    those that it settles on by itself once large blocks were freed.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        yield
        return
    library.malloc_trim(0)
    library.mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    taken = _large_free_blocks(library)
    try:
        yield
    finally:
        for block in taken:
            library.free(block)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


def _large_free_blocks(library: ctypes.CDLL) -> list[int]:
    """Takes, without touching them, all blocks that would serve a large request before the system is asked."""
    taken = []
    for size in (2**power for power in range(32, _LARGE_BLOCK.bit_length() - 2, -1)):
        while block := library.malloc(size):
            header = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value
            if header & _FROM_SYSTEM:
                library.free(block)
                break
            taken.append(block)
    return taken


def _status_mib(name: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 2**10
    raise OSError(f"{_STATUS} has no {name}")
