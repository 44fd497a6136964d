"""Reports to work with, and the program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bev_bench import Fact, Figure, Machine, Report, Row
from bev_bench.__main__ import main
from bev_nuscenes import DataOptions

KEY_FRAMES = Path(__file__).resolve().parents[4] / "shared" / "data" / "nuscenes-keyframes"

MACHINE = Machine(
    cpu="A processor",
    cores=8,
    threads=4,
    memory_gib=32.0,
    gpu=None,
    gpu_memory_gib=None,
    driver=None,
    system="Linux",
    python="3.11",
    torch="2.11",
    cuda=None,
    cudnn=None,
    libraries=("numpy 1.26",),
    kernels=("cpu: compiled kernels",),
    load=0.5,
    date="2026-01-01T00:00:00+00:00",
)


@pytest.fixture
def report() -> Report:
    """Two rows, the second with a ratio."""
    slow = Row(case="model", setting="plain", figures=(Figure.of("time", "ms", [9.0, 10.0, 12.0]),))
    fast = replace(
        slow,
        setting="fused",
        figures=(Figure.of("time", "ms", [4.0, 5.0, 6.0]), Figure.of("ratio", "", [2.25, 2.0, 2.0])),
    )
    facts = (Fact(name="weights", value="random"),)
    return Report(command="latency", facts=facts, rows=(slow, fast), notes=("a note",), machine=MACHINE)


@pytest.fixture
def key_frames(tmp_path: Path) -> DataOptions:
    """The real key frames, where the checkout has them beside it."""
    if not KEY_FRAMES.is_dir():
        pytest.skip(f"needs the real key frames in {KEY_FRAMES}")
    return DataOptions(root=str(KEY_FRAMES), index=tmp_path / "index.npz")


@pytest.fixture
def bev_bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the program in this process: bev_bench("ops", "--quick") -> status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([*map(str, arguments)])
        except SystemExit as leaving:
            status = leaving.code
        return (status, *capsys.readouterr())

    return run
