"""The detector: its call, its losses and what it refuses."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from bev_lss import CameraRig
from bev_zoo import Detector, Targets, create_model, get_recipe

SIZE = (64, 96)


def test_forward_gives_one_map_per_task(model: Detector, images: torch.Tensor, rig: CameraRig) -> None:
    (output,) = model.eval()(images, rig)
    assert output.heatmap.shape == (2, 10, 64, 64)
    assert output.size.shape == (2, 3, 64, 64)


def test_predict_leaves_the_mode_of_the_module_alone(model: Detector, images: torch.Tensor, rig: CameraRig) -> None:
    model.train()
    mean = model.head.shared_conv.bn.running_mean.clone()
    detections = model.predict(images, rig)
    assert model.training
    assert torch.equal(model.head.shared_conv.bn.running_mean, mean)
    assert len(detections) == 2
    assert all(d.boxes.shape == (len(d.scores), 9) and not d.boxes.requires_grad for d in detections)


def make_targets(depth: bool = True) -> Targets:
    """One car in the first sample, none in the second; LiDAR points in the upper left corner of every image."""
    depth_map = torch.zeros(2, 2, *SIZE)
    depth_map[..., ::8, :40:8] = 20.0
    return Targets(
        boxes=[torch.tensor([[10.0, 2, 0, 4, 2, 1.5, 0.3, 1, 0]]), torch.zeros(0, 9)],
        labels=[torch.tensor([0]), torch.zeros(0, dtype=torch.long)],
        depth=depth_map if depth else None,
    )


def test_every_parameter_learns_from_the_loss(model: Detector, images: torch.Tensor, rig: CameraRig) -> None:
    losses = model.train().loss(images, rig, make_targets())
    head_terms = {f"task0.loss_{term}" for term in ("xy", "z", "whl", "yaw", "vel", "heatmap")}
    assert set(losses) == head_terms | {"loss_depth"}
    sum(losses.values()).backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters()}
    assert all(torch.isfinite(torch.tensor(norm)) for norm in norms.values())
    # timm starts the last normalisation of a residual branch at zero, so some of the backbone first moves a step later.
    idle = [name for name, norm in norms.items() if norm == 0 and not name.startswith("backbone.body.s")]
    assert not idle


def test_a_few_steps_lower_the_loss(model: Detector, images: torch.Tensor, rig: CameraRig) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(8):
        total = sum(model.train().loss(images, rig, make_targets()).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.7 * totals[0]


def test_depth_supervision_needs_a_depth_map(model: Detector, images: torch.Tensor, rig: CameraRig) -> None:
    with pytest.raises(ValueError, match=r"wants Targets.depth \(2, 2, 64, 96\), got None"):
        model.loss(images, rig, make_targets(depth=False))


def test_without_depth_supervision_no_lidar_is_asked_for(images: torch.Tensor, rig: CameraRig) -> None:
    recipe = get_recipe("bevdet-tiny")
    model = create_model(replace(recipe, input_size=SIZE, view=replace(recipe.view, depth_loss_weight=None)))
    assert "loss_depth" not in model.loss(images, rig, make_targets(depth=False))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 2, 2, 3, 64, 96), r"T=1"),
        ((2, 1, 2, 3, 64, 64), "create_model"),
        ((2, 1, 3, 3, 64, 96), "they must be equal"),
        ((2, 2, 3, 64, 96), r"wants images"),
    ],
)
def test_inputs_that_do_not_fit_are_named(
    model: Detector, rig: CameraRig, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape), rig)


def test_any_number_of_cameras_is_legal(model: Detector, rig: CameraRig) -> None:
    front = CameraRig(
        **{
            f.name: getattr(rig, f.name)[:, :, :1] if f.name != "bev_aug" else rig.bev_aug
            for f in dataclasses.fields(rig)
        }
    )
    (output,) = model.eval()(torch.zeros(2, 1, 1, 3, 64, 96), front)
    assert torch.isfinite(output.heatmap).all()
