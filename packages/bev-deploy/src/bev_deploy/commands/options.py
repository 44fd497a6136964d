"""What the commands can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bev_nuscenes import DataOptions

from ..quantization import QuantizeOptions
from ..step import Pooling, Precision
from ..tensorrt import BuildOptions

__all__ = [
    "BuildArguments",
    "CheckArguments",
    "ExportArguments",
    "QuantizeArguments",
    "RigArguments",
    "ShowArguments",
]

_Folder = tyro.conf.Positional[Path]
# Options inside options keep their short names.
_IN_FRONT = tyro.conf.arg(name="")


@dataclass(frozen=True, kw_only=True)
class RigArguments:
    """A data set whose first sample gives the cameras to export for; without it, cameras as on nuScenes."""

    root: str | None = None
    """Folder of the data set."""
    version: str = "v1.0-mini"
    """v1.0-mini, v1.0-trainval or v1.0-test."""
    split: str | None = None
    """Official split; the first that the version has if left out."""
    index: Path | None = None
    """Index file; a file in the user's cache folder if left out."""

    @property
    def data(self) -> DataOptions | None:
        """As the data set wants it; None without a root."""
        if self.root is None:
            return None
        return DataOptions(root=self.root, version=self.version, split=self.split, index=self.index)


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write a recipe as model.onnx with a manifest.json, and compare it with PyTorch.

    Calibrations are inputs of the model: the same file serves any. What the model remembers of past frames goes in and
    comes out as named tensors. The folder is what bev-eval, bev-bench and bev-vis take with --model.
    """

    recipe: tyro.conf.Positional[str]
    """Recipe of the model, for instance bevdet-r50 or bevdet-tiny-4d."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights: model.safetensors of a run, or a published .pth."""
    untrained: bool = False
    """Export freshly initialised weights, and do not warn about it."""
    seed: int = 0
    """Of weights that no checkpoint gives."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/export-RECIPE)")] = None
    """Folder to write."""
    overwrite: bool = False
    """Replace an export that is in the folder already."""

    pool: Pooling = "native"
    """Pooling in operators that every runtime has, or as one node for a TensorRT plugin (others run its body)."""
    precision: Precision = "fp32"
    """Type of weights, activations and state; inputs and results are float32 in both."""
    raw: bool = False
    """Give the head's own outputs instead of the best candidates or the classes of voxels."""
    preprocess: bool = False
    """Take uint8 camera images, and resize, crop and normalise them in the model."""
    raw_size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="W H", help_behavior_hint="(default: of --data, else 1600 900)"),
    ] = None
    """Width and height of the camera images, pixels."""
    batch: Annotated[int | Literal["dynamic"], tyro.conf.arg(metavar="B|dynamic")] = 1
    """Samples per call; dynamic for any number, for recipes without history."""
    cameras: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: of --data, else 6)")] = None
    """Cameras per sample."""
    input_size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="H W", help_behavior_hint="(default: the one the checkpoint was trained at)"),
    ] = None
    """Height and width of the network input, pixels."""
    align: Annotated[
        Literal["during", "after"] | None, tyro.conf.arg(help_behavior_hint="(default: of the recipe)")
    ] = None
    """Align history during or after the view transform; it matters for whole sequences, streams do the latter."""
    opset: int = 18
    """ONNX operator set, 18 or later."""
    table_margin: float = 1.5
    """Largest pooling tables that an engine is to be built for, as a multiple of those of the cameras exported for."""
    data: RigArguments = field(default_factory=RigArguments)
    verify: bool = True
    """Run PyTorch and ONNX Runtime on the same random images and print the differences; fp32 must be within 1e-3."""

    @property
    def folder(self) -> Path:
        """Where it goes."""
        return self.out or Path("runs") / f"export-{self.recipe}"


@dataclass(frozen=True, kw_only=True)
class ShowArguments:
    """Inputs, outputs, state, and what happens before and after an exported model, as tables."""

    folder: _Folder
    """What bev-deploy export wrote."""


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """Check an exported model: manifest and checksums, the ONNX file, its inputs and outputs, TensorRT's operators."""

    folder: _Folder
    """What bev-deploy export wrote."""


@dataclass(frozen=True, kw_only=True)
class QuantizeArguments:
    """Write an export again with int8 layers, calibrated on a data set, with a report.

    Layers that the results are sensitive to are found and left as they are.
    """

    folder: _Folder
    """What bev-deploy export wrote."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: FOLDER-int8)")] = None
    """Folder to write."""
    overwrite: bool = False
    """Replace an export that is in that folder already."""
    data: DataOptions
    samples: int = 64
    """Samples to calibrate on, spread over the split; all if it has fewer."""
    evaluate_on: Annotated[str | None, tyro.conf.arg(metavar="SPLIT")] = None
    """Split with annotations to evaluate both models on, such as val; without it only their results are compared."""
    options: Annotated[QuantizeOptions, _IN_FRONT] = field(default_factory=QuantizeOptions)

    @property
    def target(self) -> Path:
        """Where it goes."""
        return self.out or self.folder.with_name(f"{self.folder.name}-int8")


@dataclass(frozen=True, kw_only=True)
class BuildArguments:
    """Build a TensorRT engine beside an exported model, for the GPU of this machine."""

    folder: _Folder
    """What bev-deploy export or quantize wrote."""
    options: Annotated[BuildOptions, _IN_FRONT] = field(default_factory=BuildOptions)
