"""From images of one's own cameras to boxes or voxels."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bev_eval.earlier import remove_earlier
from bev_eval.image_options import PredictOptions
from bev_eval.models import Predictor, load_model, takes_raw_images
from bev_eval.options import check_options, check_recipe
from bev_eval.predict import Prediction, predict_split
from bev_eval.prediction_file import PredictionFile
from bev_nuscenes import (
    OCCUPANCY_CELL,
    OCCUPANCY_CLASSES,
    OCCUPANCY_LOWER,
    NuscenesDataset,
    NuscenesIndex,
    write_prediction,
)
from bev_nuscenes.own import build_own_index, field_of_view

__all__ = ["Predicted", "predict_images"]

_RESULTS = ("predictions.json", "occupancy/*.npz", "occupancy/grid.json")
_USUAL_VIEW = (45.0, 110.0)  # degrees; nuScenes has 65, and 89 at the back


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What came out.

    Attributes:
        path: predictions.json, or the folder of voxels.
        frames: number of frames predicted.
        boxes: number of boxes; None for voxels.
    """

    path: Path
    frames: int
    boxes: int | None


def predict_images(options: PredictOptions) -> Predicted:
    """Predict every frame of a split of own data.

    Raises:
        ValueError: a mistake in the options, the data or the checkpoint; the message says what to do.
    """
    evaluation = options.as_evaluation()
    check_options(evaluation)
    model, device = load_model(evaluation)
    check_recipe(evaluation, model.recipe)
    index = build_own_index(options.images, options.calib)
    _warn_of_strange_cameras(index)
    stream = model.recipe.frames > 1
    dataset = NuscenesDataset(
        index,
        options.split,
        input_size=model.recipe.input_size,
        image_augmentation=model.recipe.image_augmentation,
        images="raw" if takes_raw_images(evaluation, model) else "exact",
    )
    remove_earlier(options.out, _RESULTS, overwrite=options.overwrite)
    predictions = predict_split(model, dataset, device=device, workers=options.workers, stream=stream)
    write = _write_voxels if model.recipe.task == "occupancy" else _write_boxes
    return write(options, model, index, predictions)


def _write_boxes(
    options: PredictOptions, model: Predictor, index: NuscenesIndex, predictions: Iterator[Prediction]
) -> Predicted:
    path, frames, boxes = options.out / "predictions.json", 0, 0
    with PredictionFile(path, index, model.recipe.name) as file:
        for token, found, _ in predictions:
            kept = found[found.scores >= options.score_threshold]
            file.add(token, kept)
            frames, boxes = frames + 1, boxes + len(kept.scores)
    return Predicted(path=path, frames=frames, boxes=boxes)


def _write_voxels(
    options: PredictOptions, model: Predictor, index: NuscenesIndex, predictions: Iterator[Prediction]
) -> Predicted:
    folder, frames = options.out / "occupancy", 0
    for token, found, _ in predictions:
        write_prediction(folder, token, found)
        frames += 1
    grid = {"lower_m": OCCUPANCY_LOWER, "cell_m": OCCUPANCY_CELL, "axes": "x, y, z of the ego frame", "frame": "ego"}
    (folder / "grid.json").write_text(json.dumps({**grid, "classes": OCCUPANCY_CLASSES}, indent=2) + "\n")
    return Predicted(path=folder, frames=frames, boxes=None)


def _warn_of_strange_cameras(index: NuscenesIndex) -> None:
    """Networks were trained on cameras of 65 to 90 degrees; depth from others is guesswork."""
    table = index.cameras
    for n, name in enumerate(index.info.cameras):
        # A drive may have a calibration of its own.
        _, places = np.unique(table.intrinsics[:, n].reshape(len(index), -1), axis=0, return_index=True)
        views = {math.degrees(field_of_view(table.intrinsics[k, n], int(table.sizes[k, n, 0]))) for k in places}
        strange = [view for view in sorted(views) if not _USUAL_VIEW[0] <= view <= _USUAL_VIEW[1]]
        if strange:
            told = " and ".join(f"{view:.0f}" for view in strange)
            warnings.warn(
                f"camera {name} sees {told} degrees, those of nuScenes 65 to 90: expect wrong depths of a network that "
                "was trained there",
                stacklevel=3,
            )
