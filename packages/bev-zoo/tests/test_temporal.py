"""Temporal and occupancy systems: frames, history switched off, starting from another system's checkpoint."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bev_lss import CameraRig
from bev_zoo import CheckpointError, Detector, Targets, create_model, load_matching

SIZE = (64, 96)


def over_frames(rig: CameraRig, frames: int) -> CameraRig:
    """The ego of the fixture's rig, standing still for some frames."""
    fields = {field.name: getattr(rig, field.name) for field in dataclasses.fields(rig)}
    return CameraRig(
        **{n: t if n == "bev_aug" else t.expand(-1, frames, *t.shape[2:]).contiguous() for n, t in fields.items()}
    )


def make(name: str) -> Detector:
    torch.manual_seed(0)
    return create_model(name, input_size=SIZE)


def random_images(frames: int) -> torch.Tensor:
    return torch.randn(2, frames, 2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("bevdet-tiny-4d", 1, r"T=2.*now \+ 1 past"),
        ("bevdet-tiny-stereo", 2, r"T=3.*now \+ 1 past \+ 1 stereo reference"),
        ("bevdet-tiny", 2, "T=1"),
    ],
)
def test_another_number_of_frames_is_refused(rig: CameraRig, name: str, given: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make(name)(random_images(given), over_frames(rig, given))


@pytest.mark.parametrize("name", ["bevdet-tiny-4d", "bevdet-tiny-stereo"])
def test_history_can_be_switched_off(rig: CameraRig, name: str) -> None:
    model = make(name).eval()
    frames = model.recipe.frames
    images = random_images(frames)
    other_past = torch.cat([images[:, :1], images[:, 1:].flip(-1)], dim=1)
    rig = over_frames(rig, frames)
    with torch.no_grad():
        with_history = [model(x, rig)[0].heatmap for x in (images, other_past)]
        model.use_history = False
        without = [model(x, rig)[0].heatmap for x in (images, other_past)]
    assert not torch.equal(*with_history)
    assert torch.equal(*without)
    model.predict(images, rig)
    assert not model.use_history


def test_only_now_gets_gradients(rig: CameraRig) -> None:
    model = make("bevdet-tiny-4d").train()
    images = random_images(2).requires_grad_()
    model(images, over_frames(rig, 2))[0].heatmap.sum().backward()
    assert images.grad[:, 0].abs().max() > 0
    assert images.grad[:, 1].abs().max() == 0


def test_occupancy_learns_what_cameras_see(rig: CameraRig) -> None:
    model = make("bevdet-tiny-occ").train()
    depth = torch.zeros(2, 2, *SIZE)
    depth[..., ::8, ::8] = 20.0
    semantics = torch.randint(0, 18, (2, 200, 200, 16), dtype=torch.uint8)
    visible = torch.zeros(2, 200, 200, 16, dtype=torch.bool)
    visible[:, 80:120, 80:120] = True
    targets = Targets(depth=depth, semantics=semantics, mask_camera=visible)

    losses = model.loss(random_images(1), rig, targets)

    assert set(losses) == {"loss_occ", "loss_depth"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    labels = model.predict(random_images(1), rig)
    assert [(tuple(x.shape), x.dtype) for x in labels] == [((200, 200, 16), torch.uint8)] * 2
    with pytest.raises(ValueError, match=r"Targets\.semantics and Targets\.mask_camera"):
        model.loss(random_images(1), rig, Targets(depth=depth))


def test_an_occupancy_model_starts_from_a_detection_checkpoint() -> None:
    detector, occupancy = make("bevdet-tiny-depth"), make("bevdet-tiny-occ")
    report = load_matching(occupancy, detector.state_dict())
    assert torch.equal(occupancy.neck.output_conv.weight, detector.neck.output_conv.weight)
    assert any(name.startswith("backbone.") for name in report.loaded)
    assert "head.conv.weight" in report.missing
    assert any(name.startswith("head.task_heads") for name in report.unexpected)
    assert "view_transform.depth_net.depth_out.weight" in report.mismatched
    assert f"loaded {len(report.loaded)} entries" in str(report)


def test_a_checkpoint_without_anything_in_common_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not one of the 1 entries"):
        load_matching(make("bevdet-tiny"), {"fc.weight": torch.zeros(1)})
