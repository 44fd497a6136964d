"""LiftSplat: what lands where, and plans that are never stale."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bev_lss import CameraDepthNet, CameraRig, DepthBins, LiftSplat, PlanCache, camera_parameters
from bev_ops import BevGrid

GRID = BevGrid(x=(-8.0, 8.0, 1.0), y=(-8.0, 8.0, 1.0), z=(-2.0, 2.0, 4.0))
BINS = DepthBins(1.0, 7.0, 1.0)
SIZE = (2, 4)


@pytest.fixture
def rig() -> CameraRig:
    """One camera at the ego origin, looking along +x; feature stride 8 over a 16 x 32 input."""
    lead = (1, 1, 1)
    return CameraRig(
        intrinsics=torch.tensor([[16.0, 0, 15.5], [0, 16, 7.5], [0, 0, 1]]).expand(*lead, 3, 3),
        cam_to_ego=torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]).expand(*lead, 4, 4),
        ego_to_global=torch.eye(4).expand(*lead, 4, 4),
        image_aug=torch.eye(3).expand(*lead, 3, 3),
        bev_aug=torch.eye(3).expand(1, 3, 3),
    )


def make_lift(**options: object) -> LiftSplat:
    torch.manual_seed(0)
    return LiftSplat(3, 5, GRID, BINS, stride=8, **options)


def test_every_kept_point_adds_its_depth_weight(rig: CameraRig) -> None:
    lift = make_lift()
    features = torch.randn(1, 1, 3, *SIZE)

    bev, depth = lift(features, rig)

    logits, context = lift.depth_net(features[0])
    torch.testing.assert_close(depth, logits.softmax(1)[None])
    wanted = torch.zeros(5, 16, 16)
    points = lift.points(rig, SIZE)[0, 0]
    for d, v, u in torch.cartesian_prod(torch.arange(BINS.count), torch.arange(SIZE[0]), torch.arange(SIZE[1])):
        x, y, z = ((points[d, v, u] - torch.tensor(GRID.lower)) / torch.tensor(GRID.step)).int().tolist()
        if 0 <= x < 16 and 0 <= y < 16 and z == 0:
            wanted[:, y, x] += depth[0, 0, d, v, u] * context[0, :, v, u]
    torch.testing.assert_close(bev[0], wanted)
    assert bev[0, :, :, :8].abs().sum() == 0, "nothing can lie behind the camera"


def test_voxels_and_stacked_layers_are_the_same_numbers(rig: CameraRig) -> None:
    grid = dataclasses.replace(GRID, z=(-2.0, 2.0, 1.0))
    features = torch.randn(1, 1, 3, *SIZE)
    flat, tall = LiftSplat(3, 5, grid, BINS, stride=8), LiftSplat(3, 5, grid, BINS, stride=8, voxels=True)
    tall.load_state_dict(flat.state_dict())

    stacked, voxels = flat(features, rig).bev, tall(features, rig).bev

    assert voxels.shape == (1, 5, 4, 16, 16)
    assert stacked.shape == (1, 20, 16, 16)
    torch.testing.assert_close(stacked.view(1, 4, 5, 16, 16).transpose(1, 2), voxels)


@pytest.mark.parametrize(("voxels", "layout"), [(False, torch.channels_last), (True, torch.channels_last_3d)])
def test_the_layout_of_a_map_changes_no_number(rig: CameraRig, voxels: bool, layout: torch.memory_format) -> None:
    features = torch.randn(1, 1, 3, *SIZE)
    plain, laid = (make_lift(voxels=voxels, channels_last=last)(features, rig).bev for last in (False, True))
    assert laid.is_contiguous(memory_format=layout)
    assert plain.is_contiguous()
    torch.testing.assert_close(laid, plain)


def test_gradients_reach_features_and_depth_net(rig: CameraRig) -> None:
    lift = make_lift()
    features = torch.randn(1, 1, 3, *SIZE, requires_grad=True)
    lift(features, rig).bev.square().sum().backward()
    assert features.grad.abs().sum() > 0
    assert lift.depth_net.projection.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("field", ["intrinsics", "cam_to_ego", "image_aug", "bev_aug"])
def test_a_changed_calibration_gets_a_new_plan(rig: CameraRig, field: str) -> None:
    lift = make_lift()
    features = torch.randn(1, 1, 3, *SIZE)
    before = lift(features, rig).bev
    tensor = getattr(rig, field).clone()
    tensor[..., 0, 2 if field != "cam_to_ego" else 3] += 2.0
    moved = dataclasses.replace(rig, **{field: tensor})

    after = lift(features, moved).bev

    fresh = make_lift()
    fresh.load_state_dict(lift.state_dict())
    assert torch.equal(after, fresh(features, moved).bev)
    assert not torch.equal(after, before)
    assert torch.equal(lift(features, rig).bev, before)


def test_a_calibration_changed_in_place_is_not_taken_for_the_old_one(rig: CameraRig) -> None:
    lift = make_lift()
    rig = dataclasses.replace(rig, bev_aug=rig.bev_aug.clone())
    features = torch.randn(1, 1, 3, *SIZE)
    before = lift(features, rig).bev
    rig.bev_aug[:, 1, 1] = -1.0  # mirror left and right
    torch.testing.assert_close(lift(features, rig).bev, before.flip(-2))


@pytest.mark.parametrize(("training", "planned"), [(False, 1), (True, 3)])
def test_the_same_calibration_is_planned_once_but_while_training(
    rig: CameraRig, monkeypatch: pytest.MonkeyPatch, training: bool, planned: int
) -> None:
    lift = make_lift().train(training)
    calls = []
    monkeypatch.setattr(lift, "points", lambda *args: calls.append(1) or LiftSplat.points(lift, *args))
    for _ in range(3):
        lift(torch.randn(1, 1, 3, *SIZE), dataclasses.replace(rig, intrinsics=rig.intrinsics.clone()))
    assert len(calls) == planned


def test_a_plan_handed_in_is_used(rig: CameraRig) -> None:
    lift, features = make_lift(), torch.randn(1, 1, 3, *SIZE)
    far = dataclasses.replace(rig, bev_aug=rig.bev_aug * 100)
    assert torch.equal(lift(features, far, plan=lift.plan(rig, SIZE)).bev, lift(features, rig).bev)


def test_the_cameras_of_a_frame_do_as_well_as_a_rig_of_one(rig: CameraRig) -> None:
    lift, features = make_lift(), torch.randn(1, 1, 3, *SIZE)
    assert torch.equal(lift(features, rig.frame_cameras(0)).bev, lift(features, rig).bev)


def test_a_camera_aware_net_is_told_of_these_cameras_unless_others_are_named(rig: CameraRig) -> None:
    net = CameraDepthNet(4, BINS.count, 5, aspp_channels=4, stereo=True).eval()
    lift = LiftSplat(4, 5, GRID, BINS, depth_net=net, stride=8)
    features, cameras = torch.randn(1, 1, 4, *SIZE), rig.frame_cameras(0)
    volume = torch.rand(1, 1, BINS.count, 4 * SIZE[0], 4 * SIZE[1])
    params = camera_parameters(cameras)

    bev, depth = lift(features, cameras, cost_volume=volume)

    logits, _ = net(features[0], params[0], volume[0])
    torch.testing.assert_close(depth[0], logits.softmax(1))
    assert torch.equal(lift(features, cameras, camera_params=params, cost_volume=volume).bev, bev)
    others = lift(features, cameras, camera_params=params + 1, cost_volume=volume)
    assert (others.depth - depth).abs().max() > 1e-4
    assert (lift(features, cameras).depth - depth).abs().max() > 1e-4, "without the volume there is nothing to match"


def test_a_rig_of_several_frames_is_refused(rig: CameraRig) -> None:
    twice = {name: getattr(rig, name).repeat(1, 2, 1, 1, 1) for name in ("cam_to_ego", "ego_to_global")}
    twice |= {name: getattr(rig, name).repeat(1, 2, 1, 1, 1) for name in ("intrinsics", "image_aug")}
    with pytest.raises(ValueError, match=r"wants a rig with T=1, got T=2: hand in rig.frame_cameras"):
        make_lift()(torch.randn(1, 1, 3, *SIZE), dataclasses.replace(rig, **twice))


def test_no_point_in_the_grid_gives_zeros(rig: CameraRig) -> None:
    far = rig.bev_aug.clone() * 100
    bev = make_lift()(torch.randn(1, 1, 3, *SIZE), dataclasses.replace(rig, bev_aug=far)).bev
    assert bev.shape == (1, 5, 16, 16)
    assert bev.abs().sum() == 0


def test_rig_and_features_must_agree(rig: CameraRig) -> None:
    with pytest.raises(ValueError, match="must agree in B and N"):
        make_lift()(torch.randn(1, 2, 3, *SIZE), rig)


def test_half_precision_pools_in_float32(rig: CameraRig) -> None:
    lift = make_lift()
    features = torch.randn(1, 1, 3, *SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bev, depth = lift(features, rig)
    assert bev.dtype == depth.dtype == torch.float32
    assert (bev - lift(features, rig).bev).abs().max() < 0.05


def test_meta_tensors_give_shapes_again_and_again(rig: CameraRig) -> None:
    lift, features = make_lift().eval().to("meta"), torch.empty(1, 1, 3, *SIZE, device="meta")
    for _ in range(2):  # a second time there would be a plan to compare with
        bev, depth = lift(features, rig.to("meta"))
        assert bev.is_meta and bev.shape == (1, 5, 16, 16)
        assert depth.is_meta and depth.shape == (1, 1, BINS.count, *SIZE)


def test_the_cache_forgets_the_least_recently_used() -> None:
    cache = PlanCache(capacity=2)
    built: list[float] = []

    def get(value: float) -> None:
        cache.get(("kind",), (torch.tensor([value]),), lambda: built.append(value))

    for value in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):
        get(value)
    assert built == [1.0, 2.0, 3.0, 2.0]
    assert len(cache) == 2
