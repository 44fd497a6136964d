"""What is evaluated: a detector with its weights, or an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from bev_eval.options import EvalOptions
from bev_zoo import Detector, create_model, get_recipe, trained_model

if TYPE_CHECKING:
    from bev_deploy import DeployedDetector

__all__ = ["Predictor", "load_model", "takes_raw_images"]

Predictor: TypeAlias = "Detector | DeployedDetector"


def load_model(options: EvalOptions) -> tuple[Predictor, torch.device]:
    """What the options name, ready to predict, and where it wants its inputs.

    Raises:
        ValueError: an unknown recipe, weights or an export that do not fit it, or no such device.
    """
    get_recipe(options.recipe)  # an unknown one is told first
    if options.model is not None:
        exported = _exported(options, options.model)
        return exported, exported.device
    device = _device(options.device)
    model = _with_weights(options)
    return model.to(device).eval(), device


def takes_raw_images(options: EvalOptions, model: Predictor) -> bool:
    """Whether a model is an export that prepares camera images in its graph."""
    return options.model is not None and model.manifest.preprocessing.in_graph


def _exported(options: EvalOptions, folder: Path) -> DeployedDetector:
    from bev_deploy import load  # here, so that checkpoints need no runtimes

    model = load(folder, options.runtime, recipe=options.recipe, device=options.device)
    if model.manifest.batch not in (None, options.batch_size):
        raise ValueError(
            f"{folder} was exported for {model.manifest.batch} samples per call, --batch-size is {options.batch_size}: "
            "they must be equal"
        )
    return model


def _with_weights(options: EvalOptions) -> Detector:
    if options.checkpoint is not None:
        return trained_model(options.recipe, options.checkpoint, input_size=options.input_size)
    torch.manual_seed(options.seed)
    return create_model(get_recipe(options.recipe), input_size=options.input_size)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but PyTorch finds no GPU: use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
