"""What a prediction of plain images can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bev_eval.options import EvalOptions
from bev_nuscenes import DataOptions

__all__ = ["PredictOptions"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """Predict images of one's own cameras, without nuScenes or its devkit.

    The calibration file is the one docs/own-data.md describes; without frames in it, the images of the cameras' folders
    are paired by name. Boxes go to predictions.json, in the ego and in the global frame; voxels of an occupancy recipe
    to occupancy/FRAME.npz. A recipe with history is fed scene by scene, one frame after the other.
    """

    images: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder that the cameras' folders lie in."""
    calib: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: dataset.yaml or .json there)")
    ] = None
    """Cameras, and if there are any frames with their poses: YAML or JSON."""
    recipe: str
    """Recipe of the model, for instance bevdet-r50 or bevdet-tiny."""
    checkpoint: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(required unless --model or --untrained)")
    ] = None
    """Weights: model.safetensors of a run, or a published .pth."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Predict with an exported model instead of a checkpoint: the folder that bev-deploy wrote."""
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"] | None, tyro.conf.arg(help_behavior_hint="(default: onnxruntime)")
    ] = None
    """What runs --model."""
    untrained: bool = False
    """Predict with freshly initialised weights, to try out the way from images to boxes."""
    seed: int = 0
    """Seeds the weights of --untrained."""

    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the results."""
    overwrite: bool = False
    """Replace results that are in the folder already."""

    split: str = "all"
    """Scenes to predict: all, or a split that the file names."""
    input_size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="H W", help_behavior_hint="(default: the one the checkpoint was trained at)"),
    ] = None
    """Height and width of the network input, pixels."""
    score_threshold: float = 0.0
    """Leave out boxes with a lower score than this, 0 to 1, beside the recipe's own threshold."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes that load images; 0 loads in the main process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU if there is one."""

    def as_evaluation(self) -> EvalOptions:
        """The same model on the same data, in the words of an evaluation."""
        return EvalOptions(
            recipe=self.recipe,
            data=DataOptions(root=str(self.images), version="own", split=self.split),
            checkpoint=self.checkpoint,
            model=self.model,
            backend=self.backend,
            untrained=self.untrained,
            seed=self.seed,
            out=self.out,
            overwrite=self.overwrite,
            input_size=self.input_size,
            score_threshold=self.score_threshold,
            workers=self.workers,
            device=self.device,
        )
