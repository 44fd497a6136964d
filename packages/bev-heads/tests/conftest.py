"""What the tests of this package share: grids, task lists and the published reference."""

from pathlib import Path

import pytest
import torch

from bev_ops import BevGrid

REFERENCE = Path(__file__).resolve().parents[3].parent / "shared" / "reference"

ONE_TASK = (
    (
        "car",
        "truck",
        "construction_vehicle",
        "bus",
        "trailer",
        "barrier",
        "motorcycle",
        "bicycle",
        "pedestrian",
        "traffic_cone",
    ),
)
SIX_TASKS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder with the figures of the published systems."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the published reference is not at {REFERENCE}")
    return REFERENCE


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture
def small_grid() -> BevGrid:
    """16 x 12 cells of half a metre, from (-4, -3) to (4, 3): x and y differ, so that swapped axes show."""
    return BevGrid(x=(-4.0, 4.0, 0.5), y=(-3.0, 3.0, 0.5), z=(-5.0, 3.0, 8.0))


@pytest.fixture(params=["one_task", "six_tasks", "six_tasks_08m"])
def published_system(request: pytest.FixtureRequest) -> tuple[str, tuple[tuple[str, ...], ...], BevGrid]:
    """Name, tasks and grid of the heads in center_head.npz."""
    step = 0.4 if request.param == "six_tasks" else 0.8
    tasks = ONE_TASK if request.param == "one_task" else SIX_TASKS
    return request.param, tasks, BevGrid(x=(-51.2, 51.2, step), y=(-51.2, 51.2, step), z=(-5.0, 3.0, 8.0))
