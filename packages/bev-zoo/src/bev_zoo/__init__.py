"""Recipes, detectors and checkpoints of the BEVDet family."""

from bev_heads import Detections
from bev_lss import CameraRig

from .checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_checkpoint,
    read_input_size,
    read_recipe_name,
    save_checkpoint,
)
from .detector import Detector, Targets, create_model
from .recipe import (
    BackboneOptions,
    BevEncoderOptions,
    HeadOptions,
    Published,
    Recipe,
    TrainingOptions,
    ViewOptions,
)
from .recipes import get_recipe, list_recipes

__all__ = [
    "BackboneOptions",
    "BevEncoderOptions",
    "CameraRig",
    "CheckpointError",
    "Detections",
    "Detector",
    "HeadOptions",
    "Published",
    "Recipe",
    "Targets",
    "TrainingOptions",
    "ViewOptions",
    "create_model",
    "get_recipe",
    "list_recipes",
    "load_checkpoint",
    "read_checkpoint",
    "read_input_size",
    "read_recipe_name",
    "save_checkpoint",
]
