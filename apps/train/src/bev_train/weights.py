"""The weights that training starts from."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from bev_backbones import SwinBackbone, load_swin_weights
from bev_train.options import TrainOptions
from bev_zoo import Detector, Recipe, create_model, load_matching, read_checkpoint

__all__ = ["create_starting_model"]


def create_starting_model(options: TrainOptions, recipe: Recipe) -> Detector:
    """The detector with the backbone's pre-trained weights, and over them whatever fits of ``--init-from``.

    Raises:
        ValueError: a file that cannot be read or has nothing for this model, or weights that cannot be downloaded.
    """
    if options.resume:
        return create_model(recipe)  # the checkpoint of the run holds its weights
    if options.backbone_weights is None and options.init_from is None:
        model = _create_pretrained(recipe) if options.pretrained else create_model(recipe)
        _warn_of_missing_files(model)
        return model
    model = create_model(recipe)
    if options.backbone_weights is not None:
        _start_backbone(model, options.backbone_weights)
    if options.init_from is not None:
        _say(f"{options.init_from}: {load_matching(model, options.init_from)}")
    return model


@rank_zero_only
def _warn_of_missing_files(model: Detector) -> None:
    """Published training of some recipes began with weights that no public service has."""
    name = model.recipe.name
    if model.recipe.training.load_from_detection:
        warnings.warn(f"{name} was published as trained on from a detector: name one with --init-from", stacklevel=3)
    elif isinstance(model.backbone, SwinBackbone) and model.recipe.backbone.pretrained is None:
        warnings.warn(
            f"{name} was published as trained on from a pre-trained backbone: name one with --backbone-weights",
            stacklevel=3,
        )


def _start_backbone(model: Detector, source: Path) -> None:
    if not isinstance(model.backbone, SwinBackbone):
        raise ValueError(
            f"--backbone-weights is for Swin backbones, {model.recipe.name} has a {model.recipe.backbone.name}: "
            "leave it out, its ImageNet weights are downloaded"
        )
    report = load_swin_weights(model.backbone, read_checkpoint(source))
    lines = [f"{source}: loaded {len(report.loaded)} entries of the backbone"]
    for title, names in (
        ("resized from another window", report.interpolated),
        ("not in the checkpoint", report.missing),
        ("not in the backbone", report.unexpected),
    ):
        if names:
            lines.append(f"{title} ({len(names)}): {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")
    _say("\n".join(lines))


_DOWNLOADERS = {"huggingface_hub", "httpx", "requests", "urllib3"}


def _create_pretrained(recipe: Recipe) -> Detector:
    if recipe.backbone.pretrained is None:
        return create_model(recipe)
    try:
        return create_model(recipe, pretrained_backbone=True)
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _DOWNLOADERS:
            raise
        raise ValueError(
            f"the ImageNet weights {recipe.backbone.pretrained} of the {recipe.backbone.name} backbone could not be "
            "downloaded: connect to huggingface.co, or train from scratch with --no-pretrained"
        ) from error


@rank_zero_only
def _say(text: str) -> None:
    print(f"bev-train: {text}", file=sys.stderr)
