"""Depth labels and loss against plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from bev_lss import DepthBins, depth_labels, depth_loss

UNIFORM = DepthBins(1.0, 60.0, 1.0)
LOG = DepthBins(1.0, 60.0, 1.0, log_spaced=True)


@pytest.mark.parametrize(
    ("bins", "depth_m", "label"),
    [
        (UNIFORM, 0.0, -1),
        (UNIFORM, 0.5, -1),
        (UNIFORM, 1.0, 0),
        (UNIFORM, 1.99, 0),
        (UNIFORM, 30.2, 29),
        (UNIFORM, 59.9, 58),
        (UNIFORM, 60.0, -1),
        (DepthBins(2.0, 12.0, 0.5), 3.3, 2),
        (LOG, 1.0, 0),
        (LOG, math.exp(math.log(59) * 10.5 / 58), 10),
        (LOG, 70.0, -1),
    ],
)
def test_a_depth_gets_the_bin_it_falls_into(bins: DepthBins, depth_m: float, label: int) -> None:
    depth_map = torch.zeros(1, 1, 4, 4)
    depth_map[0, 0, 2, 1] = depth_m
    assert depth_labels(depth_map, bins, 4).item() == label


@pytest.mark.parametrize("bins", [UNIFORM, LOG, DepthBins(1.0, 45.0, 0.5), DepthBins(1.0, 60.0, 0.5, log_spaced=True)])
def test_a_bin_reaches_from_its_depth_to_the_next(bins: DepthBins) -> None:
    values, label = bins.values(), torch.arange(bins.count)
    for fraction in (1e-3, 0.5, 0.999):
        beyond = torch.cat([values[1:], 2 * values[-1:] - values[-2:-1]])
        depth_map = (values + fraction * (beyond - values))[None, None, None]
        kept = label if not bins.log_spaced else label[:-1]  # the step after the last log bin is not its predecessor's
        assert torch.equal(depth_labels(depth_map, bins, 1).flatten()[: len(kept)], kept)


def test_the_nearest_point_of_a_patch_counts() -> None:
    torch.manual_seed(0)
    depth_map = torch.rand(2, 3, 8, 12) * 70 * (torch.rand(2, 3, 8, 12) < 0.2)
    labels = depth_labels(depth_map, UNIFORM, 4)
    assert labels.shape == (2, 3, 2, 3)
    for b, n, i, j in torch.cartesian_prod(*(torch.arange(size) for size in labels.shape)):
        patch = depth_map[b, n, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        points = patch[patch > 0]
        nearest = points.min().item() if len(points) else 0
        assert labels[b, n, i, j] == (int(nearest) - 1 if 1 <= nearest < 60 else -1)


def test_the_loss_is_the_mean_over_labelled_pixels() -> None:
    torch.manual_seed(0)
    depth = torch.randn(1, 2, 5, 2, 2).softmax(2).requires_grad_()
    labels = torch.tensor([[[[0, -1], [4, 2]], [[-1, -1], [-1, 3]]]])
    wanted = []
    for n, i, j in [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)]:
        p, label = depth[0, n, :, i, j].tolist(), labels[0, n, i, j]
        wanted.append(-sum(math.log(p[k]) if k == label else math.log(1 - p[k]) for k in range(5)))
    loss = depth_loss(depth, labels)
    assert loss.item() == pytest.approx(sum(wanted) / 4, rel=1e-5)
    loss.backward()
    assert depth.grad[0, 0, :, 0, 1].abs().sum() == 0


def test_no_label_gives_zero_and_no_nan() -> None:
    depth = torch.randn(1, 1, 5, 2, 2).softmax(2).requires_grad_()
    loss = depth_loss(depth, torch.full((1, 1, 2, 2), -1))
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(depth.grad).all()


def test_a_map_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4 pixels"):
        depth_labels(torch.zeros(1, 1, 6, 8), UNIFORM, 4)
