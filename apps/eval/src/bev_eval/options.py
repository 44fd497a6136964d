"""What an evaluation can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bev_nuscenes import DataOptions

if TYPE_CHECKING:
    from bev_zoo import Recipe

__all__ = ["EvalOptions", "check_options", "check_recipe"]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Evaluate a recipe on a nuScenes split.

    Predicts every key frame of the split. A detector's boxes go to results_nusc.json (the official submission format)
    and the official devkit computes mAP, NDS and the true-positive errors. The voxels of an occupancy recipe go to
    occupancy/TOKEN.npz (the format of the CVPR 2023 challenge) and are compared with the ground truth in the data's
    gts folder. Figures are printed and written to metrics.json. On v1.0-test, whose annotations are not public, the
    program stops after the predictions. Images of other cameras: bev-eval predict --help.
    """

    recipe: tyro.conf.Positional[str]
    """Recipe of the model, for instance bevdet-r50 or bevdet-tiny."""
    data: DataOptions
    checkpoint: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(required unless --model or --untrained)")
    ] = None
    """Weights: model.safetensors of a run, or a published .pth."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Evaluate an exported model instead of a checkpoint: the folder that bev-deploy wrote."""
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"] | None, tyro.conf.arg(help_behavior_hint="(default: onnxruntime)")
    ] = None
    """What runs --model."""
    untrained: bool = False
    """Evaluate freshly initialised weights instead of a checkpoint, as a baseline."""
    seed: int = 0
    """Seeds the weights of --untrained."""

    out: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/eval-RECIPE-SPLIT)")
    ] = None
    """Folder of the results."""
    overwrite: bool = False
    """Replace results that are in the folder already."""

    input_size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="H W", help_behavior_hint="(default: the one the checkpoint was trained at)"),
    ] = None
    """Height and width of the network input, pixels."""
    score_threshold: float = 0.0
    """Leave out boxes with a lower score than this, 0 to 1, beside the recipe's own threshold."""
    ray_iou: bool = False
    """Occupancy: compute RayIoU beside mIoU; a third of a second more per sample."""
    stream: bool = False
    """Feed a recipe with history one frame at a time, scene by scene, as a vehicle would; history stays inside."""
    batch_size: int = 1
    """Samples per forward pass."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes that load data; 0 loads in the main process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""

    @property
    def runtime(self) -> Literal["onnxruntime", "tensorrt"] | None:
        """What runs the exported model; None without one."""
        return None if self.model is None else self.backend or "onnxruntime"

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("runs") / f"eval-{self.recipe}-{self.data.evaluation_split}"


def check_options(options: EvalOptions) -> None:
    """Check what can be checked before anything is loaded.

    Raises:
        ValueError: options that contradict each other or are out of range.
    """
    _check_source(options)
    if options.batch_size < 1 or options.workers < 0:
        raise ValueError(
            f"--batch-size must be above 0 and --workers not negative, got {options.batch_size} and {options.workers}"
        )
    if not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold must be in 0 to 1, got {options.score_threshold}")
    if options.stream and options.batch_size != 1:
        raise ValueError(f"--stream takes one frame after the other: use --batch-size 1, not {options.batch_size}")


def _check_source(options: EvalOptions) -> None:
    """One of weights, an exported model, and neither."""
    sources = (options.checkpoint is not None, options.model is not None, options.untrained)
    if sum(sources) != 1:
        if any(sources):
            raise ValueError("--checkpoint, --model and --untrained exclude each other: give the one to evaluate")
        raise ValueError("give --checkpoint FILE, --model DIR, or --untrained for freshly initialised weights")
    if options.model is None and options.backend is not None:
        raise ValueError(
            f"--backend {options.backend} runs exported models: give one with --model DIR, or leave it out"
        )
    if options.model is not None and options.input_size is not None:
        raise ValueError("an exported model has its input size already: leave out --input-size")


def check_recipe(options: EvalOptions, recipe: Recipe) -> None:
    """Check that every option that was given means something for a recipe.

    Raises:
        ValueError: an option of detectors for an occupancy recipe or the reverse, or a stream without history.
    """
    if recipe.task == "occupancy" and options.score_threshold > 0:
        raise ValueError(f"--score-threshold is about boxes, and {recipe.name} predicts voxels: leave it out")
    if recipe.task != "occupancy" and options.ray_iou:
        raise ValueError(f"--ray-iou is about voxels, and {recipe.name} predicts boxes: leave it out")
    if options.stream and recipe.frames == 1:
        raise ValueError(f"--stream needs a recipe with history, and {recipe.name} sees one frame: leave it out")
