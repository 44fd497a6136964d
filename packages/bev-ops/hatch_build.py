"""Build hook: compiles kernels into the wheel when BEV_OPS_BUILD names devices ("cpu", "cuda" or "cpu,cuda").

Without the variable the wheel is pure Python, and kernels are compiled on first use. Compiling needs torch and ninja at
build time, so install with --no-build-isolation in an environment that has them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelBuildHook(BuildHookInterface):
    """Adds compiled kernels to a wheel, on request."""

    PLUGIN_NAME = "custom"
    _folder: Path | None = None

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        devices = [name.strip() for name in os.environ.get("BEV_OPS_BUILD", "").split(",") if name.strip()]
        if not devices or self.target_name != "wheel":
            return
        if version == "editable":
            self.app.display_warning("BEV_OPS_BUILD has no effect on an editable install: kernels compile on first use")
            return
        build = _load_build(Path(self.root))
        self._folder = Path(tempfile.mkdtemp(prefix="bev-ops-"))
        for device in devices:
            self.app.display_info(f"compiling the {device} kernels of bev-ops")
            folder = self._folder / device
            folder.mkdir()
            library = build.compile_library(build.make_recipe(device), folder).path
            build_data["force_include"][str(library)] = f"bev_ops/_lib/{library.name}"
        # The stable C++ ABI makes the library independent of the Python version; the platform stays.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder)


def _load_build(root: Path) -> ModuleType:
    # As a file: the package itself would import torch.
    spec = importlib.util.spec_from_file_location("bev_ops_build", root / "src" / "bev_ops" / "_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
