"""What a training run can be told.

Nothing here needs the models: ``--help`` answers without loading them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bev_nuscenes import DataOptions

__all__ = ["TrainOptions"]

# How --help names the defaults that are not known before the recipe is.
_OF_RECIPE = {"help_behavior_hint": "(default: the recipe's)"}
_NO_LIMIT = {"help_behavior_hint": "(default: no limit)"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a bird's-eye-view detector on nuScenes.

    Whatever is left out follows the recipe. The run folder receives options.json, environment.json, metrics.csv,
    tensorboard/, checkpoints/last.ckpt (for --resume) and model.safetensors (for bev-eval, bev-vis, --init-from).
    """

    recipe: tyro.conf.Positional[str]
    """Recipe to train, for instance bevdet-r50 or bevdet-tiny."""
    data: DataOptions
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/RECIPE)")] = None
    """Run folder, new or empty."""
    resume: bool = False
    """Continue the interrupted run in --out, with the same numbers as if it had never stopped."""
    init_from: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: fresh weights)")] = (
        None
    )
    """Checkpoint to start from (.safetensors, or a published .pth), of another system too: what fits by name and shape
    is loaded, the rest is listed."""
    backbone_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Pre-trained weights of a Swin backbone: an ImageNet or GeoMIM checkpoint."""
    pretrained: bool = True
    """Unless a file is named: start the image backbone from the ImageNet weights that the recipe names, if any."""

    epochs: Annotated[int | None, tyro.conf.arg(metavar="INT", **_OF_RECIPE)] = None
    """Passes over the training split."""
    max_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", **_NO_LIMIT)] = None
    """Stop after this many optimiser steps; the learning-rate schedule stays that of all epochs."""
    max_minutes: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", **_NO_LIMIT)] = None
    """Stop after this much wall-clock time of training, minutes; the schedule stays that of all epochs."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="INT", **_OF_RECIPE)] = None
    """Samples per process and forward pass."""
    accumulate: int = 1
    """Forward passes whose gradients are added up before one optimiser step."""
    learning_rate: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", **_OF_RECIPE)] = None
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int | None, tyro.conf.arg(metavar="INT", **_OF_RECIPE)] = None
    """Optimiser steps of linear warm-up."""
    milestones: Annotated[
        tuple[int, ...] | None,
        tyro.conf.arg(metavar="INT ...", help_behavior_hint="(default: the recipe's, stretched with --epochs)"),
    ] = None
    """Epochs at which the learning rate drops."""
    class_balanced: Literal["recipe", "on", "off"] = "recipe"
    """Class-balanced sampling (CBGS): rare classes are drawn more often."""
    augment: bool = True
    """Image and BEV augmentation."""
    ema: bool = True
    """Average the weights exponentially; model.safetensors then holds the average."""
    fast_images: bool = False
    """Decode images at a reduced scale where the input is small: several times faster, slightly other pixels."""
    input_size: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="H W", **_OF_RECIPE)] = None
    """Height and width of the network input, pixels."""

    seed: int = 0
    """Seeds weights, order of the data, augmentation and dropout."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes per device that load data; 0 loads in the training process."""
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    """Arithmetic of the network."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device to train on."""
    devices: int | Literal["auto"] = "auto"
    """Devices per node; auto is every GPU, or one CPU process."""
    num_nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How processes share the work: every one holds the model (ddp), or a share of it (fsdp); auto is ddp where there
    are several."""
    sync_bn: bool = False
    """Share the statistics of batch norm between GPUs from the first epoch on; otherwise as the recipe says."""
    checkpoint_activations: bool = False
    """Compute the stages of backbone and encoders again in the backward pass: less memory, about a third slower."""
    compile: bool = False
    """Compile backbone, neck and encoders with torch.compile: minutes at the start, faster steps."""
    channels_last: bool = False
    """Keep image features in the channels-last layout, which tensor cores prefer."""

    max_skipped_steps: int = 3
    """Leave out at most so many optimiser steps in a row whose loss or gradient is not finite, then save and stop; the
    gradient scaler of 16-mixed may leave out 20 more."""
    worker_timeout: Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 1800)")] = None
    """Save and stop when the loading workers give no batch for so long, seconds."""

    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv", "tensorboard")
    """Where values are logged: metrics.csv, tensorboard/, Weights & Biases, MLflow."""
    checkpoint_every_epochs: int = 1
    """Save at every so many epoch ends."""
    checkpoint_every_steps: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: not counted)")
    ] = None
    """Save also after every so many optimiser steps."""
    checkpoint_every_minutes: float = 10.0
    """Save also in the middle of an epoch once the last save is this old, minutes."""
    validate_every_epochs: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: never)")
    ] = None
    """Log the mIoU of the validation split after every so many epochs (occupancy recipes)."""
    log_every: int = 10
    """Optimiser steps between two rows of metrics.csv."""

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.out or Path("runs") / self.recipe
