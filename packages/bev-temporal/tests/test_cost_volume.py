"""StereoCostVolume against the rule written out in float64, and against worlds whose depth is known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_lss import DepthBins
from bev_temporal import StereoCostVolume

BINS = DepthBins(1.0, 13.0, 1.0)
H, W, STRIDE = 8, 14, 4


def cameras(count: int, *, augmented: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """camera_to_previous, intrinsics, image_aug of one sample and some cameras, each another."""
    torch.manual_seed(3)
    motion = torch.eye(4).repeat(1, count, 1, 1)
    for n in range(count):
        yaw = 0.05 * (n - 1)
        motion[0, n, 0, 0] = motion[0, n, 2, 2] = math.cos(yaw)
        motion[0, n, 0, 2], motion[0, n, 2, 0] = math.sin(yaw), -math.sin(yaw)
        motion[0, n, :3, 3] = torch.tensor([0.3 * n, 0.05, 0.8 - 0.9 * n])
    intrinsics = torch.tensor([[60.0, 0.0, 30.0], [0.0, 58.0, 18.0], [0.0, 0.0, 1.0]]).repeat(1, count, 1, 1)
    image_aug = torch.eye(3).repeat(1, count, 1, 1)
    if augmented:
        image_aug[0, :, :2] += 0.1 * torch.randn(count, 2, 3)
        image_aug[0, 0, 0, 0] *= -1  # mirrored
        image_aug[0, 0, 0, 2] = 60.0
    return motion, intrinsics, image_aug


def make_features(count: int, channels: int = 8) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(1, count, channels, H, W), torch.randn(1, count, channels, H, W)


def written_out(
    current: Tensor, previous: Tensor, motion: Tensor, intrinsics: Tensor, image_aug: Tensor, bias: float
) -> Tensor:
    """The rule for one sample, in float64, with the whole warped volume: (N, D, H, W)."""
    u, v = torch.linspace(0, STRIDE * W - 1, W), torch.linspace(0, STRIDE * H - 1, H)
    pixels = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones(H, W)]).double().flatten(1)  # (3, H*W)
    volume = []
    for n in range(current.shape[1]):
        k, a, m = (t[0, n].double() for t in (intrinsics, image_aug, motion))
        rays = torch.linalg.inv(k) @ torch.linalg.inv(a) @ pixels
        points = m[:3, :3] @ (BINS.values().double()[:, None, None] * rays) + m[:3, 3:]  # (D, 3, H*W)
        seen = a @ k @ (points / points[:, 2:])
        span = torch.tensor([STRIDE * W - 1.0, STRIDE * H - 1.0]).double()
        where = seen[:, :2].transpose(1, 2) / span * 2 - 1
        where[points[:, 2] < 1e-3] = -2
        warped = F.grid_sample(previous[0, n : n + 1].double(), where[None], align_corners=True)[0]  # (C, D, H*W)
        cost = (warped - current[0, n].double().flatten(1)[:, None]).abs().sum(0)
        cost = cost + bias * (warped[-4] == 0)
        volume.append((-cost).softmax(0).view(-1, H, W))
    return torch.stack(volume)


@pytest.mark.parametrize("bias", [0.0, 5.0])
@pytest.mark.parametrize("channels", [4, 8, 36])
def test_it_is_the_published_rule(channels: int, bias: float) -> None:
    features, views = make_features(3, channels), cameras(3)
    volume = StereoCostVolume(BINS, bias=bias, stride=STRIDE)(*features, *views)
    assert volume.shape == (1, 3, BINS.count, H, W)
    assert volume.is_contiguous()
    wanted = written_out(*features, *views, bias)
    assert (volume[0] - wanted).abs().max() < 1e-3 * wanted.std()


def test_a_textured_wall_is_matched_at_its_distance() -> None:
    """A wall 6 m before the previous camera; the current one stands 1 m to its right and half a metre nearer."""
    bins, size = DepthBins(1.0, 13.0, 0.5), (24, 40)
    focal, centre = 80.0, (STRIDE * size[1] / 2, STRIDE * size[0] / 2)
    intrinsics = torch.tensor([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    motion = torch.eye(4)
    motion[0, 3], motion[2, 3] = 1.0, 0.5  # the current camera stands there in the previous camera's frame

    def view(offset: float, distance: float) -> Tensor:
        """(C, H, W): features painted on the wall, as seen by a camera ``offset`` to the right."""
        u = torch.linspace(0, STRIDE * size[1] - 1, size[1])
        v = torch.linspace(0, STRIDE * size[0] - 1, size[0])[:, None]
        x, y = (u - centre[0]) / focal * distance + offset, (v - centre[1]) / focal * distance
        waves = [(1.0, 0.3), (0.4, 1.1), (1.7, -0.6), (-0.8, 1.9), (2.3, 0.9), (0.2, 2.6), (1.3, 1.3), (2.9, -1.7)]
        return torch.stack([torch.cos(a * x + b * y + a) for a, b in waves])

    current, previous = view(1.0, 5.5), view(0.0, 6.0)
    volume = StereoCostVolume(bins)(
        current[None, None], previous[None, None], motion[None, None], intrinsics[None, None], torch.eye(3)[None, None]
    )[0, 0]

    found = bins.values()[volume.argmax(0)]
    assert (found[2:-2, 2:-10] == 5.5).float().mean() > 0.99, "what left the previous view is cut off"


def test_what_nobody_saw_costs_the_bias_more() -> None:
    """Half of the depths lie behind the previous camera: there is nothing to compare with."""
    current = torch.ones(1, 1, 4, H, W)
    motion = torch.eye(4)[None, None].clone()
    motion[..., 2, 3] = -6.0
    identity = torch.eye(3)[None, None]
    intrinsics = torch.tensor([[1e4, 0, 0.0], [0, 1e4, 0], [0, 0, 1]])[None, None]  # hardly any parallax
    volume = StereoCostVolume(BINS, bias=2.0)(current, current, motion, intrinsics, identity)[0, 0, :, 0, 0]
    behind, before = BINS.values() <= 6.0, BINS.values() > 6.0
    torch.testing.assert_close(volume[behind] / volume[before][0], torch.full((6,), math.exp(-4.0 - 2.0)))


def test_the_bias_is_read_off_the_first_of_the_last_four_channels() -> None:
    views = (torch.eye(4)[None, None], *(torch.eye(3)[None, None] for _ in range(2)))
    bins = DepthBins(1.0, 3.0, 1.0)
    for channel in range(8):
        previous = torch.ones(1, 1, 8, H, W)
        previous[:, :, channel] = 0  # found, but zero
        motion = views[0].clone()
        motion[..., 2, 3] = -1.5  # the first depth lies behind the previous camera, the second before it
        volume = StereoCostVolume(bins, bias=3.0)(torch.zeros_like(previous), previous, motion, *views[1:])
        ratio = volume[0, 0, 1, 0, 0] / volume[0, 0, 0, 0, 0]
        biased = 0.0 if channel == 4 else 3.0
        assert ratio.item() == pytest.approx(math.exp(biased - 7.0), rel=1e-4)


def test_frames_can_be_batched() -> None:
    features, views = make_features(4), cameras(4)
    stereo = StereoCostVolume(BINS)
    together = stereo(*(t.view(2, 2, *t.shape[2:]) for t in (*features, *views)))
    torch.testing.assert_close(together.flatten(0, 1), stereo(*features, *views)[0])


def test_no_gradient_and_float32_under_autocast() -> None:
    features, views = make_features(2), cameras(2)
    features[0].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        volume = StereoCostVolume(BINS)(*features, *views)
    assert not volume.requires_grad
    assert volume.dtype == torch.float32
    assert torch.equal(volume, StereoCostVolume(BINS)(*features, *views))
    torch.testing.assert_close(volume.sum(2), torch.ones(1, 2, H, W))


def test_half_precision_features_are_compared_in_float32() -> None:
    features, views = [f.bfloat16() for f in make_features(2)], cameras(2)
    wanted = StereoCostVolume(BINS)(*(f.float() for f in features), *views)
    assert torch.equal(StereoCostVolume(BINS)(*features, *views), wanted)


def test_export_keeps_it_one_operator() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stereo = StereoCostVolume(BINS)

        def forward(self, *inputs: Tensor) -> Tensor:
            return self.stereo(*inputs) * 2

    inputs = (*make_features(2), *cameras(2))
    program = torch.export.export(Both(), inputs)
    assert sum("matching_cost" in str(node.target) for node in program.graph.nodes) == 1
    torch.testing.assert_close(program.module()(*inputs), Both()(*inputs))


@pytest.mark.parametrize(
    ("position", "shape", "message"),
    [
        (0, (1, 2, 8, H, W - 1), "wants features of now and of the frame before"),
        (1, (1, 3, 8, H, W), "wants features of now and of the frame before"),
        (2, (1, 2, 3, 3), r"wants camera_to_previous \(1, 2, 4, 4\), got \(1, 2, 3, 3\)"),
        (3, (1, 1, 3, 3), r"wants intrinsics \(1, 2, 3, 3\), got \(1, 1, 3, 3\)"),
        (4, (2, 3, 3), r"wants image_aug \(1, 2, 3, 3\), got \(2, 3, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(position: int, shape: tuple[int, ...], message: str) -> None:
    inputs = [*make_features(2), *cameras(2)]
    inputs[position] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message) as error:
        StereoCostVolume(BINS)(*inputs)
    assert "\n" not in str(error.value)


def test_channels_come_in_fours() -> None:
    with pytest.raises(ValueError, match="wants channels in multiples of 4, got 6"):
        StereoCostVolume(BINS)(*make_features(2, 6), *cameras(2))
