"""tools/compare_families.py: what it measures beside the official metrics, on cases whose answer is known."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from bev_heads import CenterOutput, Detections
from bev_lss import DepthBins
from bev_ops import BevGrid
from bev_zoo import CameraRig, create_model, get_recipe

TOOLS = Path(__file__).resolve().parents[1] / "tools"
BINS = DepthBins(1.0, 5.0, 1.0)  # middles 1.5, 2.5, 3.5, 4.5
GRID = BevGrid(x=(-2.0, 2.0, 1.0), y=(-2.0, 2.0, 1.0), z=(-5.0, 3.0, 8.0))


@pytest.fixture(scope="module")
def families() -> Iterator[ModuleType]:
    """The program, imported from where it lies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        yield importlib.import_module("compare_families")


@pytest.fixture(scope="module")
def measures(families: ModuleType) -> ModuleType:
    return importlib.import_module("family_measures")


def test_systems_train_alike(families: ModuleType) -> None:
    recipes = [families.with_or_without_lidar(get_recipe(system.recipe), system) for system in families.SYSTEMS]
    assert len({recipe.training for recipe in recipes}) == 1
    assert [recipe.view.depth_loss_weight is None for recipe in recipes] == [True] + [False] * (len(recipes) - 1)


@pytest.mark.parametrize(
    ("distribution", "truth_m", "relative", "near_bin"),
    [
        ((1, 0, 0, 0), 1.5, 0.0, True),
        ((0, 1, 0, 0), 1.25, 1.0, True),  # one bin off
        ((0, 0, 1, 0), 1.75, 1.0, False),  # two bins off
        ((0.5, 0, 0, 0.5), 4.0, 0.25, False),  # 3 m expected; of two equal bins the first counts as likely
    ],
)
def test_depth_error_of_a_pixel(
    measures: ModuleType, distribution: tuple[float, ...], truth_m: float, relative: float, near_bin: bool
) -> None:
    truth = torch.zeros(1, 1, 4, 4)
    truth[0, 0, 1, 2], truth[0, 0, 3, 3] = truth_m, truth_m + 3  # the nearer point of a feature pixel counts
    depth = torch.tensor(distribution).view(1, 1, 4, 1, 1)
    errors = measures.depth_errors(depth, truth, BINS, stride=4)
    assert errors.truth_m.tolist() == [truth_m]
    assert errors.relative.tolist() == pytest.approx([relative])
    assert errors.near_bin.tolist() == [near_bin]


def test_depth_counts_only_where_lidar_hits_in_range(measures: ModuleType) -> None:
    truth = torch.tensor([[0.0, 3.2, 0.5, 5.5]]).view(1, 1, 1, 4)
    errors = measures.depth_errors(torch.full((1, 1, 4, 1, 4), 0.25), truth, BINS, stride=1)
    assert errors.truth_m.tolist() == pytest.approx([3.2])


def test_velocity_errors_of_known_boxes(measures: ModuleType) -> None:
    def box(x: float, y: float, vx: float) -> list[float]:
        return [x, y, 0, 4, 2, 1.5, 0, vx, 0]

    boxes = torch.tensor([box(0.5, 0.5, 3.0), box(-1.5, 1.5, 0.0), box(9.0, 0.5, 3.0)])  # the last is off the grid
    found = Detections(
        torch.tensor([box(0.5, 1.5, 2.0), box(-1.5, 1.5, 7.0)]), torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    )
    velocity = torch.zeros(1, 2, 4, 4)
    velocity[0, :, 2, 2] = torch.tensor([3.0, 4.0])  # cell of (0.5, 0.5)
    empty = torch.zeros(1, 1, 4, 4)
    output = CenterOutput(empty, empty, empty, empty, empty, velocity)
    errors = measures.velocity_errors(output, found, boxes, torch.tensor([0, 0, 0]), GRID)
    assert errors.speed.tolist() == [3.0, 0.0]
    assert errors.at_centre.tolist() == [4.0, 0.0]
    assert errors.found[0] == 1.0
    assert math.isnan(errors.found[1])  # the detection at its place is of another class, the other one too far
    figures = measures.velocity_figures(errors)
    assert (figures["moving"], figures["moving_found"], figures["found"]) == (1, 1, 1.0)
    assert math.isnan(figures["found_parked"])


def test_constant_occupancy_of_known_cells(measures: ModuleType) -> None:
    cells = np.zeros(18, dtype=np.int64)
    cells[[4, 11, 17]] = 10, 30, 60  # car, driveable surface, free
    assert [measures._constant_miou(cells, label) for label in (4, 11, 17)] == [5.0, 15.0, 0.0]


@pytest.mark.parametrize(
    ("name", "call_of_now"), [("bevdet-tiny", 0), ("bevdet-tiny-4d", 0), ("bevdet-tiny-stereo", -1)]
)
def test_depth_of_now_is_the_depth_that_the_model_uses(measures: ModuleType, name: str, call_of_now: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_size=(32, 64)).eval()
    used: list[torch.Tensor] = []
    hook = model.view_transform.register_forward_hook(lambda module, args, output: used.append(output.depth))
    images, rig = torch.randn(1, model.recipe.frames, 2, 3, 32, 64), _rig(model.recipe.frames)
    with torch.no_grad():
        model(images, rig)
    hook.remove()
    torch.testing.assert_close(measures.depth_of_now(model, images, rig), used[call_of_now])


def test_table_shows_what_there_is(families: ModuleType, measures: ModuleType) -> None:
    run = {"frames": 1, "steps": 5, "batch": 2, "seed": 0, "date": "2000-01-01", "machine": "abacus", "minutes": 1.5}
    constant = {"most_frequent": {"class": "free", "mIoU": 0.0}}
    occupancy = {**run, "system": "voxels", "official": {"mIoU": 12.345}, "constant": constant}
    depth = measures.depth_figures(measures.DepthErrors(torch.ones(1), torch.ones(1) / 4, torch.ones(1).bool()))
    velocity = measures.velocity_figures(measures.VelocityErrors(*torch.tensor([[2.0], [1.5], [math.nan]])))
    official = dict.fromkeys(("mAP", "NDS", "mATE", "mAOE", "mAVE"), 0.5)
    boxes = {**run, "system": "boxes", "official": official, "depth": depth, "depth_moved": depth, "velocity": velocity}
    text = families.table([boxes, occupancy])
    assert text.startswith("Batch 2, seed 0; 2000-01-01, abacus.")
    assert "| boxes | 1 | 5 | 1.5 | 0.5000 |" in text
    assert "| boxes | 0.250 | 0.250 | 0.250 | 100.0% |" in text
    assert "| boxes | 1.50 | 2.00 | nan | nan | 0 |" in text
    assert "voxels: mIoU 12.35 % after 5 steps in 1.5 min. One class everywhere: 0.00 (free)" in text


def _rig(frames: int) -> CameraRig:
    """Two cameras that look ahead from 1.5 m up, on an ego that drives 2 m per frame."""
    look_ahead = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    ego_to_global = torch.eye(4).repeat(1, frames, 2, 1, 1)
    ego_to_global[..., 0, 3] = -2.0 * torch.arange(frames)[:, None]
    lead = (1, frames, 2)
    return CameraRig(
        intrinsics=torch.tensor([[50.0, 0, 32], [0, 50, 16], [0, 0, 1]]).repeat(*lead, 1, 1),
        cam_to_ego=look_ahead.repeat(*lead, 1, 1),
        ego_to_global=ego_to_global,
        image_aug=torch.eye(3).repeat(*lead, 1, 1),
        bev_aug=torch.eye(3)[None],
    )
