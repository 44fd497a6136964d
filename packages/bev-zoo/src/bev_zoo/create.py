"""From a name to a model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bev_backbones import TimmBackbone, load_swin_weights

from .detector import Detector
from .recipe import Align, Recipe, SwinOptions
from .recipes import get_recipe

__all__ = ["create_model", "entry_shapes", "meta_model"]


def create_model(
    recipe: str | Recipe,
    *,
    input_size: tuple[int, int] | None = None,
    align: Align | None = None,
    pretrained_backbone: bool = False,
) -> Detector:
    """Build the detector of a recipe, with fresh weights.

    Args:
        recipe: a name (:func:`bev_zoo.list_recipes`) or a recipe of your own.
        input_size: height and width of the network input, pixels; the recipe's own if left out.
        align: align history "during" or "after" the view transform; the recipe's own if left out. Weights fit both.
        pretrained_backbone: start the image backbone from timm's ImageNet weights (``recipe.backbone.pretrained`` names
            them; downloaded unless cached).

    Raises:
        ValueError: unknown name, an input size that is no multiple of the backbone's stride, an unknown alignment, or
            no weights to start from.
        RuntimeError: timm's weights do not fit the backbone as a whole.
    """
    chosen = get_recipe(recipe) if isinstance(recipe, str) else recipe
    if input_size is not None:
        chosen = replace(chosen, input_size=input_size)
    if align is not None:
        chosen = replace(chosen, temporal=replace(chosen.temporal, align=align))
    model = Detector(chosen)
    if pretrained_backbone:
        _load_imagenet_weights(model)
    return model


def meta_model(recipe: Recipe) -> Detector:
    """The detector of a recipe without memory for its weights: names and shapes only."""
    with torch.device("meta"), _NoInitialisation():
        return Detector(recipe)


@cache
def entry_shapes(recipe: Recipe) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the weights and buffers that the detector of a recipe has."""
    return frozenset((name, tuple(tensor.shape)) for name, tensor in meta_model(recipe).state_dict().items())


class _NoInitialisation(TorchFunctionMode):
    """Draws no starting weights: tensors without memory have none, and going through the motions takes as long."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _load_imagenet_weights(model: Detector) -> None:
    options = model.recipe.backbone
    if options.pretrained is None:
        raise ValueError(f"{model.recipe.name} names no pre-trained weights for its {options.name} backbone")
    if isinstance(options, SwinOptions):
        load_swin_weights(model.backbone, timm.create_model(options.pretrained, pretrained=True).state_dict())
        return
    source = TimmBackbone(f"{options.name}.{options.pretrained}", strides=model.backbone.strides, pretrained=True)
    model.backbone.load_state_dict(source.state_dict())
