"""Finding, compiling and loading the kernels: what happens, and what is said, when something is missing."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import bev_ops
from bev_ops import _build, _kernels

SCRIPT = """
import warnings, torch, bev_ops
from bev_ops import BevGrid, PoolPlan, bev_pool
assert "ninja" not in __import__("sys").modules
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    torch.manual_seed(0)
    grid = BevGrid(x=(-4, 4, 1), y=(-3, 3, 1), z=(-1, 3, 2))
    plan = PoolPlan.from_points(torch.randn(1, 2, 5, 3, 4, 3), grid)
    out = bev_pool(torch.rand(1, 2, 5, 3, 4), torch.randn(1, 2, 7, 3, 4), plan)
print(out.double().sum().item())
print(sum("plain-PyTorch" in str(w.message) for w in caught))
print(bev_ops.kernel_status()[0])
"""


def run_script(**environment: str) -> list[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=variables, capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().split("\n", 2)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process that has loaded nothing yet, with an empty cache."""
    monkeypatch.setattr(_kernels, "_status", {})
    monkeypatch.setenv("BEV_OPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BEV_OPS_KERNELS", raising=False)
    return tmp_path


def fake_compiler(folder: Path, text: str) -> Path:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_public_names() -> None:
    assert set(bev_ops.__all__) == {
        "BevGrid", "KernelStatus", "NmsRule", "PoolPlan", "SweepViews", "best_of_rows", "bev_pool",
        "depth_softmax", "draw_peaks", "iou_rotated", "kernel_status", "matching_cost", "matching_probability",
        "nms_batched", "nms_circle", "nms_rotated", "warp_affine",
    }  # fmt: skip
    assert all(hasattr(bev_ops, name) for name in bev_ops.__all__)


def test_off_and_a_broken_compiler_give_the_same_numbers(tmp_path) -> None:
    """Plain PyTorch on request says nothing; a failed build is said once, with the compiler's words."""
    compiler = fake_compiler(tmp_path, 'echo "error: the moon is in the way"; exit 1')
    off = run_script(BEV_OPS_KERNELS="off")
    broken = run_script(CXX=str(compiler), BEV_OPS_CACHE=str(tmp_path), BEV_OPS_KERNELS="auto")
    assert off[1] == "0"
    assert "switched off by BEV_OPS_KERNELS=off" in off[2]
    assert broken[1] == "1"
    assert "the moon is in the way" in broken[2]
    assert off[0] == broken[0]


def test_a_failed_build_is_remembered(fresh, monkeypatch) -> None:
    compiler = fake_compiler(fresh, f'echo x >> "{fresh}/calls"; exit 1')
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.warns(RuntimeWarning, match="plain-PyTorch path on cpu"):
        assert not _kernels.load("cpu")
    calls = (fresh / "calls").read_text()
    assert not _kernels.load("cpu")
    assert (fresh / "calls").read_text() == calls


def test_a_missing_compiler_says_what_to_install(fresh, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(RuntimeWarning, match=r"install g\+\+ or clang\+\+, or set CXX"):
        assert not _kernels.load("cpu")


def test_a_missing_nvcc_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(_build.shutil, "which", lambda name: None)
    with pytest.raises(_build.BuildError, match="install the CUDA toolkit, or set CUDA_HOME"):
        _build.find_nvcc()


def test_an_unusable_cache_says_so(fresh, monkeypatch) -> None:
    (fresh / "file").write_text("not a folder")
    monkeypatch.setenv("BEV_OPS_CACHE", str(fresh / "file"))
    with pytest.warns(RuntimeWarning, match="set BEV_OPS_CACHE"):
        assert not _kernels.load("cpu")


def test_a_shipped_library_comes_first_and_a_broken_one_is_passed_over(fresh, monkeypatch) -> None:
    shipped = fresh / "bev_ops_cpu.so"
    shipped.write_bytes(b"not a library")
    monkeypatch.setattr(_kernels, "_SHIPPED", fresh)
    assert _kernels.kernel_status()[0].path == shipped
    monkeypatch.setenv("CXX", str(fake_compiler(fresh, "exit 1")))
    with pytest.warns(RuntimeWarning, match=r"bev_ops_cpu.so.*failed") as caught:
        assert not _kernels.load("cpu")
    assert len(caught) == 1


def test_the_mode_is_auto_or_off(fresh, monkeypatch) -> None:
    monkeypatch.setenv("BEV_OPS_KERNELS", "fast")
    with pytest.raises(ValueError, match="must be auto or off, got 'fast'"):
        _kernels.load("cpu")


def test_other_devices_run_plain_pytorch(fresh) -> None:
    assert not _kernels.load("xpu")


def test_status_says_what_would_happen_without_compiling(fresh) -> None:
    status = {entry.device: entry for entry in _kernels.kernel_status()}
    assert set(status) == {"cpu", "cuda"}
    assert not status["cpu"].loaded
    assert "will be compiled on first use" in str(status["cpu"])
    assert not (fresh / "cache").exists()


def test_processes_and_threads_compile_once(fresh, monkeypatch) -> None:
    """Everyone who asks at the same time gets the library of whoever holds the lock."""
    compiled = []

    def compile_slowly(recipe: _build.Recipe, directory: Path) -> _build.Compiled:
        compiled.append(directory)
        (directory / recipe.library_name).write_bytes(b"library")
        return _build.Compiled(directory / recipe.library_name, "")

    monkeypatch.setattr(_build, "compile_library", compile_slowly)
    recipe = _build.make_recipe("cpu")
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(_build.compile_into_cache(recipe))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 1
    assert {path.read_bytes() for path in paths} == {b"library"}
    assert {path.name for path in paths[0].parent.iterdir()} == {recipe.library_name, "bev_ops_cpu.lock"}


def test_the_cache_key_follows_flags_and_sources(monkeypatch, tmp_path) -> None:
    plain, native = _build.make_recipe("cpu"), _build.make_recipe("cpu", native=True)
    keys = {_build.fingerprint(plain), _build.fingerprint(native)}
    assert _build.fingerprint(plain) in keys
    (tmp_path / "extra.cpp").write_text("int main() {}")
    monkeypatch.setattr(_build, "SOURCE_ROOT", tmp_path)
    keys.add(_build.fingerprint(plain))
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("archs", "listed", "want"),
    [
        (("8.0",), "", ["-gencode=arch=compute_80,code=sm_80"]),
        (("8.0",), "9.0", ["-gencode=arch=compute_90,code=sm_90"]),
        (
            ("9.0+PTX",),
            "",
            ["-gencode=arch=compute_90,code=sm_90", "-gencode=arch=compute_90,code=compute_90"],
        ),
        ((), "8.6;12.0", ["-gencode=arch=compute_86,code=sm_86", "-gencode=arch=compute_120,code=sm_120"]),
    ],
)
def test_architectures(monkeypatch, archs, listed, want) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    assert list(_build.gencode_flags(archs)) == want


def test_recipes_use_the_stable_interface_of_torch_2_11() -> None:
    recipe = _build.make_recipe("cpu")
    assert "-DTORCH_TARGET_VERSION=0x020b000000000000" in recipe.compile_flags
    assert "-march=native" not in recipe.compile_flags
    assert not any("torch_python" in flag for flag in recipe.link_flags)
    with pytest.raises(_build.BuildError, match="not for 'tpu'"):
        _build.make_recipe("tpu")
