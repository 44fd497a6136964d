"""Swin Transformer as an image backbone, by the rules of the published detectors.

Shapes: M images, h x w feature pixels, C channels, K windows of one image, P pixels of one window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, PatchEmbed
from timm.models.swin_transformer import PatchMerging, WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["SwinBackbone"]

_PATCH = 4


class SwinBackbone(nn.Module):
    """Swin Transformer (arXiv:2103.14030) that gives feature maps at chosen strides.

    The published detectors differ from timm's Swin in three ways, all kept here: a map smaller than a window is padded
    to the window instead of shrinking it; padding comes before the shift; each stage has a window size of its own.
    GeoMIM's Swin (arXiv:2303.11325) never shifts its windows and adds a position embedding, resized to the input.
    Inputs and stages that the next stride does not divide are padded with zeros at the right and the bottom.

    Args:
        width: channels of the first stage, doubled by every further one: 128 is Swin-B, 192 Swin-L.
        depths: blocks per stage.
        heads: attention heads per stage.
        windows: window size per stage, feature pixels.
        shifted: move the windows of every second block by half a window; False for GeoMIM.
        position_embedding: height and width the absolute position embedding is stored at, patches; None: no embedding.
            It is resized bicubically (corners not aligned) to the patches of the input.
        drop_path: stochastic depth of the last block; it grows linearly from 0 over all blocks.
        strides: the strides of the levels wanted, finest first. Stages beyond the coarsest are not built.
        raw_strides: those of ``strides`` that are given without their norm layer, as the published stereo feature is.
        checkpointing: per stage, how many of its first blocks recompute their activations in the backward pass (the
            published ``with_cp=[2, 2, 0, 0]``; its ``True`` is ``depths``). None: no block.

    Attributes:
        channels: channels per level, so that a neck can size itself.
        strides: network-input pixels per feature pixel, per level.

    Raises:
        ValueError: options that do not fit each other.
    """

    def __init__(
        self,
        width: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        heads: Sequence[int] = (4, 8, 16, 32),
        windows: Sequence[int] = (7, 7, 7, 7),
        *,
        shifted: bool = True,
        position_embedding: tuple[int, int] | None = None,
        drop_path: float = 0.0,
        strides: Sequence[int] = (16, 32),
        raw_strides: Sequence[int] = (),
        checkpointing: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        checkpointing = (0,) * len(depths) if checkpointing is None else checkpointing
        _check_stages(width, depths, heads, windows, checkpointing)
        _check_strides(strides, raw_strides, stages=len(depths))
        self.strides = tuple(strides)
        self._level_stages = tuple(_stage_of(stride) for stride in strides)
        self.channels = tuple(width << stage for stage in self._level_stages)
        self.patch_embed = PatchEmbed(
            None, _PATCH, embed_dim=width, norm_layer=nn.LayerNorm, output_fmt="NHWC", dynamic_img_pad=True
        )
        self.position_embedding = (
            None if position_embedding is None else nn.Parameter(torch.zeros(1, width, *position_embedding))
        )
        rates = _drop_path_rates(drop_path, depths)
        self.stages = nn.ModuleList(
            _Stage(
                width << i,
                heads[i],
                windows[i],
                shifted=shifted,
                downsample=i > 0,
                drop_path=rates[i],
                checkpointing=checkpointing[i],
            )
            for i in range(max(self._level_stages) + 1)
        )
        normed = (_stage_of(stride) for stride in strides if stride not in raw_strides)
        self.norms = nn.ModuleDict({str(stage): nn.LayerNorm(width << stage) for stage in normed})
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (M, 3, H, W) -> one map per stride, (M, channels[i], ceil(H / strides[i]), ceil(W / strides[i]))."""
        return self._levels(images, self._level_stages)

    def first_level(self, images: Tensor) -> Tensor:
        """images (M, 3, H, W) -> the finest level of :meth:`forward`, computing nothing beyond it."""
        return self._levels(images, self._level_stages[:1])[0]

    def _levels(self, images: Tensor, level_stages: tuple[int, ...]) -> list[Tensor]:
        x = self._embed(images)
        levels = []
        for i, stage in enumerate(self.stages[: level_stages[-1] + 1]):
            x = stage(x)
            if i in level_stages:
                level = self.norms[str(i)](x) if str(i) in self.norms else x
                levels.append(level.permute(0, 3, 1, 2).contiguous())
        return levels

    def _embed(self, images: Tensor) -> Tensor:
        """images (M, 3, H, W) -> patches with their position (M, h, w, C)."""
        patches = self.patch_embed(images)
        if self.position_embedding is None:
            return patches
        position = F.interpolate(self.position_embedding, size=patches.shape[1:3], mode="bicubic", align_corners=False)
        return patches + position.permute(0, 2, 3, 1)


