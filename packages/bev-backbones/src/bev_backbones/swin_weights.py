"""Weights of other Swin implementations for :class:`SwinBackbone`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .relative_position import resize_relative_position_table
from .swin import SwinBackbone

__all__ = ["SwinWeightsReport", "load_swin_weights", "published_swin_entry", "published_swin_name"]


@dataclass(frozen=True)
class SwinWeightsReport:
    """What became of a checkpoint.

    Attributes:
        loaded: names of the backbone that got weights from it.
        missing: names of the backbone that kept what they had.
        unexpected: names of the checkpoint that the backbone has no place for: heads, other encoders, further stages.
        interpolated: those of ``loaded`` whose relative positions were resized from another window.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    interpolated: tuple[str, ...]


def load_swin_weights(backbone: SwinBackbone, state: Mapping[str, Tensor]) -> SwinWeightsReport:
    """Load pre-training weights: what fits goes in, and the report tells what did not.

    Known are the official ImageNet layout, timm's, and the one of GeoMIM pre-training and of published detectors;
    prefixes (``module.``, ``encoders.camera.backbone.``, ``backbone.``) fall away, and a state under "model" or
    "state_dict" is taken out. Relative position tables of another window size are interpolated; a flattened position
    embedding (1, L, C) is given its two axes. The indices and masks that some checkpoints store follow from the
    options of a backbone and are ignored.

    Args:
        backbone: changed in place, or not at all where an error is raised.
        state: names and tensors.

    Raises:
        ValueError: a layout that is not known, shapes that do not fit, or a position embedding that does not fit.
    """
    wanted = backbone.state_dict()
    entries: dict[str, Tensor] = {}
    unexpected: list[str] = []
    interpolated: list[str] = []
    for name, our_name, tensor in _our_entries(state):
        if our_name not in wanted and our_name != "position_embedding":
            unexpected.append(name)
            continue
        if our_name in entries:
            raise ValueError(f"the checkpoint has more than one entry for {our_name}, the last is {name}: keep one")
        entries[our_name] = _fitted(name, tensor, our_name, wanted.get(our_name))
        if our_name.endswith("bias_table") and len(tensor) != len(entries[our_name]):
            interpolated.append(our_name)
    if not entries:
        raise ValueError(f"no entry of the checkpoint fits this backbone, wanted the likes of {next(iter(wanted))!r}")
    backbone.load_state_dict(entries, strict=False)
    missing = tuple(name for name in wanted if name not in entries)
    return SwinWeightsReport(tuple(entries), missing, tuple(unexpected), tuple(interpolated))


def published_swin_entry(name: str, tensor: Tensor) -> tuple[str, Tensor] | None:
    """One entry of a published checkpoint (BEVDet, GeoMIM) as :class:`SwinBackbone` has it.

    Args:
        name: the published name inside the image backbone, without ``img_backbone.``.
        tensor: its value.

    Returns:
        Our name and value, or None for a relative position index, which follows from the window size.

    Raises:
        ValueError: a patch-merging weight whose inputs are not four patches.
    """
    our_name = published_swin_name(name)
    if our_name is None:
        return None
    return our_name, _unfold_to_our_order(name, tensor) if ".downsample." in name else tensor


def published_swin_name(name: str) -> str | None:
    """The name alone, as :func:`published_swin_entry` gives it."""
    if name.endswith(".relative_position_index"):
        return None
    for pattern, replacement in _PUBLISHED_NAMES:
        name = re.sub(pattern, replacement, name)
    return _downsample_in_next_stage(name)


_PUBLISHED_NAMES = (
    (r"^absolute_pos_embed$", "position_embedding"),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^norm(\d+)\.", r"norms.\1."),
)
_PREFIXES = ("module.", "encoders.camera.backbone.", "backbone.", "module.")
_DERIVED = (".relative_position_index", ".attn_mask")


def _our_entries(state: Mapping[str, Any]) -> Iterator[tuple[str, str, Tensor]]:
    """Name in the checkpoint, our name, and our value, for every entry that carries weights."""
    for wrapper in ("model", "state_dict"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    names = {name: _without_prefixes(name) for name in state}
    translate = _layout(names.values())
    for name, bare in names.items():
        if bare.endswith(_DERIVED):
            continue
        translated = translate(bare, state[name])
        if translated is not None:
            yield name, *translated


def _without_prefixes(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _layout(names: Iterable[str]) -> Callable[[str, Tensor], tuple[str, Tensor] | None]:
    """The translation that a checkpoint with these names (without prefixes) needs."""
    names = list(names)
    if any(name.startswith("stages.") for name in names):
        return published_swin_entry
    if any(name.startswith("layers.0.downsample.") for name in names):
        return _official_entry
    if any(name.startswith("layers.") for name in names):
        return _timm_entry
    raise ValueError(
        "the checkpoint is of no Swin layout that is known: wanted names with 'layers.' (official and timm) or "
        f"'stages.' (GeoMIM and published detectors), got {', '.join(names[:3]) or 'no names'}, ..."
    )


def _official_entry(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    our_name, tensor = _timm_entry(name, tensor)
    return _downsample_in_next_stage(our_name), tensor


def _timm_entry(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    name = re.sub(r"^absolute_pos_embed$", "position_embedding", name)
    return re.sub(r"^layers\.", "stages.", name), tensor


def _downsample_in_next_stage(name: str) -> str:
    """Patch merging stands at the end of a stage in other layouts, at the beginning of the next one in ours."""
    return re.sub(r"^stages\.(\d+)\.downsample\.", lambda match: f"stages.{int(match[1]) + 1}.downsample.", name)


def _unfold_to_our_order(name: str, tensor: Tensor) -> Tensor:
    """Inputs (..., 4 C) of patch merging from unfold's order, (channel, row, column), to (column, row, channel)."""
    if tensor.ndim == 0 or tensor.shape[-1] % 4:
        raise ValueError(f"{name}: wanted (..., 4 C) for four merged patches, got {tuple(tensor.shape)}")
    return tensor.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)


def _fitted(name: str, tensor: Tensor, our_name: str, wanted: Tensor | None) -> Tensor:
    """A tensor in the shape that the backbone wants."""
    if wanted is None:
        raise ValueError(
            f"{name}: the checkpoint has a position embedding {tuple(tensor.shape)} and the backbone has none: "
            "build it with position_embedding=(height, width) in patches, or leave the entry out"
        )
    fitted = tensor
    if our_name.endswith(".relative_position_bias_table") and tensor.shape[1:] == wanted.shape[1:]:
        if len(tensor) != len(wanted):
            fitted = resize_relative_position_table(tensor, math.isqrt(len(wanted)))
    elif our_name == "position_embedding" and tensor.ndim == 3 and tensor.shape[1] == wanted[0, 0].numel():
        fitted = tensor.transpose(1, 2).unflatten(2, wanted.shape[2:])
    if fitted.shape != wanted.shape:
        raise ValueError(
            f"{name}: wanted {tuple(wanted.shape)} for {our_name}, got {tuple(tensor.shape)}: the checkpoint is of a "
            "Swin with other options; nothing was loaded"
        )
    return fitted
