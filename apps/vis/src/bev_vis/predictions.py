"""What was predicted of a frame, whoever says so: a submission, a folder of voxels, or a model run on the spot."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bev_nuscenes import read_prediction

from .frame import Boxes, Voxels
from .submission import Records, boxes_of_sample, read_submission

if TYPE_CHECKING:
    from .inner import InnerView
    from .options import PredictionOptions
    from .source import Source

Layer = Literal["depth", "history", "heatmap"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Boxes or voxels of one frame, and what the model saw on its way, if that was asked for."""

    boxes: Boxes | None = None  # global
    voxels: Voxels | None = None
    inner: "InnerView | None" = None


Predictions = Callable[[int], Prediction]
"""From the place of a frame in its split to what was predicted of it."""


def open_predictions(options: "PredictionOptions", source: "Source", layers: tuple[Layer, ...] = ()) -> Predictions:
    """The predictions that the options name. Raises ValueError for files that are none and models that do not fit."""
    if options.results is not None:
        return _open_results(options.results, source)
    from .predict import load_checkpoint_model, load_exported_model  # loads PyTorch models, which results need not

    if options.model is not None:
        backend = options.backend or "onnxruntime"
        return load_exported_model(source, options.recipe, options.model, backend, options.device)
    assert options.checkpoint is not None
    return load_checkpoint_model(source, options.recipe, options.checkpoint, options.device, layers)


def find_results(path: Path) -> Path:
    """The submission or the folder of voxels that a path means: itself, or what an evaluation or a run has put there.

    Raises ValueError for a folder that holds neither.
    """
    if not path.is_dir():
        return path
    for folder in (path, path / "eval"):
        if (folder / "results_nusc.json").is_file():
            return folder / "results_nusc.json"
        for voxels in (folder, folder / "occupancy"):
            if next(voxels.glob("*.npz"), None) is not None:
                return voxels
    raise ValueError(f"folder {path} holds neither results_nusc.json nor occupancy/TOKEN.npz: bev-eval writes them")


def predicted_boxes(results: dict[str, Records], source: "Source") -> Predictions:
    """The boxes of a submission that was read."""
    return partial(_boxes, results, source.tokens)


def predicted_voxels(folder: Path, source: "Source") -> Predictions:
    """The voxels of a folder of TOKEN.npz."""
    return partial(_voxels, folder, source.tokens)


def _open_results(path: Path, source: "Source") -> Predictions:
    found = find_results(path)
    return predicted_voxels(found, source) if found.is_dir() else predicted_boxes(read_submission(found), source)


def _boxes(results: dict[str, Records], tokens: list[str], position: int) -> Prediction:
    return Prediction(boxes=boxes_of_sample(results, tokens[position]))


def _voxels(folder: Path, tokens: list[str], position: int) -> Prediction:
    return Prediction(voxels=read_prediction(folder, tokens[position]))
