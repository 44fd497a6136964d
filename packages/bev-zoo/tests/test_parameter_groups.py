"""Parameter groups: every parameter once, with the learning rate and the weight decay of the published systems."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bev_zoo import Detector, TrainingOptions
from bev_zoo.parameter_groups import layer_of, parameter_groups

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"
DEPTHS = (2, 2, 18, 2)
GEOMIM = TrainingOptions(learning_rate=2e-4, weight_decay=0.05, layer_decay=0.8)


class _Swin(nn.Module):
    """The names of a Swin backbone with few blocks, on the smallest parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.zeros(1, 2, 3, 3))
        self.patch_embed = nn.Sequential()
        self.patch_embed.proj = nn.Conv2d(3, 2, 4)
        self.stages = nn.ModuleList()
        for depth in (1, 2):
            stage = nn.Module()
            stage.downsample = nn.Linear(2, 2)
            stage.blocks = nn.ModuleList(nn.LayerNorm(2) for _ in range(depth))
            self.stages.append(stage)
        self.norms = nn.ModuleDict({"1": nn.LayerNorm(2)})


@pytest.fixture
def swin() -> nn.Module:
    model = nn.Module()
    model.backbone = _Swin()
    model.head = nn.Conv2d(2, 2, 1)
    return model


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.position_embedding", 0),
        ("backbone.patch_embed.proj.weight", 0),
        ("backbone.patch_embed.norm.bias", 0),
        ("backbone.stages.0.blocks.0.norm1.weight", 1),
        ("backbone.stages.0.blocks.1.attn.qkv.weight", 2),
        ("backbone.stages.1.downsample.reduction.weight", 3),
        ("backbone.stages.1.blocks.0.attn.relative_position_bias_table", 3),
        ("backbone.stages.2.blocks.17.mlp.fc2.bias", 22),
        ("backbone.stages.3.downsample.norm.bias", 23),
        ("backbone.stages.3.blocks.1.norm2.weight", 24),
        ("backbone.norms.3.weight", 25),
        ("neck.fuse.0.weight", 25),
        ("history_encoder.stages.0.0.conv1.weight", 25),
        ("head.shared_conv.conv.weight", 25),
    ],
)
def test_layers_count_from_the_image(name: str, layer: int) -> None:
    assert layer_of(name, DEPTHS) == layer


def test_groups_share_layer_and_kind(swin: nn.Module) -> None:
    swin.head.bias.requires_grad_(False)
    groups = parameter_groups(swin, GEOMIM)
    found = {name: (group["lr"] / 2e-4, group["weight_decay"]) for group in groups for name in group["names"]}
    expected = {
        "head.weight": (1.0, 0.05),  # the frozen bias beside it is left out
        "backbone.norms.1.weight": (1.0, 0.0),
        "backbone.norms.1.bias": (1.0, 0.0),
        "backbone.position_embedding": (0.8**4, 0.05),
        "backbone.patch_embed.proj.weight": (0.8**4, 0.05),
        "backbone.patch_embed.proj.bias": (0.8**4, 0.0),
    }
    for stage, block, layer in ((0, 0, 1), (1, 0, 2), (1, 1, 3)):
        expected[f"backbone.stages.{stage}.blocks.{block}.weight"] = (0.8 ** (4 - layer), 0.0)
        expected[f"backbone.stages.{stage}.blocks.{block}.bias"] = (0.8 ** (4 - layer), 0.0)
    for stage, layer in ((0, 1), (1, 2)):
        expected[f"backbone.stages.{stage}.downsample.weight"] = (0.8 ** (4 - layer), 0.05)
        expected[f"backbone.stages.{stage}.downsample.bias"] = (0.8 ** (4 - layer), 0.0)
    assert found.keys() == expected.keys()
    for name, settings in expected.items():
        assert found[name] == pytest.approx(settings, rel=1e-12), name
    assert len(groups) == 2 * 5 - 1  # no block here has a parameter of two axes beyond the reductions


def test_groups_hold_the_parameters_they_name(swin: nn.Module) -> None:
    groups = parameter_groups(swin, GEOMIM)
    parameters = dict(swin.named_parameters())
    assert sorted(name for group in groups for name in group["names"]) == sorted(parameters)
    for group in groups:
        assert all(parameters[name] is p for name, p in zip(group["names"], group["params"], strict=True))
    assert torch.optim.AdamW(groups).param_groups[0]["lr"] == GEOMIM.learning_rate


def test_without_layer_decay_everything_is_decayed(model: Detector) -> None:
    options = replace(model.recipe.training, layer_decay=None)
    (group,) = parameter_groups(model, options)
    assert group["names"] == [name for name, _ in model.named_parameters()]
    assert (group["lr"], group["weight_decay"]) == (options.learning_rate, options.weight_decay)


def test_layer_decay_without_layers_is_refused(model: Detector) -> None:
    with pytest.raises(ValueError, match=r"with a SwinBackbone, got TimmBackbone: set layer_decay=None"):
        parameter_groups(model, GEOMIM)


# The names that decide the layer, published to ours; what else the detector holds counts to the last layer.
_OURS = (
    (r"^img_backbone\.absolute_pos_embed$", "backbone.position_embedding"),
    (r"^img_backbone\.norm(\d)\.", r"backbone.norms.\1."),
    (r"^img_backbone\.stages\.(\d)\.downsample\.", lambda m: f"backbone.stages.{int(m[1]) + 1}.downsample."),
    (r"^img_backbone\.", "backbone."),
)


def _our_name(published: str) -> str:
    for pattern, replacement in _OURS:
        published = re.sub(pattern, replacement, published)
    return published


@pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"needs the reference figures in {REFERENCE}")
@pytest.mark.parametrize(
    ("system", "decay"),
    [
        ("bevdet-swinb-4d-256x704-cbgs-geomim", 0.8),
        ("bevdet-swinb-4d-stereo-256x704-cbgs-geomim", 0.85),
        ("bevdet-occ-swinl-4d-stereo-512x1408-24e-geomim", 0.85),
    ],
)
def test_settings_are_the_published_ones(system: str, decay: float) -> None:
    published = json.loads((REFERENCE / "optimizer_groups.json").read_text())[system]
    shapes = json.loads((REFERENCE / "manifest" / f"{system}.json").read_text())
    model = _shaped_like({_our_name(name): shapes[name] for name in published})
    groups = parameter_groups(model, replace(GEOMIM, layer_decay=decay))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    decays = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert scales == pytest.approx({_our_name(name): scale for name, (scale, _) in published.items()}, rel=1e-12)
    assert decays == {_our_name(name): weight_decay for name, (_, weight_decay) in published.items()}


def _shaped_like(shapes: dict[str, list[int]]) -> nn.Module:
    """Modules nested as the names say, with parameters of these shapes that need no memory."""
    model = nn.Module()
    for name, shape in shapes.items():
        module, *rest = [model, *name.split(".")]
        for part in rest[:-1]:
            if part not in module._modules:
                module.add_module(part, nn.ModuleList() if part in ("stages", "blocks") else nn.Module())
            module = module._modules[part]
        module.register_parameter(rest[-1], nn.Parameter(torch.empty(shape, device="meta")))
    return model
