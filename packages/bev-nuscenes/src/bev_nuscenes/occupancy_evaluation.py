"""Evaluation of occupancy predictions: mIoU as published, RayIoU on request.

Legend: (X, Y, Z) cells of the occupancy grid.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .build import open_index
from .errors import DataError
from .files import atomic_write
from .occupancy import FREE, OCCUPANCY_CLASSES, OCCUPANCY_SHAPE, check_occupancy, read_occupancy
from .occupancy_predictions import missing_predictions, read_prediction
from .options import DataOptions
from .ray_iou import DEPTH_THRESHOLDS, RayIou, RayIouCounts, ray_origins

__all__ = ["OccupancyCounts", "OccupancyMetrics", "evaluate_occupancy"]


class OccupancyCounts:
    """Confusion of ground truth (rows) and prediction (columns) over the cells a camera sees, added up by sample."""

    def __init__(self) -> None:
        self.matrix = np.zeros((len(OCCUPANCY_CLASSES), len(OCCUPANCY_CLASSES)), dtype=np.int64)
        self.samples = 0

    def add(
        self,
        prediction: np.ndarray,  # (X, Y, Z) integers
        semantics: np.ndarray,  # (X, Y, Z) integers
        mask_camera: np.ndarray,  # (X, Y, Z) bool
    ) -> None:
        """Count one sample.

        Raises:
            DataError: a wrong shape, or labels that are none.
        """
        if mask_camera.shape != OCCUPANCY_SHAPE or mask_camera.dtype != bool:
            raise DataError(f"mask_camera must be bool {OCCUPANCY_SHAPE}, got {mask_camera.dtype} {mask_camera.shape}")
        predicted = check_occupancy(prediction, "the prediction")[mask_camera]
        truth = check_occupancy(semantics, "the ground truth")[mask_camera]
        classes = len(OCCUPANCY_CLASSES)
        pair = truth.astype(np.int64) * classes + predicted
        self.matrix += np.bincount(pair, minlength=classes**2).reshape(classes, classes)
        self.samples += 1

    def iou(self) -> np.ndarray:
        """IoU of each class (18,), 0 to 1; nan for a class that is neither there nor predicted."""
        right = np.diag(self.matrix)
        with np.errstate(invalid="ignore"):
            return right / (self.matrix.sum(axis=0) + self.matrix.sum(axis=1) - right)

    def percent(self) -> dict[str, float]:
        """IoU of the 17 classes that are not free and, as ``mIoU``, their mean, with the rounding of the publication.

        The mean is taken over classes with a nan left out and before rounding.
        """
        iou = self.iou()[:FREE]
        mean = np.float64(np.nan) if np.isnan(iou).all() else np.nanmean(iou)
        figures = zip((*OCCUPANCY_CLASSES[:FREE], "mIoU"), (*iou, mean), strict=True)
        return {name: float(round(value * 100, 2)) for name, value in figures}


@dataclass(frozen=True, kw_only=True)
class OccupancyMetrics:
    """Figures of one evaluation, in percent, rounded to two digits as published.

    Attributes:
        version, split: what was evaluated.
        samples: number of key frames.
        miou: mean IoU over the classes that occur, free space left out, in cells that a camera sees.
        classes: IoU per class in the order of OCCUPANCY_CLASSES, without free; nan for a class that does not occur.
        rays: RayIoU; None unless asked for.
    """

    version: str
    split: str
    samples: int
    miou: float
    classes: dict[str, float]
    rays: RayIou | None = None

    def to_json(self, path: str | Path | None = None) -> str:
        """The figures as JSON, nan as null; also written to ``path`` if given."""
        content = {
            "version": self.version,
            "split": self.split,
            "samples": self.samples,
            "mIoU": _number(self.miou),
            "IoU": {name: _number(value) for name, value in self.classes.items()},
        }
        if self.rays is not None:
            content |= _ray_content(self.rays)
        text = json.dumps(content, indent=2) + "\n"
        if path is not None:
            with atomic_write(Path(path)) as file:
                file.write(text)
        return text

    def table(self) -> str:
        """The figures as a table for a terminal, percent; ``-`` stands where there is nothing to measure."""
        columns = [f"ray@{threshold:g}m" for threshold in DEPTH_THRESHOLDS] if self.rays else []
        lines = [f"{'class':<22}{'IoU':>8}" + "".join(f"{column:>8}" for column in columns)]
        for name, value in self.classes.items():
            lines.append(_row(name, value, *(self.rays.by_class[name] if self.rays else ())))
        lines.append(_row("mean", self.miou, *(self.rays.by_threshold.values() if self.rays else ())))
        summary = f"{self.version} {self.split}, {self.samples} key frames: mIoU {_figure(self.miou)}"
        lines.append(summary + (f", RayIoU {_figure(self.rays.mean)}" if self.rays else ""))
        return "\n".join(lines)


def evaluate_occupancy(
    prediction_dir: str | Path, options: DataOptions, split: str, *, ray_iou: bool = False, progress: bool = True
) -> OccupancyMetrics:
    """Compare a folder of predictions with the ground truth of a split.

    Args:
        prediction_dir: folder with one TOKEN.npz per key frame of the split; other files in it do not matter.
        options: the data; its ``split`` plays no part.
        split: such as ``val`` or ``mini_val``.
        ray_iou: compute RayIoU too, about a third of a second per key frame.
        progress: show a progress bar.

    Raises:
        DataError: wrong data options or split, predictions that are missing or unusable, ground truth that is.
        ImportError: the index has to be built and the devkit is not installed.
    """
    index = open_index(options, progress=progress)
    tokens = index.tokens(split)
    _check_complete(prediction_dir, tokens, split)
    counts, rays = OccupancyCounts(), RayIouCounts()
    positions = tqdm(index.split_positions(split), desc=f"evaluating {split}", unit="frame", disable=not progress)
    for token, position in zip(tokens, positions, strict=True):
        prediction = read_prediction(prediction_dir, token)
        truth = read_occupancy(index.occupancy_path(position))
        counts.add(prediction, truth.semantics, truth.mask_camera)
        if ray_iou:
            rays.add(prediction, truth.semantics, ray_origins(index, position))
    classes = counts.percent()
    return OccupancyMetrics(
        version=options.version,
        split=split,
        samples=counts.samples,
        miou=classes.pop("mIoU"),
        classes=classes,
        rays=rays.figures() if ray_iou else None,
    )


def _check_complete(folder: str | Path, tokens: list[str], split: str) -> None:
    missing = missing_predictions(folder, tokens)
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{folder} lacks the predictions of {len(missing)} of {len(tokens)} samples of {split} ({some}); "
            "predict every sample of the split"
        )


def _ray_content(rays: RayIou) -> dict:
    return {
        "RayIoU": _number(rays.mean),
        **{f"RayIoU@{threshold:g}m": _number(value) for threshold, value in rays.by_threshold.items()},
        "RayIoU_classes": {name: [_number(value) for value in values] for name, values in rays.by_class.items()},
    }


def _row(name: str, *values: float) -> str:
    return f"{name:<22}" + "".join(f"{_figure(value):>8}" for value in values)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
