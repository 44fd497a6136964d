"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bev_ops import kernel_status

__all__ = ["Machine", "this_machine"]

_LIBRARIES = (
    *("numpy", "timm", "pillow", "triton", "onnxruntime", "onnxruntime-gpu", "tensorrt"),
    *("bev-ops", "bev-backbones", "bev-lss", "bev-temporal", "bev-heads", "bev-nuscenes", "bev-zoo", "bev-deploy"),
    "bev-bench",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Hardware and software behind a report.

    Attributes:
        cpu: model name.
        cores: logical processors this process may use.
        threads: compute threads of PyTorch.
        memory_gib: of the host.
        gpu: name; None if the report is about the CPU.
        gpu_memory_gib: of that GPU.
        driver: of the GPU.
        system: operating system.
        python, torch, cuda, cudnn: versions; the last two as PyTorch was built.
        libraries: other versions, ``name version``.
        kernels: what ran bev_ops on each kind of device; empty if nothing did.
        load: processes that wanted a core during the last minute, on average, this one included.
        date: UTC.
    """

    cpu: str
    cores: int
    threads: int
    memory_gib: float | None
    gpu: str | None
    gpu_memory_gib: float | None
    driver: str | None
    system: str
    python: str
    torch: str
    cuda: str | None
    cudnn: str | None
    libraries: tuple[str, ...]
    kernels: tuple[str, ...]
    load: float | None
    date: str

    @property
    def hardware(self) -> str:
        """What must be equal for two reports to be comparable."""
        gpu = "" if self.gpu is None else f", {self.gpu} ({self.gpu_memory_gib:.0f} GiB)"
        return f"{self.cpu} ({self.cores} cores){gpu}"

    def lines(self) -> tuple[str, ...]:
        """For people."""
        load = "" if self.load is None else f", load {self.load:.1f}"
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.0f} GiB"
        gpu = () if self.gpu is None else (f"driver {self.driver}, CUDA {self.cuda}, cuDNN {self.cudnn}",)
        return (
            f"{self.hardware}{memory}, {self.threads} threads{load}",
            *gpu,
            f"{self.system}, Python {self.python}, PyTorch {self.torch}, {', '.join(self.libraries)}",
            *(f"bev_ops on {line}" for line in self.kernels),
            self.date,
        )


def this_machine(device: torch.device) -> Machine:
    """The machine as it is now, for a report about a device."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return Machine(
        cpu=_cpu_name(),
        cores=_usable_cores(),
        threads=torch.get_num_threads(),
        memory_gib=_memory_gib(),
        gpu=None if gpu is None else gpu.name,
        gpu_memory_gib=None if gpu is None else round(gpu.total_memory / 2**30, 1),
        driver=None if gpu is None else _driver(),
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=str(torch.backends.cudnn.version()) if gpu is not None else None,
        libraries=tuple(f"{name} {found}" for name in _LIBRARIES if (found := _version(name))),
        kernels=tuple(_kernels(device)),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _kernels(device: torch.device) -> list[str]:
    """What ran, without the paths, which say nothing about another machine."""
    wanted = {"cpu", device.type}
    return [
        f"{status.device}: {'compiled kernels' if status.loaded else 'plain PyTorch'}"
        for status in kernel_status()
        if status.device in wanted and not status.reason.startswith("not used")
    ]


def _cpu_name() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _driver() -> str | None:
    try:
        found = re.search(r"(\d+\.\d+(\.\d+)?)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found.group(1) if found else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
