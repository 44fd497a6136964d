"""What the optimiser is told about each parameter: learning rate and weight decay, as published."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict

from torch import nn

from .recipe import TrainingOptions

__all__ = ["ParameterGroup", "layer_of", "parameter_groups"]


class ParameterGroup(TypedDict):
    """Parameters that share their settings, as ``torch.optim.AdamW`` takes them."""

    params: list[nn.Parameter]
    names: list[str]  # of the parameters in the model, in the same order
    lr: float  # lr_scale times the recipe's learning rate
    lr_scale: float
    weight_decay: float


def parameter_groups(model: nn.Module, options: TrainingOptions) -> list[ParameterGroup]:
    """Groups of all parameters that are trained.

    Without ``options.layer_decay`` there is one group: every parameter is decayed, biases and norms too. With it the
    layers of the Swin image backbone learn more slowly the nearer they are to the image: the learning rate shrinks by
    that factor per layer (BEiT, arXiv:2106.08254), counted from the rest of the detector, which learns at the full
    rate. Biases and every other parameter with one axis are then not decayed.

    Two quirks of the published systems are kept. Their configurations exempt the position embedding and the
    relative-position tables from weight decay, but the rule in use never reads that: both are decayed. And the output
    norms of the backbone count as the rest of the detector.

    Raises:
        ValueError: layer decay for a backbone without Swin stages.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if options.layer_decay is None:
        return [_group(trained, options, lr_scale=1.0, weight_decay=options.weight_decay)]
    depths = _stage_depths(model)
    last = sum(depths) + 1
    members: dict[tuple[int, bool], dict[str, nn.Parameter]] = {}
    for name, parameter in trained.items():
        key = (layer_of(name, depths), _is_decayed(name, parameter))
        members.setdefault(key, {})[name] = parameter
    return [
        _group(
            parameters,
            options,
            lr_scale=options.layer_decay ** (last - layer),
            weight_decay=options.weight_decay if decayed else 0.0,
        )
        for (layer, decayed), parameters in sorted(members.items(), reverse=True)  # the full learning rate comes first
    ]


_BLOCK = re.compile(r"backbone\.stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.")


def layer_of(name: str, depths: Sequence[int]) -> int:
    """The layer that a parameter of a detector with a Swin image backbone counts to.

    Args:
        name: of the parameter in the detector.
        depths: blocks per stage of the backbone.

    Returns:
        0 for patch and position embedding, 1, 2, … for the blocks, ``sum(depths) + 1`` for everything else, norms of
        the output levels included. Reducing to the next stage counts with that stage's first block.
    """
    if name == "backbone.position_embedding" or name.startswith("backbone.patch_embed."):
        return 0
    match = _BLOCK.match(name)
    if match is None:
        return sum(depths) + 1
    return sum(depths[: int(match[1])]) + int(match[2] or 0) + 1


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim != 1 and not name.endswith(".bias")


def _stage_depths(model: nn.Module) -> tuple[int, ...]:
    """Blocks per stage of the Swin image backbone of a detector."""
    backbone = getattr(model, "backbone", None)
    try:
        return tuple(len(stage.blocks) for stage in backbone.stages)
    except AttributeError:
        raise ValueError(
            f"layer decay is defined for detectors with a SwinBackbone, got {type(backbone).__name__}: "
            "set layer_decay=None in the recipe's TrainingOptions"
        ) from None


def _group(
    parameters: dict[str, nn.Parameter], options: TrainingOptions, *, lr_scale: float, weight_decay: float
) -> ParameterGroup:
    return ParameterGroup(
        params=list(parameters.values()),
        names=list(parameters),
        lr=lr_scale * options.learning_rate,
        lr_scale=lr_scale,
        weight_decay=weight_decay,
    )
