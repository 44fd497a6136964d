"""Which packages are there, and whether they can be imported together."""

from __future__ import annotations

import importlib
import platform
import re
from importlib import metadata
from typing import NamedTuple

from .finding import Finding, State

__all__ = ["check_software"]

TOPIC = "software"


class _Wanted(NamedTuple):
    module: str
    distribution: str
    at_least: str  # empty: any
    needed_by: str  # empty: by everything
    install: str


_WANTED = (
    _Wanted("torch", "torch", "2.11", "", "pip install --upgrade torch torchvision"),
    _Wanted("torchvision", "torchvision", "", "", "pip install --upgrade torch torchvision (both from one index)"),
    _Wanted("timm", "timm", "1.0.15", "", "pip install --upgrade timm"),
    _Wanted("numpy", "numpy", "1.23", "", "pip install --upgrade numpy"),
    _Wanted("PIL", "pillow", "10", "", "pip install --upgrade pillow"),
    _Wanted("safetensors", "safetensors", "0.4", "", "pip install --upgrade safetensors"),
    _Wanted("ninja", "ninja", "", "compiling kernels on first use", "pip install ninja"),
    _Wanted("nuscenes", "nuscenes-devkit", "1.2", "nuScenes tables and metrics", "pip install 'bev-nuscenes[devkit]'"),
    _Wanted("lightning", "lightning", "2.6", "training", "pip install bev-train"),
    _Wanted("onnx", "onnx", "1.18", "export", "pip install bev-deploy"),
    _Wanted("onnxruntime", "onnxruntime", "1.22", "running exports", "pip install bev-deploy"),
    _Wanted("tensorrt", "tensorrt", "10.12", "engines on NVIDIA GPUs", "pip install 'bev-deploy[trt]'"),
    _Wanted("open3d", "open3d", "0.19", "the interactive viewer", "pip install 'bev-vis[view]'"),
)
_OURS = ("ops", "backbones", "lss", "temporal", "heads", "nuscenes", "zoo", "deploy", "train", "eval", "bench", "vis")


def check_software() -> list[Finding]:
    """Python, the libraries we build on, and our own packages."""
    python = Finding(TOPIC, State.OK, f"Python {platform.python_version()}, {platform.platform()}")
    return [python, *map(_library, _WANTED), *_our_packages()]


def _library(wanted: _Wanted) -> Finding:
    name = wanted.distribution
    version = _version(name)
    if version is None:
        if wanted.needed_by:
            return Finding(
                TOPIC, State.NOTE, f"{name} is not installed", f"only for {wanted.needed_by}: {wanted.install}"
            )
        return Finding(TOPIC, State.PROBLEM, f"{name} is not installed", wanted.install)
    if wanted.at_least and _numbers(version) < _numbers(wanted.at_least):
        state = State.NOTE if wanted.needed_by else State.PROBLEM
        return Finding(TOPIC, state, f"{name} {version} is older than {wanted.at_least}", wanted.install)
    try:
        importlib.import_module(wanted.module)
    except Exception as error:  # whatever a broken installation raises
        what = f"{name} {version} cannot be imported: {type(error).__name__}: {_first_line(error)}"
        return Finding(TOPIC, State.PROBLEM, what, f"install it anew: {wanted.install}")
    return Finding(TOPIC, State.OK, f"{name} {version}")


def _our_packages() -> list[Finding]:
    there = {f"bev-{name}": _version(f"bev-{name}") for name in _OURS}
    installed = ", ".join(f"{name} {version}" for name, version in there.items() if version)
    findings = [Finding(TOPIC, State.OK, installed or "none of our packages is installed")]
    for name in (f"bev_{part}" for part in _OURS if there[f"bev-{part}"]):
        try:
            importlib.import_module(name)
        except Exception as error:  # as above
            what = f"{name} cannot be imported: {type(error).__name__}: {_first_line(error)}"
            findings.append(Finding(TOPIC, State.PROBLEM, what, "mend what is named above, or install it anew"))
    return findings


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """Of the release: 2.11.0+cu130 and 2.11.0rc1 are (2, 11, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release.group().split(".")) if release else ()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