class _Stage(nn.Module):
    """Blocks of one resolution, after merging 2x2 patches of the stage before where there is one."""

    def __init__(
        self,
        width: int,
        heads: int,
        window: int,
        *,
        shifted: bool,
        downsample: bool,
        drop_path: Sequence[float],
        checkpointing: int,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted and len(drop_path) > 1 else 0
        self.checkpointing = checkpointing
        self.downsample = PatchMerging(width // 2) if downsample else nn.Identity()
        self.blocks = nn.ModuleList(
            _Block(width, heads, window, self.shift if i % 2 else 0, rate) for i, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (M, h, w, C) -> the same shape, or (M, ceil(h / 2), ceil(w / 2), 2 C) with downsampling."""
        x = self.downsample(x)
        mask = _shift_mask(x, self.window, self.shift) if self.shift else None
        for i, block in enumerate(self.blocks):
            if i < self.checkpointing and x.requires_grad:
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return x


class _Block(nn.Module):
    """Attention inside windows and a perceptron, both residual and with stochastic depth."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = _FusedWindowAttention(width, heads, window_size=window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (M, h, w, C), mask (K, P, P) of the shifted windows, unused by a block that does not shift -> as x."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask if self.shift else None))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (M, h, w, C) -> attention inside its windows, (M, h, w, C)."""
        height, width = x.shape[1:3]
        size = (self.window, self.window)
        # Padded pixels take part in the attention with the bias of keys and values: published, hence in the weights.
        x = F.pad(x, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded_height, padded_width = x.shape[1:3]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = self.attn(window_partition(x, size).flatten(1, 2), mask)
        x = window_reverse(windows.unflatten(1, size), size, padded_height, padded_width)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]


class _FusedWindowAttention(WindowAttention):
    """timm's window attention with one mask for all images, so that the fused kernel need not see it once per image."""

    relative_position_index: Tensor  # (P, P)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (M * K, P, C), mask (K, P, P) added to the logits -> (M * K, P, C)."""
        pixels = x.shape[1]
        # relative position bias, (1, heads, P, P)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()[None]
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (3, M K, heads, P, C / heads)
        if mask is not None:
            bias = (bias + mask[:, None]).flatten(0, 1)[None]  # (1, K heads, P, P)
            qkv = qkv.reshape(3, -1, bias.shape[1], pixels, qkv.shape[-1])  # (3, M, K heads, P, C / heads)
        query, key, value = qkv.unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended = attended.reshape(-1, self.num_heads, pixels, attended.shape[-1])
        return self.proj(attended.transpose(1, 2).flatten(2))


def _shift_mask(x: Tensor, window: int, shift: int) -> Tensor:
    """What to add to the attention logits of shifted windows: -100 between pixels that were not neighbours.

    Args:
        x: (M, h, w, C), before padding.

    Returns:
        (K, P, P), of the type of x.
    """
    rows, columns = (_regions(size + -size % window, window, shift, x.device) for size in x.shape[1:3])
    regions = (3 * rows[:, None] + columns)[None, ..., None]
    regions = window_partition(regions, (window, window)).flatten(1)  # (K, P)
    apart = regions[:, None, :] != regions[:, :, None]
    return torch.zeros(apart.shape, dtype=x.dtype, device=x.device).masked_fill(apart, -100.0)


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Along one axis: 0 for whole windows, 1 and 2 for the two ends that the shift brings into one window."""
    pixel = torch.arange(size, device=device)
    return (pixel >= size - window).long() + (pixel >= size - shift).long()


def _drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    total = sum(depths)
    rates = iter([last * i / max(total - 1, 1) for i in range(total)])
    return [[next(rates) for _ in range(depth)] for depth in depths]


def _stage_of(stride: int) -> int:
    return (stride // _PATCH).bit_length() - 1


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_stages(
    width: int, depths: Sequence[int], heads: Sequence[int], windows: Sequence[int], checkpointing: Sequence[int]
) -> None:
    if not len(depths) == len(heads) == len(windows) == len(checkpointing) > 0:
        raise ValueError(
            "depths, heads, windows and checkpointing need one entry per stage, "
            f"got {depths}, {heads}, {windows}, {checkpointing}"
        )
    if min(*depths, *heads, *windows) < 1 or min(checkpointing) < 0:
        raise ValueError(
            "depths, heads and windows must be positive and checkpointing not negative, "
            f"got {depths}, {heads}, {windows}, {checkpointing}"
        )
    for stage, count in enumerate(heads):
        if (width << stage) % count:
            raise ValueError(f"stage {stage} has {width << stage} channels: {count} heads do not divide them")


def _check_strides(strides: Sequence[int], raw_strides: Sequence[int], *, stages: int) -> None:
    known = [_PATCH << stage for stage in range(stages)]
    if not strides or list(strides) != sorted(set(strides) & set(known)):
        raise ValueError(f"strides must be some of {known}, finest first, got {tuple(strides)}")
    if not set(raw_strides) <= set(strides):
        raise ValueError(f"raw_strides must be some of the strides {tuple(strides)}, got {tuple(raw_strides)}")
