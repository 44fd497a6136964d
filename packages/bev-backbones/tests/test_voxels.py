"""Voxel encoder and neck."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_backbones import VoxelFpn, VoxelResNet


def encoder(**options: object) -> VoxelResNet:
    torch.manual_seed(0)
    settings = {"channels": (6, 8, 10), "blocks": (1, 2, 1), "strides": (1, 2, 2), **options}
    return VoxelResNet(5, **settings)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((8, 12, 16), [(8, 12, 16), (4, 6, 8), (2, 3, 4)]),
        ((1, 5, 7), [(1, 5, 7), (1, 3, 4), (1, 2, 2)]),
    ],
)
def test_stages_of_any_grid(size: tuple[int, ...], sizes: list[tuple[int, ...]]) -> None:
    maps = encoder()(torch.randn(2, 5, *size))
    assert [tuple(m.shape) for m in maps] == [(2, c, *s) for c, s in zip((6, 8, 10), sizes, strict=True)]


def test_a_block_adds_its_convolutions_to_its_shortcut() -> None:
    stages, voxels = encoder(blocks=(2, 1, 1)).eval(), torch.randn(1, 5, 4, 6, 6)
    for module in stages.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.running_mean)
    first, second = stages.stages[0]
    shortcut = F.batch_norm(
        F.conv3d(voxels, first.shortcut[0].weight, padding=1), first.shortcut[1].running_mean, torch.ones(6)
    )
    middle = (first.bn2(first.conv2(first.bn1(first.conv1(voxels)).relu())) + shortcut).relu()
    expected = (second.bn2(second.conv2(second.bn1(second.conv1(middle)).relu())) + middle).relu()
    torch.testing.assert_close(stages(voxels)[0], expected)


def test_names_in_the_state() -> None:
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    convs = {f"{i}.{j}.conv{k}.weight" for i, j in ((0, 0), (1, 0), (1, 1), (2, 0)) for k in (1, 2)}
    norms = {f"{i}.{j}.bn{k}.{kind}" for i, j in ((0, 0), (1, 0), (1, 1), (2, 0)) for k in (1, 2) for kind in bn}
    shortcuts = {f"{i}.0.shortcut.{kind}" for i in range(3) for kind in ("0.weight", *(f"1.{k}" for k in bn))}
    assert set(encoder().state_dict()) == {f"stages.{name}" for name in convs | norms | shortcuts}
    assert set(VoxelFpn(24, 7).state_dict()) == {"fuse.0.weight", *(f"fuse.1.{kind}" for kind in bn)}


def test_checkpointing_changes_memory_not_gradients() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        stages = encoder(checkpointing=checkpointing)
        voxels = torch.randn(2, 5, 4, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
        sum(m.square().sum() for m in stages(voxels)).backward()
        return [voxels.grad, *(p.grad for p in stages.parameters())]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_checkpointing_the_neck_changes_memory_not_gradients() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        torch.manual_seed(0)
        neck = VoxelFpn(24, 7, checkpointing=checkpointing)
        maps = [torch.randn(2, c, 8 // s, 12 // s, 4 // s, requires_grad=True) for c, s in ((6, 1), (8, 2), (10, 4))]
        fused = neck(maps)
        fused.square().sum().backward()
        runs.append(int(neck.fuse[1].num_batches_tracked))
        return [fused.detach(), *(m.grad for m in maps), *(p.grad for p in neck.parameters())]

    runs: list[int] = []
    torch.testing.assert_close(gradients(True), gradients(False), rtol=0, atol=0)
    assert runs == [2, 1]  # the recomputation counts, as published


@pytest.mark.parametrize("training", [False, True])
def test_the_neck_fuses_the_upsampled_maps(training: bool) -> None:
    neck = VoxelFpn(24, 7).train(training)
    nn.init.normal_(neck.fuse[1].weight)
    maps = [torch.randn(2, c, 8 // s, 12 // s, 4 // s) for c, s in ((6, 1), (8, 2), (10, 4))]
    same_size = [
        nn.Upsample(scale_factor=s, mode="trilinear", align_corners=True)(m)
        for m, s in zip(maps, (1, 2, 4), strict=True)
    ]
    torch.testing.assert_close(neck(maps), neck.fuse(torch.cat(same_size, dim=1)), rtol=1e-4, atol=1e-5)


def test_encoder_and_neck_learn() -> None:
    stages, neck = encoder(), VoxelFpn(24, 7)
    neck(stages(torch.randn(2, 5, 4, 8, 8))).square().sum().backward()
    still = [p.shape for module in (stages, neck) for p in module.parameters() if not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize(
    ("sizes", "channels", "message"),
    [
        ([(4, 8, 8), (2, 4, 4)], (6, 8), "built for 3 maps, got 2"),
        ([(4, 8, 8), (2, 4, 4), (1, 2, 2)], (6, 8, 9), r"built for 24 channels together, got \[6, 8, 9\]"),
        ([(4, 7, 8), (2, 4, 4), (1, 2, 2)], (6, 8, 10), "do not meet.*Z, Y and X are multiples of 4"),
    ],
)
def test_maps_that_do_not_fit_are_named(sizes: list, channels: tuple[int, ...], message: str) -> None:
    maps = [torch.zeros(1, c, *size) for c, size in zip(channels, sizes, strict=True)]
    with pytest.raises(ValueError, match=message):
        VoxelFpn(24, 7)(maps)


def test_stages_need_one_entry_each() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        encoder(blocks=(2,))
