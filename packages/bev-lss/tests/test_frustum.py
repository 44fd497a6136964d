"""Depth bins, frustum points and their way into the ego frame."""

from __future__ import annotations

import math

import pytest
import torch

from bev_lss import DepthBins, frustum_points, pixel_positions, points_to_ego


@pytest.mark.parametrize(
    ("bins", "count", "first", "last"),
    [
        (DepthBins(1.0, 60.0, 1.0), 59, 1.0, 59.0),
        (DepthBins(1.0, 60.0, 0.5), 118, 1.0, 59.5),
        (DepthBins(1.0, 45.0, 0.5), 88, 1.0, 44.5),
        (DepthBins(1.0, 60.0, 1.0, log_spaced=True), 59, 1.0, 59.0),
        (DepthBins(1.0, 60.0, 0.5, log_spaced=True), 118, 1.0, 59.0),
    ],
)
def test_depth_bins_follow_the_published_rule(bins: DepthBins, count: int, first: float, last: float) -> None:
    values = bins.values()
    assert bins.count == len(values) == count
    assert values[0].item() == pytest.approx(first)
    assert values[-1].item() == pytest.approx(last, rel=1e-6)


def test_log_spaced_bins_grow_by_a_constant_factor() -> None:
    values = DepthBins(2.0, 50.0, 1.0, log_spaced=True).values().double()
    ratios = values[1:] / values[:-1]
    assert torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-5)


@pytest.mark.parametrize("bad", [(0.0, 60.0, 1.0), (5.0, 4.0, 1.0), (1.0, 60.0, 0.0), (1.0, 1.5, 1.0, True)])
def test_impossible_bins_are_refused(bad: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="depth bins need"):
        DepthBins(*bad)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 22), (16, 44), (32, 88)])
def test_frustum_runs_from_the_first_to_the_last_pixel(size: tuple[int, int]) -> None:
    height, width = size
    frustum = frustum_points(size, 16, DepthBins(1.0, 4.0, 1.0))

    assert frustum.shape == (3, height, width, 3)
    torch.testing.assert_close(frustum[0, 0, :, 0], torch.linspace(0, 16 * width - 1, width), rtol=0, atol=2e-4)
    torch.testing.assert_close(frustum[0, :, 0, 1], torch.linspace(0, 16 * height - 1, height), rtol=0, atol=2e-4)
    assert frustum[:, 0, 0, 2].tolist() == [1.0, 2.0, 3.0]


def test_points_project_back_onto_their_pixels() -> None:
    torch.manual_seed(0)
    frustum = frustum_points((4, 6), 8, DepthBins(2.0, 10.0, 2.0))
    intrinsics = torch.tensor([[90.0, 0, 25], [0, 95, 15], [0, 0, 1]]).expand(2, 3, 3, 3)
    cam_to_ego = _random_poses(2, 3)
    image_aug = torch.tensor([[0.8, 0.1, -3], [-0.1, 0.8, 5], [0, 0, 1]]).expand(2, 3, 3, 3)
    bev_aug = torch.stack([torch.eye(3), torch.diag(torch.tensor([-1.05, 1.05, 1.05]))])

    points = points_to_ego(frustum, cam_to_ego, intrinsics, image_aug, bev_aug)

    ego = torch.linalg.solve(bev_aug.view(2, 1, 1, 1, 1, 3, 3), points.unsqueeze(-1))
    homogeneous = torch.cat([ego, torch.ones_like(ego[..., :1, :])], dim=-2)
    camera = torch.linalg.inv(cam_to_ego).view(2, 3, 1, 1, 1, 4, 4) @ homogeneous
    raw = intrinsics.reshape(2, 3, 1, 1, 1, 3, 3) @ (camera[..., :3, :] / camera[..., 2:3, :])
    pixels = (image_aug.reshape(2, 3, 1, 1, 1, 3, 3) @ raw).squeeze(-1)
    torch.testing.assert_close(pixels[..., :2], frustum[..., :2].expand_as(pixels[..., :2]), rtol=0, atol=1e-2)
    torch.testing.assert_close(camera[..., 2, 0], frustum[..., 2].expand_as(camera[..., 2, 0]), rtol=1e-4, atol=1e-4)


def test_autocast_moves_no_point() -> None:
    torch.manual_seed(0)
    frustum = frustum_points((4, 6), 8, DepthBins(2.0, 60.0, 2.0))
    intrinsics = torch.tensor([[93.7, 0, 25.3], [0, 95.1, 15.9], [0, 0, 1]]).expand(1, 2, 3, 3)
    geometry = (_random_poses(1, 2), intrinsics, torch.eye(3).expand(1, 2, 3, 3), torch.eye(3)[None])
    points = points_to_ego(frustum, *geometry)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(points_to_ego(frustum, *geometry), points)


def _random_poses(*lead: int) -> torch.Tensor:
    angle = torch.rand(*lead) * 2 * math.pi
    poses = torch.eye(4).expand(*lead, 4, 4).clone()
    poses[..., 0, 0] = poses[..., 1, 1] = angle.cos()
    poses[..., 1, 0] = angle.sin()
    poses[..., 0, 1] = -angle.sin()
    poses[..., :3, 3] = torch.randn(*lead, 3)
    return poses


@pytest.mark.parametrize(
    ("count", "first", "want"),
    [
        (88, 64, [258.2068786621094, 262.2413635253906, 266.2758483886719, 270.3103332519531]),
        (32, 24, [98.32257843017578, 102.41934967041016]),
    ],
)
def test_stereo_positions_are_those_of_the_published_linspace(count, first, want) -> None:
    """As torch.linspace of PyTorch 1.13.1 gave them, the release that the published figures were recorded with."""
    assert pixel_positions(count, 4)[first : first + len(want)].tolist() == want
