"""What the commands that draw frames can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bev_nuscenes import DataOptions

from .palette import PaletteName
from .predictions import Layer

__all__ = ["ExportOptions", "PredictionOptions", "RenderOptions", "ReportOptions", "ViewOptions", "check_predictions"]


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """Which frames, and where their predictions come from."""

    data: DataOptions
    results: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[RESULTS]")] = None
    """Predictions, as bev-eval writes them: results_nusc.json, a folder of TOKEN.npz, or the folder that holds them."""
    recipe: str | None = None
    """Predict with this recipe instead of reading results; default: the one that --checkpoint or --model names."""
    checkpoint: Path | None = None
    """Predict with these weights instead of reading results."""
    model: Path | None = None
    """Predict with an exported model instead of reading results: the folder that bev-deploy wrote."""
    backend: Annotated[
        Literal["onnxruntime", "tensorrt"] | None, tyro.conf.arg(help_behavior_hint="(default: onnxruntime)")
    ] = None
    """What runs --model."""
    device: str = "cpu"
    """Where a model runs: cpu, cuda, cuda:1."""

    sample: Annotated[str | None, tyro.conf.arg(help_behavior_hint="(default: 0)")] = None
    """Which frame of the split: its position, from 0, or its sample token."""
    scene: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """All frames of this scene, for instance scene-0103."""
    score_threshold: float = 0.3
    """Predicted boxes that score less are left out, 0 to 1."""
    lidar: bool = True
    """Draw the LiDAR points, where the data set has them."""
    palette: PaletteName = "nuscenes"
    """Colours of the classes: nuScenes' own, or ones that colour-blind people can tell apart."""


@dataclass(frozen=True, kw_only=True)
class RenderOptions(PredictionOptions):
    """Draw frames: cameras with projected boxes beside the map from above, or voxels, predicted and true.

    Predictions come from RESULTS, or from a model that is run on the spot: --checkpoint, or an exported one: --model.
    """

    samples: Annotated[str | None, tyro.conf.arg(metavar="FIRST:END")] = None
    """Several frames of the split: places from FIRST up to, and without, END; either may be left out."""
    out: Path | None = None
    """Picture (.png, .jpg), film (.mp4, .gif; one per scene) or folder; default: SCENE_TOKEN.png here, or a folder."""
    fps: float = 2.0
    """Frames per second of a film; nuScenes has two key frames per second."""
    width: Annotated[
        int | None,
        tyro.conf.arg(metavar="PIXELS", help_behavior_hint="(default: 1920 in MP4, 960 in GIF)"),
    ] = None
    """Scale pictures to this width, in pixels."""
    range: float = 51.2
    """Half the side of the map, in metres; boxes outside are left out, also in the camera views."""
    beside: bool = False
    """Draw true and predicted boxes on two maps instead of one."""
    labels: bool = False
    """Write class, score and attribute at every box."""
    layers: tuple[Layer, ...] = ()
    """With --checkpoint: expected depth over the images with its LiDAR error; feature maps of now and before; where the
    model expects centres of objects, on the map."""
    all_voxels: bool = False
    """Draw also the cells that no camera sees, which evaluation leaves out."""


@dataclass(frozen=True, kw_only=True)
class ViewOptions(PredictionOptions):
    """Look around in three dimensions: points, boxes, voxels, cameras. Keys are printed at the start; H shows them.

    Predictions come from RESULTS, or from a model that is run on the spot: --checkpoint, or an exported one: --model.
    """

    screenshot: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write one view of the first frame as a picture (.png) instead of opening a window; needs no display."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(PredictionOptions):
    """Write frames as a file that rerun or viser shows, also on another machine.

    Predictions come from RESULTS, or from a model that is run on the spot: --checkpoint, or an exported one: --model.
    """

    to: Literal["rerun", "viser"]
    """What shows the file: rerun (.rrd) or viser (.viser)."""
    out: Path
    """File to write."""
    samples: Annotated[str | None, tyro.conf.arg(metavar="FIRST:END")] = None
    """Several frames of the split: places from FIRST up to, and without, END; either may be left out."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write an evaluation as one HTML page: figures, curves, errors, confusion, best and worst frames."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """What bev-eval wrote: its folder, or that of the run, results_nusc.json, or a folder of TOKEN.npz."""
    data: DataOptions
    out: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: report.html beside the results)")
    ] = None
    """The page to write."""
    pictures: int = 3
    """How many of the best and how many of the worst frames are drawn, 0 to 20."""
    score_threshold: float = 0.3
    """Predictions that score less are left out of pictures and confusion, 0 to 1."""
    lidar: bool = True
    """Draw the LiDAR points on the maps, where the data set has them."""
    palette: PaletteName = "nuscenes"
    """Colours of the classes: nuScenes' own, or ones that colour-blind people can tell apart."""


def check_predictions(options: PredictionOptions) -> None:
    """Check what can be checked before anything is loaded. Raises ValueError for a mistake."""
    sources = {"RESULTS": options.results, "--checkpoint": options.checkpoint, "--model": options.model}
    given = [name for name, path in sources.items() if path is not None]
    if not given:
        raise ValueError(
            "nothing to draw: give RESULTS, or a model to run: --recipe NAME --checkpoint FILE, or --model DIR"
        )
    if len(given) > 1 or (options.results is not None and options.recipe is not None):
        raise ValueError("RESULTS, --recipe/--checkpoint and --model exclude each other: give the one to draw")
    if options.backend is not None and options.model is None:
        raise ValueError(f"--backend {options.backend} runs exported models: give one with --model DIR")
    if not 0 <= options.score_threshold <= 1:
        raise ValueError(f"--score-threshold must lie from 0 to 1, it is {options.score_threshold:g}")
