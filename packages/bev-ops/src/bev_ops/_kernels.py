"""Finds, compiles and loads the compiled kernels of a device, once per process.

A library shipped in the wheel comes first, then one compiled on first use into a cache. Where neither can be had the
plain-PyTorch path runs: the reason is kept for ``kernel_status`` and warned about once.

Environment: BEV_OPS_KERNELS=auto (default) or off (plain PyTorch only); BEV_OPS_CACHE, the folder of compiled kernels.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _build

_log = logging.getLogger("bev_ops")
_lock = threading.RLock()
_SHIPPED = Path(__file__).resolve().parent / "_lib"


@dataclass(frozen=True)
class KernelStatus:
    """State of the compiled kernels of one device type."""

    device: str  # "cpu" or "cuda"
    loaded: bool  # False: plain PyTorch runs, or nothing was asked for yet
    path: Path | None  # the library that is, or would be, loaded
    reason: str  # why it is so, for people

    def __str__(self) -> str:
        return f"{self.device}: {'compiled kernels' if self.loaded else 'plain PyTorch'} ({self.reason})"


_status: dict[str, KernelStatus] = {}


def kernel_status(load_now: bool = False) -> tuple[KernelStatus, ...]:
    """What runs on the CPU and on CUDA devices, and why.

    Kernels are loaded, and if need be compiled, when an operator first runs on a device; until then the status says
    what would happen, as far as that can be said without compiling.

    Args:
        load_now: load, and if need be compile, the kernels of the devices this machine has.
    """
    if load_now:
        for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
            load(device)
    return tuple(_status.get(device) or _forecast(device) for device in _build.DEVICES)


def load(device: str) -> bool:
    """Whether compiled kernels of a device type are loaded; the first call loads or compiles them."""
    status = _status.get(device)
    if status is None:
        with _lock:
            status = _status.get(device) or _load(device)
            _status[device] = status
    return status.loaded


def _load(device: str) -> KernelStatus:
    excuse = _excuse(device)
    if excuse:
        return KernelStatus(device, False, None, excuse)
    failures = []
    for find in (_shipped_library, _compiled_library):
        try:
            path, origin = find(device)
            if path is not None:
                torch.ops.load_library(str(path))
                return KernelStatus(device, True, path, origin)
        except (OSError, _build.BuildError) as error:
            failures.append(str(error))
    reason = "; ".join(failures)
    warnings.warn(
        f"bev_ops runs its plain-PyTorch path on {device} (same numbers, slower), because its kernels could not be "
        f"loaded: {reason}",
        RuntimeWarning,
        stacklevel=2,
    )
    return KernelStatus(device, False, None, reason)


def _excuse(device: str) -> str:
    """Why no kernels are wanted, or an empty string."""
    mode = os.environ.get("BEV_OPS_KERNELS", "auto")
    if mode not in ("auto", "off"):
        raise ValueError(f"BEV_OPS_KERNELS must be auto or off, got {mode!r}")
    if mode == "off":
        return "switched off by BEV_OPS_KERNELS=off"
    if device not in _build.DEVICES:
        return f"there are no kernels for {device} devices"
    if device == "cuda" and torch.version.cuda is None:
        return "this PyTorch is not built for CUDA"
    return ""


def _shipped_library(device: str) -> tuple[Path | None, str]:
    path = _SHIPPED / f"bev_ops_{device}.so"
    return (path if path.exists() else None), "shipped in the wheel"


def _compiled_library(device: str) -> tuple[Path, str]:
    recipe = _recipe(device)
    path = _build.cached_library(recipe)
    if path.exists():
        return path, "compiled earlier"
    _log.warning("bev_ops: compiling the %s kernels into %s (once, about half a minute)", device, path.parent)
    return _build.compile_into_cache(recipe), "compiled on first use"


def _recipe(device: str) -> _build.Recipe:
    return _build.make_recipe(device, native=True, cuda_archs=_cuda_archs() if device == "cuda" else ())


def _cuda_archs() -> tuple[str, ...]:
    capabilities = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return tuple(f"{major}.{minor}" for major, minor in sorted(capabilities))


def _forecast(device: str) -> KernelStatus:
    excuse = _excuse(device)
    if not excuse and device == "cuda" and not torch.cuda.is_available():
        excuse = "no CUDA device here"
    if excuse:
        return KernelStatus(device, False, None, excuse)
    shipped, origin = _shipped_library(device)
    if shipped is not None:
        return KernelStatus(device, False, shipped, f"not used yet; {origin}")
    try:
        path = _build.cached_library(_recipe(device))
    except _build.BuildError as error:
        return KernelStatus(device, False, None, str(error))
    state = "compiled earlier" if path.exists() else "will be compiled on first use"
    return KernelStatus(device, False, path, f"not used yet; {state}")
