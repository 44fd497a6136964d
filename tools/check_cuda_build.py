"""Compiles and links the CUDA kernels of bev-ops without a GPU, and prints what ptxas says about each of them.

    python tools/check_cuda_build.py [--archs 8.0 9.0+PTX …] [--skip-without-nvcc]

Exits with 0 if everything compiled and linked and no kernel spills registers to memory, else with 1.
Needs torch and ninja in the running environment and nvcc on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

BUILD_FILE = Path(__file__).resolve().parents[1] / "packages" / "bev-ops" / "src" / "bev_ops" / "_build.py"


class KernelReport(NamedTuple):
    """What ptxas says about one kernel on one architecture."""

    arch: str
    name: str
    registers: int
    spilled_bytes: int
    shared_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--archs",
        nargs="+",
        default=["8.0", "8.6", "8.9", "9.0", "10.0+PTX"],
        help="compute capabilities, e.g. 8.0 9.0+PTX",
    )
    parser.add_argument("--skip-without-nvcc", action="store_true", help="succeed on a machine without nvcc")
    options = parser.parse_args(argv)
    build = _load_build()
    try:
        nvcc = build.find_nvcc()
    except build.BuildError as error:
        print(f"check_cuda_build: {error}", file=sys.stderr)
        return 0 if options.skip_without_nvcc else 1
    print(f"nvcc: {nvcc}; architectures: {' '.join(options.archs)}")
    started = time.monotonic()
    try:
        reports = _compile(build, options.archs)
    except build.BuildError as error:
        print(f"check_cuda_build: {error}", file=sys.stderr)
        return 1
    _print_reports(reports)
    print(f"compiled and linked in {time.monotonic() - started:.0f} s")
    # Kernels of the toolkit are tuned by its makers.
    spills = [report for report in reports if report.spilled_bytes and not report.name.startswith("cub::")]
    if spills or not reports:
        names = ", ".join(f"{report.name} on {report.arch}" for report in spills) or "no kernel was reported"
        print(f"check_cuda_build: registers spill to memory: {names}", file=sys.stderr)
        return 1
    return 0


def _load_build() -> ModuleType:
    # As a file: the package itself would import torch.
    spec = importlib.util.spec_from_file_location("bev_ops_build", BUILD_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _compile(build: ModuleType, archs: Sequence[str]) -> list[KernelReport]:
    recipe = build.make_recipe("cuda", cuda_archs=archs)
    recipe = dataclasses.replace(recipe, compile_flags=(*recipe.compile_flags, "-Xptxas=-v"))
    with tempfile.TemporaryDirectory() as folder:
        output = build.compile_library(recipe, Path(folder)).output
    return _parse_ptxas(output)


def _parse_ptxas(output: str) -> list[KernelReport]:
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for '(?P<arch>\S+)'.*?"
        r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
        r"(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = list(pattern.finditer(output))
    names = _demangle([match["name"] for match in found])
    return [
        KernelReport(
            match["arch"],
            name,
            int(match["registers"]),
            int(match["stores"]) + int(match["loads"]),
            int((re.search(r"(\d+) bytes smem", match["rest"]) or [0, 0])[1]),
        )
        for match, name in zip(found, names, strict=True)
    ]


def _demangle(names: list[str]) -> list[str]:
    if not names or shutil.which("c++filt") is None:
        return names
    result = subprocess.run(["c++filt", "-p", *names], capture_output=True, text=True, check=True)
    return [name.replace("bev_ops::", "").replace("c10::", "") for name in result.stdout.splitlines()]


def _print_reports(reports: list[KernelReport]) -> None:
    print(f"{'arch':6} {'registers':>9} {'spilled':>7} {'shared':>7}  kernel")
    for report in sorted(reports, key=lambda r: (r.arch, r.name)):
        numbers = f"{report.registers:9d} {report.spilled_bytes:7d} {report.shared_bytes:7d}"
        print(f"{report.arch:6} {numbers}  {report.name}")


if __name__ == "__main__":
    sys.exit(main())
