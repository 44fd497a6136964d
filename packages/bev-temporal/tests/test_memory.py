"""The memory keeps maps where they were made and shows them from now."""

from __future__ import annotations

import pytest
import torch

from bev_ops import BevGrid
from bev_temporal import BevMemory, now_to_then, warp_bev

GRID = BevGrid(x=(-8.0, 8.0, 1.0), y=(-8.0, 8.0, 1.0), z=(-1.0, 3.0, 2.0))
SHAPES = {"map": (2, 3, 16, 16), "voxels": (2, 3, 2, 16, 16)}


def pose(x: float) -> torch.Tensor:
    """(2, 4, 4) float64: two samples, far from the global origin, x metres along."""
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[:, 0, 3] = 1000 + x
    poses[:, 1, 3] = 500
    return poses


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_frames_are_forgotten_oldest_first(shape: tuple[int, ...]) -> None:
    memory = BevMemory.filled(torch.zeros(shape), pose(0), 3)
    for k in (1, 2, 3, 4):
        memory = memory.pushed(torch.full(shape, float(k)), pose(k))
    assert memory.length == 3
    assert memory.maps.flatten(2)[0, :, 0].tolist() == [4, 3, 2]
    assert (memory.cam0_to_global[0, :, 0, 3] - 1000).tolist() == [4, 3, 2]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_maps_move_with_the_ego(shape: tuple[int, ...]) -> None:
    first, second = torch.rand(shape), torch.rand(shape)
    memory = BevMemory.filled(first, pose(0), 2).pushed(second, pose(2))
    key_ego_to_global = pose(3).float()

    newest, oldest = memory.warped(torch.eye(4).repeat(2, 1, 1), key_ego_to_global, torch.eye(3).repeat(2, 1, 1), GRID)

    # The ego drove one and three cells along x: what was cell i then is cell i - 1 and i - 3 now.
    torch.testing.assert_close(newest[..., :-1], second[..., 1:], atol=2e-3, rtol=0)
    torch.testing.assert_close(oldest[..., :-3], first[..., 3:], atol=2e-3, rtol=0)
    assert newest[..., -1].abs().max() < 1e-2


def test_it_warps_as_a_single_map_is_warped() -> None:
    bev = torch.rand(SHAPES["map"])
    mount = torch.eye(4).repeat(2, 1, 1)
    mount[:, 2, 3] = 1.5
    then = torch.eye(4).repeat(2, 1, 1)
    then[:, 0, 3] = -2.5
    (got,) = BevMemory.filled(bev, (then @ mount).double(), 1).warped(
        mount, torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1), GRID
    )
    wanted = warp_bev(bev, now_to_then(mount, then @ mount, torch.eye(3).repeat(2, 1, 1)), GRID)
    torch.testing.assert_close(got, wanted)


def test_slots_can_be_filled_from_one_on() -> None:
    memory = BevMemory.filled(torch.zeros(SHAPES["map"]), pose(0), 3)
    changed = memory.with_slots_from(1, torch.ones(SHAPES["map"]), pose(7))
    assert changed.maps.flatten(2)[0, :, 0].tolist() == [0, 1, 1]
    assert (changed.cam0_to_global[0, :, 0, 3] - 1000).tolist() == [0, 7, 7]
    assert memory.maps.abs().max() == 0


@pytest.mark.parametrize(
    ("maps", "poses", "message"),
    [
        (torch.zeros(1, 2, 3, 4, 4), torch.eye(4).double().expand(1, 3, 4, 4), "wants maps"),
        (torch.zeros(2, 3, 4, 4), torch.eye(4).double().expand(2, 3, 4, 4), "wants maps"),
        (torch.zeros(1, 2, 3, 4, 4), torch.eye(4).expand(1, 2, 4, 4), "float64"),
    ],
)
def test_what_does_not_fit_is_refused(maps: torch.Tensor, poses: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BevMemory(maps, poses)
