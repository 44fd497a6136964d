"""What a model gains or loses in accuracy by having been changed.

Letters: M boxes, grid X x Y x Z.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bev_heads import Detections
from bev_lss import CameraRig
from bev_nuscenes import (
    Batch,
    DataOptions,
    NuscenesDataset,
    SubmissionWriter,
    collate,
    evaluate,
    evaluate_occupancy,
    read_occupancy,
    write_prediction,
)
from bev_nuscenes.command_line import progress

from ..detector import DeployedDetector
from ..manifest import Manifest
from .samples import check_dataset

__all__ = ["AccuracyChange", "Figure", "check_answers", "compare_accuracy"]

_WITHOUT_ANSWERS = "v1.0-test"
_SAME_PLACE_M = 0.5


@dataclass(frozen=True)
class Figure:
    """One figure of an evaluation, of the model before and after."""

    name: str
    before: float
    after: float

    @property
    def relative(self) -> float:
        """The change over the figure before: -0.02 has lost 2 %; nan where that was 0."""
        return (self.after - self.before) / self.before if self.before else float("nan")


@dataclass(frozen=True, kw_only=True)
class AccuracyChange:
    """Two models on one split.

    Attributes:
        version, split: of the data.
        samples: number of key frames.
        figures: mAP, mAP of the classes that are present, and NDS; mIoU (percent) for occupancy.
        agreement: of the boxes of the first model that score at least ``score_threshold``, the share for which the
            second has one of the same class within half a metre; for occupancy the share of voxels of the same class.
        compared: boxes or voxels that this was measured on.
        score_threshold: None for occupancy.
    """

    version: str
    split: str
    samples: int
    figures: tuple[Figure, ...]
    agreement: float
    compared: int
    score_threshold: float | None


def compare_accuracy(
    before: DeployedDetector, after: DeployedDetector, dataset: NuscenesDataset, *, score_threshold: float = 0.1
) -> AccuracyChange:
    """Predict a split with two exports of one recipe, and evaluate both with the official metric.

    Args:
        before, after: the exports.
        dataset: a split with annotations; as for :func:`calibration_inputs`.
        score_threshold: boxes that are compared one by one score this at least.

    Raises:
        ValueError: exports of different recipes, or a data set that does not fit them or has no annotations.
    """
    if before.recipe != after.recipe:
        raise ValueError(
            f"these are exports of {before.recipe.name} and of {after.recipe.name}: compare like with like"
        )
    check_dataset(before.manifest, dataset)
    check_dataset(after.manifest, dataset)
    check_answers(before.manifest, dataset)
    judge = _judge_voxels if before.recipe.task == "occupancy" else _judge_boxes
    with tempfile.TemporaryDirectory() as scratch:
        return judge((before, after), dataset, score_threshold, Path(scratch))


def check_answers(manifest: Manifest, dataset: NuscenesDataset) -> None:
    """See before predicting whether there is something to compare predictions with.

    Raises:
        ValueError: there is not.
    """
    if dataset.index.info.version == _WITHOUT_ANSWERS:
        raise ValueError(f"{_WITHOUT_ANSWERS} has no annotations to evaluate on: name a split of another version")
    if manifest.task == "occupancy":
        read_occupancy(dataset.index.occupancy_path(dataset.positions[0]))


def _judge_boxes(
    models: tuple[DeployedDetector, DeployedDetector], dataset: NuscenesDataset, score_threshold: float, scratch: Path
) -> AccuracyChange:
    info, same, compared = dataset.index.info, 0, 0
    paths = [scratch / f"{name}.json" for name in ("before", "after")]
    with ExitStack() as stack:
        tokens = dataset.index.tokens(dataset.split)
        writers = [stack.enter_context(SubmissionWriter(path, tokens)) for path in paths]
        for batch, found in _predictions(models, dataset):
            for writer, boxes in zip(writers, found, strict=True):
                writer.add(batch.tokens[0], boxes.boxes, boxes.scores, boxes.labels, batch.box_to_global[0])
            wanted = found[0][found[0].scores >= score_threshold]
            same += _found_again(wanted, found[1])
            compared += len(wanted)
    first, second = (evaluate(path, root=info.root, version=info.version, split=dataset.split) for path in paths)
    return AccuracyChange(
        version=info.version,
        split=dataset.split,
        samples=len(dataset),
        figures=(
            Figure("mAP", first.mean_ap, second.mean_ap),
            Figure("mAP of classes present", first.mean_ap_present, second.mean_ap_present),
            Figure("NDS", first.nds, second.nds),
        ),
        agreement=same / compared if compared else 1.0,
        compared=compared,
        score_threshold=score_threshold,
    )


def _judge_voxels(
    models: tuple[DeployedDetector, DeployedDetector], dataset: NuscenesDataset, score_threshold: float, scratch: Path
) -> AccuracyChange:
    info, same, compared = dataset.index.info, 0, 0
    folders = [scratch / name for name in ("before", "after")]
    for batch, found in _predictions(models, dataset):
        for folder, voxels in zip(folders, found, strict=True):
            write_prediction(folder, batch.tokens[0], voxels)
        same += int((found[0] == found[1]).sum())
        compared += found[0].numel()
    data = DataOptions(root=info.root, version=info.version, index=dataset.index.path)
    first, second = (evaluate_occupancy(folder, data, dataset.split) for folder in folders)
    return AccuracyChange(
        version=info.version,
        split=dataset.split,
        samples=len(dataset),
        figures=(Figure("mIoU", first.miou, second.miou),),
        agreement=same / compared,
        compared=compared,
        score_threshold=None,
    )


def _predictions(
    models: tuple[DeployedDetector, DeployedDetector], dataset: NuscenesDataset
) -> Iterator[tuple[Batch, list[Detections] | list[Tensor]]]:
    """Every sample of a split, and what each model finds in it."""
    with progress(len(dataset), f"predicting {dataset.split} with both", "frame") as bar:
        for place in range(len(dataset)):
            batch = collate([dataset[place]]).to("cpu")
            rig = CameraRig(**batch.cameras)
            yield batch, [model.predict(batch.images, rig)[0] for model in models]
            bar.update()


def _found_again(wanted: Detections, got: Detections) -> int:
    """How many boxes have one of their class near them."""
    if not len(wanted) or not len(got):
        return 0
    distance = torch.cdist(wanted.boxes[:, :2], got.boxes[:, :2])
    distance[wanted.labels[:, None] != got.labels[None]] = torch.inf
    return int((distance.amin(dim=1) <= _SAME_PLACE_M).sum())
