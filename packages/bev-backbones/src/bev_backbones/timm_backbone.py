"""Any convolutional network of timm as an image backbone."""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any

import timm
import torch
from timm.models import FeatureListNet
from torch import Tensor, nn

__all__ = ["TimmBackbone"]


class TimmBackbone(nn.Module):
    """A timm model that gives feature maps at chosen strides.

    Args:
        name: timm model name, for instance ``resnet50`` (``timm.list_models("resnet*")`` lists them).
        strides: the strides of the levels wanted, finest first; published R50 systems use 16 and 32.
        pretrained: load timm's ImageNet weights (downloads them when they are not cached).
        checkpointing: recompute activations in the backward pass to save memory.

    Attributes:
        channels: channels per level, so that a neck can size itself.
        strides: network-input pixels per feature pixel, per level.

    Raises:
        ValueError: timm does not know the name, or the model has no level of a wanted stride.
    """

    def __init__(
        self, name: str, *, strides: tuple[int, ...] = (16, 32), pretrained: bool = False, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.strides = strides
        self.body = _timm_features(name, pretrained=pretrained, out_indices=_level_indices(name, strides))
        self.channels: tuple[int, ...] = tuple(self.body.feature_info.channels())
        if checkpointing:
            self.body.set_grad_checkpointing(True)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (M, 3, H, W) -> one map per stride, (M, channels[i], H / strides[i], W / strides[i])."""
        return self.body(images)

    def first_level(self, images: Tensor) -> Tensor:
        """images (M, 3, H, W) -> the finest level of :meth:`forward`.

        Of networks that timm gives as a plain sequence of modules (ResNet and most other convolutional ones) nothing
        beyond that level is computed; others compute all their levels.
        """
        if not isinstance(self.body, FeatureListNet):
            return self.body(images)[0]
        features = images
        for name, module in self.body.items():
            features = module(features)
            if name in self.body.return_layers:
                return features
        raise AssertionError("timm builds no features without a returned level")


def _level_indices(name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Positions of the wanted strides among the levels of the timm model."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f", did you mean {' or '.join(near)}?" if near else ": timm.list_models() lists the known names"
        raise ValueError(f"timm has no model {name!r}{hint}")
    reductions = _reductions(name)
    missing = [s for s in strides if s not in reductions]
    if missing:
        raise ValueError(f"{name} has levels of stride {reductions}, wanted {strides}: no level of stride {missing}")
    return tuple(len(reductions) - 1 - reductions[::-1].index(s) for s in strides)


@cache
def _reductions(name: str) -> list[int]:
    """Strides of all levels of a timm model."""
    with torch.device("meta"):  # no memory: only to ask what levels there are
        return _timm_features(name, pretrained=False).feature_info.reduction()


def _timm_features(name: str, **options: Any) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, **options)
    except NotImplementedError:
        # timm computes with tensors while it builds a RegNet; PyTorch 2.11 cannot do all of that on the meta device.
        if torch.get_default_device().type != "meta":
            raise
        with torch.device("cpu"):
            return timm.create_model(name, features_only=True, **options).to("meta")
