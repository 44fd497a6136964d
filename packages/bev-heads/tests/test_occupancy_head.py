"""Occupancy head: axes, loss by its formula, labels that are none, decoding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from bev_heads import OccupancyHead, occupancy_loss

X, Y, Z, CLASSES = 6, 5, 4, 18


@pytest.fixture
def head() -> OccupancyHead:
    torch.manual_seed(0)
    return OccupancyHead(8, hidden_channels=3)


def voxels(samples: int = 2) -> Tensor:
    return torch.randn(samples, 8, Z, Y, X, generator=torch.Generator().manual_seed(1))


def targets(samples: int = 2, visible: float = 0.4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    semantics = torch.randint(0, CLASSES, (samples, X, Y, Z), generator=generator).to(torch.uint8)
    return semantics, torch.rand(samples, X, Y, Z, generator=generator) < visible


def test_parameters_are_the_published_ones() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in OccupancyHead(32).state_dict().items()}
    assert shapes == {
        "conv.weight": (32, 32, 3, 3, 3),
        "conv.bias": (32,),
        "predictor.0.weight": (64, 32),
        "predictor.0.bias": (64,),
        "predictor.2.weight": (18, 64),
        "predictor.2.bias": (18,),
    }


def test_a_voxel_is_predicted_from_its_neighbourhood_with_axes_turned(head: OccupancyHead) -> None:
    logits = head(voxels())
    assert logits.shape == (2, X, Y, Z, CLASSES)
    x, y, z = 3, 2, 1
    around = voxels()[1, :, z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2]
    hidden = relu((head.conv.weight * around).sum(dim=(1, 2, 3, 4)) + head.conv.bias)
    first, _, last = head.predictor
    expected = last.weight @ softplus(first.weight @ hidden + first.bias) + last.bias
    torch.testing.assert_close(logits[1, x, y, z], expected)


def test_fresh_convolutions_are_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    head = OccupancyHead(64, hidden_channels=16)
    assert head.conv.weight.std().item() == pytest.approx((2 / (16 * 27)) ** 0.5, rel=0.02)
    assert not head.conv.bias.any()


def test_the_loss_is_the_mean_over_visible_voxels_of_all_samples(head: OccupancyHead) -> None:
    semantics, mask = targets()
    mask[1] = False
    mask[1, 0, 0, 0] = True  # one voxel of the second sample weighs as much as one of the first
    logits = head(voxels())
    terms = [-logits[i].log_softmax(-1)[int(semantics[i])] for i in map(tuple, mask.nonzero().tolist())]
    losses = head.loss(logits, semantics, mask)
    assert list(losses) == ["loss_occ"]
    torch.testing.assert_close(losses["loss_occ"], torch.stack(terms).mean())


def test_skipping_hidden_voxels_changes_neither_loss_nor_gradients(head: OccupancyHead) -> None:
    gradients = []
    for loss in (lambda v, *t: head.loss(head(v), *t), head.loss_from_voxels):
        feature = voxels().requires_grad_()
        value = loss(feature, *targets())["loss_occ"]
        head.zero_grad()
        value.backward()
        gradients.append([value.detach(), feature.grad, *(p.grad.clone() for p in head.parameters())])
    assert gradients[0][1].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("way", ["logits", "voxels"])
def test_nothing_visible_is_no_loss(head: OccupancyHead, way: str) -> None:
    feature, (semantics, mask) = voxels().requires_grad_(), targets(visible=0.0)
    losses = head.loss(head(feature), semantics, mask) if way == "logits" else None
    losses = losses or head.loss_from_voxels(feature, semantics, mask)
    losses["loss_occ"].backward()
    assert losses["loss_occ"].item() == 0
    assert all(not parameter.grad.any() for parameter in head.parameters())  # a gradient, as every process must have
    assert not feature.grad.any()


def test_the_loss_is_float32_under_autocast(head: OccupancyHead) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(voxels())
        loss = occupancy_loss(logits, *targets())
    assert (logits.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert loss.item() == pytest.approx(occupancy_loss(head(voxels()), *targets()).item(), rel=0.02)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("visible", [True, False])
def test_unknown_labels_are_refused_where_no_camera_looks_too(dtype: torch.dtype, visible: bool) -> None:
    semantics, mask = targets()
    semantics[0, 1, 2, 3], semantics[1, 0, 0, 0] = 18, 255
    mask[0, 1, 2, 3] = mask[1, 0, 0, 0] = visible
    with pytest.raises(ValueError, match=r"must be 0 to 17, got 2 voxels of 18, 255"):
        occupancy_loss(torch.zeros(2, X, Y, Z, CLASSES), semantics.to(dtype), mask)


@pytest.mark.parametrize(
    ("semantics", "mask", "message"),
    [
        (torch.zeros(1, X, Y, Z).byte(), torch.ones(2, X, Y, Z).bool(), r"semantics must be \(2, 6, 5, 4\)"),
        (torch.zeros(2, Z, Y, X).byte(), torch.ones(2, X, Y, Z).bool(), r"semantics must be .* got \(2, 4, 5, 6\)"),
        (torch.zeros(2, X, Y, Z).byte(), torch.ones(2, X, Y).bool(), r"mask_camera must be .* got \(2, 6, 5\)"),
        (torch.zeros(2, X, Y, Z).byte(), torch.ones(2, X, Y, Z).byte(), r"mask_camera must be bool .* torch.uint8"),
        (torch.zeros(2, X, Y, Z), torch.ones(2, X, Y, Z).bool(), r"semantics integers, got .* torch.float32"),
        (torch.full((2, X, Y, Z), -1), torch.ones(2, X, Y, Z).bool(), r"got 240 voxels of -1"),
    ],
)
def test_targets_that_do_not_fit(head: OccupancyHead, semantics: Tensor, mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head.loss_from_voxels(voxels(), semantics, mask)
    with pytest.raises(ValueError, match=message):
        head.loss(head(voxels()), semantics, mask)


@pytest.mark.parametrize("shape", [(2, 7, Z, Y, X), (8, Z, Y, X)])
def test_features_that_do_not_fit(head: OccupancyHead, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 8, Z, Y, X\), got"):
        head(torch.zeros(shape))


def test_decoding_takes_the_most_likely_class(head: OccupancyHead) -> None:
    semantics, _ = targets()
    logits = torch.nn.functional.one_hot(semantics.long(), CLASSES).float()
    labels = head.decode(logits)
    assert [(tuple(sample.shape), sample.dtype) for sample in labels] == [((X, Y, Z), torch.uint8)] * 2
    assert torch.equal(torch.stack(labels), semantics)


def test_the_head_learns_a_scene() -> None:
    torch.manual_seed(0)
    head, feature, (semantics, mask) = OccupancyHead(8, hidden_channels=32), voxels(1), targets(1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        head.loss_from_voxels(feature, semantics, mask)["loss_occ"].backward()
        optimizer.step()
    right = head.decode(head(feature))[0] == semantics[0]
    assert right[mask[0]].float().mean() > 0.95
    assert right[~mask[0]].float().mean() < 0.5  # hidden voxels taught it nothing


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_loss_and_gradient_of_the_cpu(head: OccupancyHead) -> None:
    results = []
    for device in ("cpu", "cuda"):
        feature = voxels().to(device).requires_grad_()
        loss = head.to(device).loss_from_voxels(feature, *(t.to(device) for t in targets()))["loss_occ"]
        loss.backward()
        results.append([loss.detach().cpu(), feature.grad.cpu()])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
