"""Backbones, necks and encoders: shapes, gradients and messages.

Agreement with published values is tested above the packages.
"""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from bev_backbones import BevFpn, BevResNet, FinestFpn, TimmBackbone, timm_backbone


@pytest.mark.parametrize(
    ("name", "strides", "channels"),
    [
        ("resnet18", (16, 32), (256, 512)),
        ("resnet18", (8,), (128,)),
        ("convnext_atto", (4, 32), (40, 320)),
        ("mobilenetv3_small_050", (8, 16, 32), (16, 24, 288)),
    ],
)
def test_any_timm_network_gives_the_wanted_strides(
    name: str, strides: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    backbone = TimmBackbone(name, strides=strides).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert backbone.channels == channels
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(
    ("name", "strides", "message"),
    [
        ("resnet5", (16,), "did you mean resnet50"),
        ("qwertyuiop", (16,), "lists the known names"),
        ("resnet18", (64,), r"no level of stride \[64\]"),
    ],
)
def test_unknown_networks_and_strides_are_named(name: str, strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmBackbone(name, strides=strides)


def test_checkpointing_changes_memory_not_numbers() -> None:
    images = torch.randn(2, 3, 32, 32)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        backbone = TimmBackbone("resnet18", checkpointing=checkpointing)
        sum(m.square().mean() for m in backbone(images)).backward()
        gradients.append(backbone.body.conv1.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("name", "strides"),
    [("resnet18", (4, 16)), ("resnet18", (2, 32)), ("convnext_atto", (8, 32)), ("mobilenetv3_small_050", (8, 16))],
)
def test_the_first_level_is_that_of_forward(name: str, strides: tuple[int, ...]) -> None:
    backbone, images = TimmBackbone(name, strides=strides).eval(), torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(backbone.first_level(images), backbone(images)[0], rtol=0, atol=0)


def test_the_first_level_computes_nothing_beyond_it() -> None:
    backbone = TimmBackbone("resnet18", strides=(4, 16)).eval()
    backbone.body.layer2.register_forward_hook(lambda *_: pytest.fail("the second stage ran"))
    backbone.first_level(torch.zeros(1, 3, 32, 32))


def test_a_network_that_cannot_be_built_without_memory_is_moved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As RegNets with PyTorch 2.11, which has no meta kernel of torch.unique."""
    create = timm.create_model

    def create_with_memory_only(*args: object, **options: object) -> nn.Module:
        if torch.get_default_device().type == "meta":
            raise NotImplementedError("aten::_unique2")
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", create_with_memory_only)
    timm_backbone._reductions.cache_clear()
    with torch.device("meta"):
        network = TimmBackbone("resnet18", strides=(16, 32))
    assert network.channels == (256, 512)
    assert all(parameter.is_meta for parameter in network.parameters())


def test_fpn_adds_the_coarse_levels_onto_the_finest() -> None:
    neck = FinestFpn((4, 6, 8), 5)
    levels = [torch.randn(2, 4, 12, 20), torch.randn(2, 6, 6, 10), torch.randn(2, 8, 3, 5)]
    laterals = [conv(level) for conv, level in zip(neck.lateral_convs, levels, strict=True)]
    merged = laterals[0]
    for lateral in laterals[1:]:
        factor = 12 // lateral.shape[-2]
        merged = merged + lateral.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    torch.testing.assert_close(neck(levels), neck.output_conv(merged))
    with pytest.raises(ValueError, match="built for 3 levels, got 2"):
        neck(levels[:2])


def test_bev_encoder_and_neck_return_to_the_grid() -> None:
    encoder = BevResNet(6, (8, 12, 16), blocks=(2, 1, 2), strides=(2, 2, 2))
    neck = BevFpn(8, 16, 10)
    maps = encoder(torch.randn(2, 6, 32, 48))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 24), (2, 12, 8, 12), (2, 16, 4, 6)]
    assert neck(maps).shape == (2, 10, 32, 48)


def test_a_neck_without_output_stage_ends_at_the_fine_map() -> None:
    neck = BevFpn(8, 16, 10, scale=2, output_scale=None).eval()
    fine, coarse = torch.randn(2, 8, 6, 10), torch.randn(2, 16, 3, 5)
    upsampled = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(neck([fine, coarse]), neck.fuse(torch.cat([fine, upsampled], dim=1)))
    assert {name.split(".")[0] for name in neck.state_dict()} == {"fuse"}
    assert neck.fuse[0].out_channels == neck.fuse[3].out_channels == 10


def test_the_shortcut_of_a_stage_is_a_plain_convolution() -> None:
    first = BevResNet(6, (8,), blocks=(1,), strides=(2,)).stages[0][0]
    assert isinstance(first.downsample, torch.nn.Conv2d)
    assert first.downsample.bias is not None


def test_stages_need_one_entry_each() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        BevResNet(6, (8, 12), blocks=(2,), strides=(2, 2))
