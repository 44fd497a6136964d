"""Recipes, detectors and checkpoints of the BEVDet family."""

from bev_heads import Detections
from bev_lss import CameraRig

from .checkpoint import (
    CheckpointError,
    LoadReport,
    load_checkpoint,
    load_matching,
    looks_like,
    read_checkpoint,
    read_input_size,
    read_recipe_name,
    save_checkpoint,
)
from .create import create_model
from .detector import Detector, Targets
from .example_rig import nuscenes_rig
from .flops import Flops, StageFlops, count_flops
from .inference import InferenceOptions, PreparedDetector, prepare_for_inference
from .parameter_groups import ParameterGroup, parameter_groups
from .recipe import (
    BackboneOptions,
    BevEncoderOptions,
    DepthNetOptions,
    HeadOptions,
    OccupancyOptions,
    Published,
    Recipe,
    SwinOptions,
    TemporalOptions,
    TrainingOptions,
    ViewOptions,
)
from .recipes import get_recipe, list_recipes
from .stream import Stream, StreamOrderError
from .trained import trained_model

__all__ = [
    "BackboneOptions",
    "BevEncoderOptions",
    "CameraRig",
    "CheckpointError",
    "DepthNetOptions",
    "Detections",
    "Detector",
    "Flops",
    "HeadOptions",
    "InferenceOptions",
    "LoadReport",
    "OccupancyOptions",
    "ParameterGroup",
    "PreparedDetector",
    "Published",
    "Recipe",
    "StageFlops",
    "Stream",
    "StreamOrderError",
    "SwinOptions",
    "Targets",
    "TemporalOptions",
    "TrainingOptions",
    "ViewOptions",
    "count_flops",
    "create_model",
    "get_recipe",
    "list_recipes",
    "load_checkpoint",
    "load_matching",
    "looks_like",
    "nuscenes_rig",
    "parameter_groups",
    "prepare_for_inference",
    "read_checkpoint",
    "read_input_size",
    "read_recipe_name",
    "save_checkpoint",
    "trained_model",
]
