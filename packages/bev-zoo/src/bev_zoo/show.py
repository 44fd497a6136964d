"""One recipe as text: every option on a line of its own, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import fields

from .flops import StageFlops
from .recipe import Published
from .table import RecipeSummary

__all__ = ["as_text"]

# What the numbers are, where the name of the option does not say it.
UNITS: dict[str, str] = {
    "Recipe.input_size": "height, width of the network input, pixels",
    "BackboneOptions.strides": "input pixels per feature pixel",
    "BackboneOptions.pretrained": "timm tag of the weights training starts from",
    "SwinOptions.strides": "input pixels per feature pixel",
    "SwinOptions.windows": "feature pixels, per stage",
    "SwinOptions.position_embedding": "height, width as stored, patches",
    "SwinOptions.drop_path": "probability, of the last block",
    "SwinOptions.checkpointing": "blocks per stage",
    "SwinOptions.pretrained": "timm model whose weights training starts from",
    "BevGrid.x": "m: lower, upper, step",
    "BevGrid.y": "m: lower, upper, step",
    "BevGrid.z": "m: lower, upper, step",
    "DepthBins.lower": "m",
    "DepthBins.upper": "m",
    "DepthBins.step": "m",
    "TemporalOptions.history": "past frames",
    "BevEncoderOptions.strides": "per stage",
    "BevEncoderOptions.blocks": "per stage",
    "HeadOptions.heatmap_bias": "initial logit",
    "CenterTargetOptions.gaussian_overlap": "IoU",
    "CenterTargetOptions.min_radius": "cells",
    "CenterLossOptions.code_weights": "offset x, y; height; log l, w, h; sin, cos of yaw; vx, vy",
    "DecodeOptions.max_candidates": "cells per task",
    "DecodeOptions.center_range": "m: lower x, y, z, upper x, y, z",
    "NmsOptions.threshold": "IoU",
    "NmsOptions.radius": "compared with the squared distance in m",
    "NmsOptions.rescale": "factor per class",
    "NmsOptions.pre_max": "boxes",
    "NmsOptions.post_max": "boxes",
    "ImageAugmentation.resize": "added to the scale: lowest, highest",
    "ImageAugmentation.rotate_deg": "degrees: lowest, highest",
    "ImageAugmentation.crop_h": "share of the height: lowest, highest",
    "ImageAugmentation.resize_test": "added to the scale",
    "BevAugmentation.rotate_deg": "degrees: lowest, highest",
    "BevAugmentation.scale": "lowest, highest",
    "BevAugmentation.flip_x": "probability",
    "BevAugmentation.flip_y": "probability",
    "TrainingOptions.batch_size": "samples per process",
    "TrainingOptions.layer_decay": "learning-rate factor per backbone layer",
    "TrainingOptions.clip_norm": "norm of all gradients",
    "TrainingOptions.milestones": "epochs",
    "TrainingOptions.gamma": "learning-rate factor per milestone",
    "TrainingOptions.syncbn_start_epoch": "epoch",
    "TrainingOptions.temporal_start_epoch": "epoch",
}
_TOP = ("name", "description", "published")  # said in the headings, not as options


def as_text(summary: RecipeSummary) -> str:
    """The whole recipe, grouped as its dataclasses are."""
    recipe = summary.recipe
    sections = [_published(recipe.published), _derived(summary), *_sections("", recipe)]
    return "\n\n".join([f"{recipe.name}: {recipe.description}", *("\n".join(section) for section in sections)])


def _published(published: Published | None) -> list[str]:
    if published is None:
        return ["published", "  nothing: not a published system"]
    unit = "% on nuScenes val"
    rows = [
        ("mAP", published.map, unit),
        ("NDS", published.nds, unit),
        ("mAP, aligned after", published.map_after, f"{unit}, history aligned after the view transform"),
        ("NDS, aligned after", published.nds_after, f"{unit}, history aligned after the view transform"),
        ("mIoU", published.miou, unit),
        ("source", published.source, ""),
    ]
    return ["published", *(_line(name, str(value), note) for name, value, note in rows if value is not None)]


def _derived(summary: RecipeSummary) -> list[str]:
    recipe, flops = summary.recipe, summary.flops
    x, y, z = recipe.view.grid.size
    lines = [
        _line("task", recipe.task, ""),
        _line("frames", str(recipe.frames), f"a call: {recipe.frames_in_words}"),
        _line("cells", f"{x} x {y} x {z}", "x, y, z"),
        _line("depth bins", str(recipe.view.depth.count), ""),
        _line("parameters", f"{summary.parameters / 1e6:.2f}", "M"),
        _line("operations", f"{flops.total / 1e9:.2f}", "GFLOPs a call with six cameras, two per multiply-add"),
        *(f"  {line}" for line in _stages(flops.per_stage)),
    ]
    if flops.streaming is not None:
        lines.append(_line("one streamed frame", f"{flops.streaming.total / 1e9:.2f}", "GFLOPs"))
    return ["what follows", *lines]


def _stages(flops: StageFlops) -> Iterator[str]:
    for field in fields(flops):
        if count := getattr(flops, field.name):
            yield _line(field.name, f"{count / 1e9:.2f}", "GFLOPs")


def _sections(path: str, options: object) -> Iterator[list[str]]:
    """The options of a dataclass, then those of the dataclasses in it, depth first."""
    kind = type(options).__name__
    lines, inner = [], []
    for field in fields(options):
        value = getattr(options, field.name)
        if not path and field.name in _TOP:
            continue
        parts = dict(_dataclasses_in(f"{path}.{field.name}".lstrip("."), value))
        inner += parts.items()
        if not parts:
            lines.append(_line(field.name, _text(value), UNITS.get(f"{kind}.{field.name}", "")))
    yield [f"{path} ({kind})" if path else f"recipe ({kind})", *lines]
    for inner_path, part in inner:
        yield from _sections(inner_path, part)


def _dataclasses_in(path: str, value: object) -> Iterator[tuple[str, object]]:
    if dataclasses.is_dataclass(value):
        yield path, value
    elif isinstance(value, tuple) and value and all(dataclasses.is_dataclass(part) for part in value):
        yield from ((f"{path}[{i}]", part) for i, part in enumerate(value))


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        nested = any(isinstance(part, tuple) for part in value)
        return (" | " if nested else ", ").join(map(_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(name: str, value: str, note: str) -> str:
    return f"  {name:<22}{value}{f'   [{note}]' if note else ''}"
