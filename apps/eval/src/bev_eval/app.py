"""An evaluation from its options to its figures."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bev_eval.earlier import remove_earlier
from bev_eval.models import Predictor, load_model, takes_raw_images
from bev_eval.options import EvalOptions, check_options, check_recipe
from bev_eval.predict import Prediction, groups_of, predict_split
from bev_eval.processes import Processes, gathered, joined
from bev_nuscenes import (
    Metrics,
    NuscenesDataset,
    OccupancyMetrics,
    evaluate,
    evaluate_occupancy,
    open_index,
    read_occupancy,
    write_prediction,
    write_submission,
)
from bev_nuscenes.files import atomic_write

__all__ = ["Evaluation", "evaluate_recipe"]

_RESULTS = ("results_nusc.json", "metrics.json", "metrics_summary.json", "occupancy/*.npz", ".rows-*.part")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        submission: predictions in the official format: a file of boxes, or a folder with a file of voxels per sample.
        metrics: the figures; None for v1.0-test, whose annotations are not public.
        is_main_process: whether this process is the one that judges and reports; the others have no metrics.
    """

    submission: Path
    metrics: Metrics | OccupancyMetrics | None
    is_main_process: bool = True


def evaluate_recipe(options: EvalOptions) -> Evaluation:
    """Predict a split and evaluate the predictions; started by torchrun, the processes share the split.

    Raises:
        ValueError: a mistake in the options, the data or the checkpoint; the message says what to do.
    """
    check_options(options)
    with joined() as processes:
        return _evaluate_share(options, processes)


def _evaluate_share(options: EvalOptions, processes: Processes) -> Evaluation:
    model, device = load_model(options)
    check_recipe(options, model.recipe)
    dataset = _open_split(options, model)
    if processes.is_main:
        remove_earlier(options.folder, _RESULTS, overwrite=options.overwrite)
        options.folder.mkdir(parents=True, exist_ok=True)
    processes.wait_for_all()
    predictions = predict_split(
        model,
        dataset,
        device=device,
        batch_size=options.batch_size,
        fill_batches=options.model is not None,
        workers=options.workers,
        stream=options.stream,
        processes=processes,
    )
    write_and_judge = _voxels if model.recipe.task == "occupancy" else _boxes
    evaluation = write_and_judge(options, dataset, predictions, processes)
    if evaluation.metrics is not None:
        _write_figures(options, model, evaluation.metrics, options.folder / "metrics.json")
    return evaluation


def _open_split(options: EvalOptions, model: Predictor) -> NuscenesDataset:
    """The split to predict; an occupancy split without ground truth is noticed now, not after hours of predicting."""
    split = options.data.evaluation_split
    dataset = NuscenesDataset(
        open_index(options.data),
        split,
        input_size=model.recipe.input_size,
        frames=1 if options.stream else model.recipe.frames,
        image_augmentation=model.recipe.image_augmentation,
        training=False,
        images="raw" if takes_raw_images(options, model) else "exact",
        image_cache_bytes=options.data.image_cache_bytes,
        on_error=options.data.on_error,
    )
    if model.recipe.task == "occupancy" and _has_answers(options):
        read_occupancy(dataset.index.occupancy_path(dataset.positions[0]))
    return dataset


def _boxes(
    options: EvalOptions, dataset: NuscenesDataset, predictions: Iterable[Prediction], processes: Processes
) -> Evaluation:
    submission = options.folder / "results_nusc.json"
    sizes = [len(group) for group in groups_of(dataset, batch_size=options.batch_size, stream=options.stream)]
    rows = gathered(_rows(predictions, options.score_threshold), sizes, options.folder, processes)
    if not processes.is_main:
        deque(rows, maxlen=0)  # its share is written for the main process
        return Evaluation(submission=submission, metrics=None, is_main_process=False)
    write_submission(submission, rows, dataset.index.tokens(dataset.split))
    if not _has_answers(options):
        return Evaluation(submission=submission, metrics=None)
    data = options.data
    metrics = evaluate(submission, root=data.root, version=data.version, split=dataset.split, out_dir=options.folder)
    return Evaluation(submission=submission, metrics=metrics)


def _rows(predictions: Iterable[Prediction], score_threshold: float) -> Iterator[tuple]:
    """What ``bev_nuscenes.write_submission`` takes: token, boxes, scores, labels, box_to_global."""
    for token, found, box_to_global in predictions:
        kept = found[found.scores >= score_threshold]
        yield token, kept.boxes.cpu(), kept.scores.cpu(), kept.labels.cpu(), box_to_global


def _voxels(
    options: EvalOptions, dataset: NuscenesDataset, predictions: Iterable[Prediction], processes: Processes
) -> Evaluation:
    submission = options.folder / "occupancy"
    for token, found, _ in predictions:
        write_prediction(submission, token, found)
    processes.wait_for_all()
    if not processes.is_main:
        return Evaluation(submission=submission, metrics=None, is_main_process=False)
    if not _has_answers(options):
        return Evaluation(submission=submission, metrics=None)
    metrics = evaluate_occupancy(submission, options.data, dataset.split, ray_iou=options.ray_iou)
    return Evaluation(submission=submission, metrics=metrics)


def _has_answers(options: EvalOptions) -> bool:
    """Whether the version's annotations are public."""
    return options.data.version != "v1.0-test"


def _write_figures(options: EvalOptions, model: Predictor, metrics: Metrics | OccupancyMetrics, path: Path) -> None:
    subject = {
        "recipe": model.recipe.name,
        "checkpoint": None if options.checkpoint is None else str(options.checkpoint),
        "model": None if options.model is None else str(options.model),
        "backend": options.runtime,
        "input_size": model.recipe.input_size,
        "stream": options.stream,
    }
    with atomic_write(path) as file:
        file.write(json.dumps({**subject, **json.loads(metrics.to_json())}, indent=2) + "\n")
