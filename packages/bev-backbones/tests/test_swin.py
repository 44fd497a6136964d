"""Swin: which pixels see which, its levels, and its options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_backbones import SwinBackbone


def tiny(**options: object) -> SwinBackbone:
    """Two stages of two blocks, with what the options say."""
    torch.manual_seed(0)
    settings = {"width": 8, "depths": (2, 2), "heads": (2, 4), "windows": (4, 3), "strides": (4, 8), **options}
    return SwinBackbone(**settings).eval()


def silence(*layers: nn.Linear) -> None:
    """Residual branches that end in these layers add nothing."""
    for layer in layers:
        nn.init.zeros_(layer.weight)


def one_stage(window: int, depth: int, **options: object) -> SwinBackbone:
    return tiny(depths=(depth,), heads=(2,), windows=(window,), strides=(4,), raw_strides=(4,), **options)


@pytest.mark.parametrize(
    ("shifted", "pixel", "seen"),
    [
        (False, 0, range(4)),
        (False, 6, range(4, 7)),
        (True, 0, range(2)),
        (True, 3, range(2, 6)),
        (True, 6, range(6, 7)),  # padding comes before the shift: a shift of 7 pixels would bring 6 and 0 together
    ],
)
def test_a_pixel_sees_its_window(shifted: bool, pixel: int, seen: range) -> None:
    """Windows of 4 on a map of 7x7, along its diagonal; the first block, never shifted, attends to nothing."""
    backbone = one_stage(window=4, depth=2, shifted=shifted)
    silence(backbone.stages[0].blocks[0].attn.proj)
    images = torch.randn(1, 3, 28, 28, requires_grad=True)
    backbone(images)[0][0, :, pixel, pixel].square().sum().backward()
    influence = F.avg_pool2d(images.grad.abs().sum(1), 4)[0]
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[seen.start : seen.stop, seen.start : seen.stop] = True
    assert torch.equal(influence > 1e-8, expected)


def test_a_map_smaller_than_the_window_is_padded() -> None:
    """With equal attention everywhere, 9 pixels in a window of 8x8 give a 64th of their sum."""
    backbone = one_stage(window=8, depth=1)
    block = backbone.stages[0].blocks[0]
    silence(block.mlp.fc2, block.attn.qkv)
    for layer in (block.attn.qkv.weight[16:], block.attn.proj.weight):
        nn.init.eye_(layer)
    nn.init.zeros_(block.attn.relative_position_bias_table)
    images = torch.randn(2, 3, 12, 12)
    patches = backbone.patch_embed(images)
    expected = patches + block.norm1(patches).sum((1, 2), keepdim=True) / 64
    torch.testing.assert_close(backbone(images)[0], expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [(20, 12), (24, 40)])
def test_the_position_embedding_follows_the_input(size: tuple[int, int]) -> None:
    backbone = one_stage(window=4, depth=1, position_embedding=(5, 3))
    silence(backbone.stages[0].blocks[0].attn.proj, backbone.stages[0].blocks[0].mlp.fc2)
    nn.init.normal_(backbone.position_embedding)
    images = torch.randn(1, 3, *size)
    added = backbone(images)[0] - backbone.patch_embed(images).permute(0, 3, 1, 2)
    grid = (size[0] // 4, size[1] // 4)
    expected = F.interpolate(backbone.position_embedding, size=grid, mode="bicubic", align_corners=False)
    torch.testing.assert_close(added, expected)
    if grid == (5, 3):
        torch.testing.assert_close(added, backbone.position_embedding)


@pytest.mark.parametrize(
    ("size", "sizes"), [((64, 96), [(16, 24), (8, 12)]), ((33, 66), [(9, 17), (5, 9)]), ((4, 4), [(1, 1), (1, 1)])]
)
def test_levels_of_any_input_size(size: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    backbone = tiny()
    levels = backbone(torch.randn(2, 3, *size))
    assert backbone.channels == (8, 16)
    assert [tuple(level.shape) for level in levels] == [(2, c, *s) for c, s in zip((8, 16), sizes, strict=True)]


def test_padding_adds_zeros_at_the_right_and_the_bottom() -> None:
    backbone, images = tiny(), torch.randn(1, 3, 30, 45)
    torch.testing.assert_close(backbone(images), backbone(F.pad(images, (0, 3, 0, 2))))


def test_only_raw_levels_come_without_their_norm() -> None:
    images = torch.randn(1, 3, 32, 32)
    normed, raw = tiny(), tiny(raw_strides=(4,))
    raw.load_state_dict(normed.state_dict(), strict=False)
    assert set(normed.state_dict()) - set(raw.state_dict()) == {"norms.0.weight", "norms.0.bias"}
    expected = normed.norms["0"](raw(images)[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(normed(images)[0], expected)
    torch.testing.assert_close(normed(images)[1], raw(images)[1])


@pytest.mark.parametrize("options", [{}, {"raw_strides": (4,)}, {"strides": (8,)}, {"position_embedding": (3, 3)}])
def test_the_first_level_is_that_of_forward(options: dict) -> None:
    backbone, images = tiny(**options), torch.randn(2, 3, 32, 48)
    torch.testing.assert_close(backbone.first_level(images), backbone(images)[0], rtol=0, atol=0)


def test_the_first_level_computes_nothing_beyond_it() -> None:
    backbone, images = tiny(), torch.randn(1, 3, 32, 32)
    backbone.stages[1].register_forward_hook(lambda *_: pytest.fail("the second stage ran"))
    backbone.first_level(images)


def test_stages_beyond_the_coarsest_level_are_not_built() -> None:
    assert len(tiny(strides=(4,)).stages) == 1


def test_names_in_the_state() -> None:
    names = set(tiny(position_embedding=(3, 3), raw_strides=(4,)).state_dict())
    linear, norm = ("weight", "bias"), ("weight", "bias")
    block = {
        "attn.relative_position_bias_table",
        *(f"{layer}.{kind}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2") for kind in linear),
        *(f"{layer}.{kind}" for layer in ("norm1", "norm2") for kind in norm),
    }
    assert names == {
        "position_embedding",
        *(f"patch_embed.{layer}.{kind}" for layer in ("proj", "norm") for kind in linear),
        *(f"stages.{i}.blocks.{j}.{name}" for i in (0, 1) for j in (0, 1) for name in block),
        *("stages.1.downsample.norm.weight", "stages.1.downsample.norm.bias", "stages.1.downsample.reduction.weight"),
        *(f"norms.1.{kind}" for kind in norm),
    }


def test_every_weight_learns() -> None:
    backbone = tiny(position_embedding=(3, 3)).train()
    sum(level.square().sum() + level.sum() for level in backbone(torch.randn(2, 3, 28, 44))).backward()
    still = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_drop_path_grows_over_all_blocks() -> None:
    backbone = tiny(depths=(2, 3), drop_path=0.4)
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in backbone.stages for b in stage.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_checkpointing_changes_memory_not_gradients() -> None:
    def gradients(checkpointing: tuple[int, ...] | None) -> list[Tensor]:
        backbone = tiny(drop_path=0.5, checkpointing=checkpointing).train()
        torch.manual_seed(1)
        sum(level.square().sum() for level in backbone(torch.randn(4, 3, 32, 32))).backward()
        return [p.grad for p in backbone.parameters()]

    torch.testing.assert_close(gradients((2, 1)), gradients(None))


@pytest.mark.parametrize(
    ("checkpointing", "runs"), [((1, 0), [2, 1, 1, 1]), ((0, 2), [1, 1, 2, 2]), (None, [1, 1, 1, 1])]
)
def test_checkpointing_counts_the_first_blocks_of_a_stage(checkpointing: tuple | None, runs: list[int]) -> None:
    backbone = tiny(checkpointing=checkpointing)
    counts = [0] * 4
    for i, block in enumerate(block for stage in backbone.stages for block in stage.blocks):

        def count(*_: object, i: int = i) -> None:
            counts[i] += 1

        block.norm1.register_forward_pre_hook(count)
    backbone(torch.randn(1, 3, 16, 16))[1].square().sum().backward()
    assert counts == runs


def test_export_gives_the_same_levels() -> None:
    backbone = tiny(position_embedding=(3, 3))
    batch = torch.export.Dim("images", min=1, max=16)
    with torch.no_grad():
        program = torch.export.export(backbone, (torch.randn(2, 3, 28, 44),), dynamic_shapes=({0: batch},))
        images = torch.randn(3, 3, 28, 44)
        torch.testing.assert_close(list(program.module()(images)), backbone(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": (4,)}, "one entry per stage"),
        ({"checkpointing": (1,)}, "one entry per stage"),
        ({"windows": (4, 0)}, "must be positive"),
        ({"checkpointing": (-1, 0)}, "not negative"),
        ({"heads": (3, 4)}, "stage 0 has 8 channels: 3 heads do not divide them"),
        ({"strides": (8, 4)}, r"some of \[4, 8\], finest first, got \(8, 4\)"),
        ({"strides": (4, 16)}, r"some of \[4, 8\]"),
        ({"strides": ()}, r"some of \[4, 8\]"),
        ({"raw_strides": (16,)}, r"raw_strides must be some of the strides \(4, 8\)"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)
