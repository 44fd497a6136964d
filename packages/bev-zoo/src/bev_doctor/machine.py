"""Processor, memory, disks, GPUs, and the kernels compiled for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .finding import Finding, State

__all__ = ["check_gpus", "check_kernels", "check_machine"]

_GIB = 2**30
_SMALL_SHARED_MEMORY = 1 * _GIB  # a batch of a temporal system is 0.1 to 0.5 GiB, and several wait
_SMALL_DISK = 5 * _GIB


def check_machine(folder: Path = Path()) -> list[Finding]:
    """Cores, memory, what data workers hand batches over in, and room where runs are written."""
    topic, cores = "machine", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory()
    findings = [
        Finding(topic, State.OK, f"{cores} CPU cores{'' if memory is None else f', {memory / _GIB:.0f} GiB memory'}")
    ]
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        what = f"{size / _GIB:.1f} GiB of shared memory in {shared}"
        advice = "data workers hand batches over there: docker run --shm-size=8g, or --workers 0"
        small = size < _SMALL_SHARED_MEMORY
        findings.append(Finding(topic, State.PROBLEM if small else State.OK, what, advice if small else ""))
    free = shutil.disk_usage(folder).free
    what = f"{free / _GIB:.0f} GiB free in {folder.resolve()}"
    full = free < _SMALL_DISK
    findings.append(
        Finding(topic, State.NOTE if full else State.OK, what, "a run of a large system wants 5 GiB" if full else "")
    )
    return findings


def check_gpus() -> list[Finding]:
    """What PyTorch sees, and whether it was built for it."""
    topic = "GPU"
    try:
        import torch
    except Exception:
        return [Finding(topic, State.PROBLEM, "not looked at: torch cannot be imported", "see software")]
    driver = _driver()
    if torch.cuda.is_available():
        return [_gpu(topic, index) for index in range(torch.cuda.device_count())]
    if driver is None:
        return [Finding(topic, State.OK, "none here: everything runs on the CPU")]
    if torch.version.cuda is None:
        what, advice = (
            "there is one, but this PyTorch is built without CUDA",
            "pip install torch from PyPI, not the cpu index",
        )
    else:
        what = f"there is one (driver {driver}), but PyTorch for CUDA {torch.version.cuda} cannot use it"
        advice = "update the driver, install a PyTorch for an older CUDA, or look at CUDA_VISIBLE_DEVICES"
    return [Finding(topic, State.PROBLEM, what, advice)]


def _gpu(topic: str, index: int) -> Finding:
    import torch

    properties = torch.cuda.get_device_properties(index)
    what = (
        f"{index}: {properties.name}, {properties.total_memory / _GIB:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}, PyTorch for CUDA {torch.version.cuda}"
    )
    try:
        torch.ones(1, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        return Finding(topic, State.PROBLEM, f"{what}: {first}", "install a PyTorch whose CUDA knows this GPU")
    return Finding(topic, State.OK, what)


def check_kernels(*, load: bool) -> list[Finding]:
    """What the operators run on; ``load``: load the kernels, and compile them if need be."""
    topic = "kernels"
    try:
        import torch

        from bev_ops import kernel_status
    except Exception as error:
        return [Finding(topic, State.PROBLEM, f"not looked at: {type(error).__name__}: {error}", "see software")]
    findings = []
    for status in kernel_status(load_now=load):
        if status.device == "cuda" and not torch.cuda.is_available():
            continue
        # Compiled on first use is fine; a path that no compiler can fill is not.
        works = status.loaded or (status.path is not None and not load)
        advice = (
            ""
            if works
            else "the same numbers, slower. Install a C++ compiler and ninja (for a GPU also nvcc), then run this again"
        )
        findings.append(Finding(topic, State.OK if works else State.NOTE, str(status), advice))
    return findings


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _driver() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return "that does not answer"
    return done.stdout.split("\n")[0].strip() if done.returncode == 0 and done.stdout.strip() else None
