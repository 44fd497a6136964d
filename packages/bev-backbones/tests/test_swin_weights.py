"""Weights of other Swin layouts: the same outputs, nothing silently left out."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging, SwinTransformer
from torch import Tensor, nn

from bev_backbones import SwinBackbone, load_swin_weights, published_swin_entry

STAGES = {"width": 8, "depths": (2, 2), "heads": (2, 4), "windows": (4, 4)}
RENAMED = (
    (r"^position_embedding$", "absolute_pos_embed"),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.attn\.", ".attn.w_msa."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^norms\.(\d+)\.", r"norm\1."),
    (r"^stages\.1\.downsample\.", "stages.0.downsample."),
)


def backbone(seed: int = 0, **options: object) -> SwinBackbone:
    torch.manual_seed(seed)
    built = SwinBackbone(**{**STAGES, "strides": (4, 8), **options}).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def timm_swin() -> SwinTransformer:
    torch.manual_seed(1)
    return SwinTransformer(
        img_size=(64, 96), embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5
    ).eval()


def timm_levels(model: SwinTransformer, images: Tensor) -> list[Tensor]:
    first = model.layers[0](model.patch_embed(images))
    return [level.permute(0, 3, 1, 2) for level in (first, model.layers[1](first))]


def published_state(source: SwinBackbone) -> dict[str, Tensor]:
    """The weights of a backbone as a published checkpoint names and orders them."""
    state = {}
    for name, tensor in source.state_dict().items():
        if ".downsample." in name:  # inputs (column, row, channel) -> (channel, row, column)
            tensor = tensor.unflatten(-1, (2, 2, -1)).movedim(-1, -3).transpose(-1, -2).flatten(-3)
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    indices = {f"stages.{i}.blocks.0.attn.w_msa.relative_position_index": torch.zeros(16, 16) for i in (0, 1)}
    return {**state, **indices}


def official_state(model: SwinTransformer) -> dict[str, Tensor]:
    """The weights of a timm model as the official ImageNet checkpoints hold them."""
    state = {name.replace("head.fc.", "head."): tensor for name, tensor in model.state_dict().items()}
    state = {name.replace("layers.1.downsample", "layers.0.downsample"): tensor for name, tensor in state.items()}
    derived = {"layers.0.blocks.1.attn_mask": torch.zeros(3), "layers.0.blocks.0.attn.relative_position_index": None}
    return {"model": {**state, **derived}}


def geomim_state(source: SwinBackbone) -> dict[str, Tensor]:
    """A GeoMIM pre-training checkpoint around the weights of a backbone."""
    state = published_state(source)
    state["absolute_pos_embed"] = state["absolute_pos_embed"].flatten(2).transpose(1, 2)
    return {
        **{f"encoders.camera.backbone.{name}": tensor for name, tensor in state.items()},
        "encoders.lidar.backbone.weight": torch.zeros(3),
        "decoder.weight": torch.zeros(3),
    }


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_imagenet_weights_give_the_outputs_of_timm(layout: str) -> None:
    model, images = timm_swin(), torch.randn(2, 3, 64, 96)
    ours = backbone(raw_strides=(4, 8))
    report = load_swin_weights(ours, model.state_dict() if layout == "timm" else official_state(model))
    torch.testing.assert_close(ours(images), timm_levels(model, images))
    assert set(report.loaded) == set(ours.state_dict())
    assert report.missing == report.interpolated == ()
    head = "head.fc" if layout == "timm" else "head"
    assert set(report.unexpected) == {"norm.weight", "norm.bias", f"{head}.weight", f"{head}.bias"}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_published_names_return_to_ours(prefix: str) -> None:
    source, ours, images = backbone(), backbone(seed=1), torch.randn(1, 3, 32, 32)
    report = load_swin_weights(ours, {prefix + name: tensor for name, tensor in published_state(source).items()})
    assert report.missing == report.unexpected == report.interpolated == ()
    torch.testing.assert_close(ours(images), source(images), rtol=0, atol=0)


def test_geomim_pre_training() -> None:
    source, ours = (backbone(seed, position_embedding=(7, 5)) for seed in (0, 1))
    report = load_swin_weights(ours, {"state_dict": geomim_state(source)})
    assert report.unexpected == ("encoders.lidar.backbone.weight", "decoder.weight")
    assert report.missing == report.interpolated == ()
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(images), source(images), rtol=0, atol=0)


def test_entries_one_by_one_are_those_of_a_whole_checkpoint() -> None:
    source = backbone(position_embedding=(7, 5))
    entries = [published_swin_entry(name, tensor) for name, tensor in published_state(source).items()]
    assert entries.count(None) == 2
    torch.testing.assert_close(dict(e for e in entries if e is not None), dict(source.state_dict()), rtol=0, atol=0)


def test_patch_merging_of_unfolded_inputs() -> None:
    """Published merging reads its four patches through unfold; ours must give the same from the permuted weights."""
    pixels = torch.randn(2, 6, 8, 10)
    weight, scale, shift = torch.randn(12, 24), torch.randn(24), torch.randn(24)
    unfolded = F.unfold(pixels, kernel_size=2, stride=2).transpose(1, 2)
    expected = F.linear(F.layer_norm(unfolded, (24,), scale, shift), weight)
    merging = PatchMerging(6)
    published = {"reduction.weight": weight, "norm.weight": scale, "norm.bias": shift}
    ours = dict(published_swin_entry(f"stages.0.downsample.{name}", tensor) for name, tensor in published.items())
    merging.load_state_dict({name.removeprefix("stages.1.downsample."): tensor for name, tensor in ours.items()})
    torch.testing.assert_close(merging(pixels.permute(0, 2, 3, 1)).flatten(1, 2), expected)


def test_tables_of_another_window_are_interpolated() -> None:
    source, ours = backbone(), backbone(seed=1, windows=(4, 6))
    report = load_swin_weights(ours, published_state(source))
    tables = tuple(f"stages.1.blocks.{j}.attn.relative_position_bias_table" for j in (0, 1))
    assert report.interpolated == tables
    assert set(tables) <= set(report.loaded)
    assert report.missing == ()
    for table in tables:  # the centre, where a pixel meets itself, stays
        torch.testing.assert_close(ours.state_dict()[table][60], source.state_dict()[table][24])


def test_the_report_names_what_was_missing_and_what_was_left() -> None:
    state = {name: t for name, t in published_state(backbone()).items() if not name.startswith("norm1.")}
    ours = backbone(seed=1, strides=(4,), position_embedding=(7, 5))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_swin_weights(ours, state)
    assert report.missing == ("position_embedding",)
    assert {name.split(".")[1] for name in report.unexpected if name.startswith("stages.")} == {"0", "1"}
    assert torch.equal(ours.position_embedding, before["position_embedding"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 16}, r"absolute_pos_embed: wanted \(1, 16, 7, 5\) for position_embedding, got \(1, 35, 8\)"),
        ({"heads": (4, 4)}, r"wanted \(49, 4\) for stages.0.blocks.0.attn.relative_position_bias_table, got \(49, 2\)"),
        ({"position_embedding": None}, "has a position embedding .* and the backbone has none"),
        ({"position_embedding": (5, 5)}, r"absolute_pos_embed: wanted \(1, 8, 5, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(options: dict, message: str) -> None:
    source, ours = backbone(position_embedding=(7, 5)), backbone(1, **{"position_embedding": (7, 5), **options})
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_swin_weights(ours, geomim_state(source))
    torch.testing.assert_close(dict(ours.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "no Swin layout that is known: .* got no names"),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, "no Swin layout that is known: .* got layer1.0.conv1.weight"),
        ({"layers.7.blocks.0.norm1.weight": torch.zeros(8)}, "no entry of the checkpoint fits"),
        ({"stages.0.downsample.norm.weight": torch.zeros(7)}, "four merged patches, got"),
        (
            {"stages.0.blocks.0.norm1.bias": torch.zeros(8), "module.stages.0.blocks.0.norm1.bias": torch.zeros(8)},
            "more than one entry for stages.0.blocks.0.norm1.bias",
        ),
    ],
)
def test_checkpoints_of_something_else_are_refused(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_swin_weights(backbone(), state)
