"""An evaluation from its options to its figures."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from bev_eval.options import EvalOptions, check_options, evaluation_split
from bev_eval.predict import predict_split
from bev_nuscenes import Metrics, NuscenesDataset, evaluate, open_index, write_submission
from bev_zoo import Detector, create_model, get_recipe, load_checkpoint, read_input_size, read_recipe_name

__all__ = ["Evaluation", "evaluate_recipe"]

_RESULTS = ("results_nusc.json", "metrics.json", "metrics_summary.json")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What came out.

    Attributes:
        submission: predictions in the official format.
        metrics: figures of the devkit; None for v1.0-test, whose annotations are not public.
    """

    submission: Path
    metrics: Metrics | None


def evaluate_recipe(options: EvalOptions) -> Evaluation:
    """Predict a split and evaluate the predictions.

    Raises:
        ValueError: a mistake in the options, the data or the checkpoint; the message says what to do.
    """
    check_options(options)
    device = _device(options.device)
    model = _load_model(options)
    split = evaluation_split(options.data)
    dataset = NuscenesDataset(
        open_index(options.data),
        split,
        input_size=model.recipe.input_size,
        frames=model.recipe.frames,
        image_augmentation=model.recipe.image_augmentation,
        training=False,
    )
    submission = _make_room(options) / "results_nusc.json"
    detections = predict_split(
        model,
        dataset,
        device=device,
        batch_size=options.batch_size,
        workers=options.workers,
        score_threshold=options.score_threshold,
    )
    write_submission(submission, detections, dataset.index.tokens(split))
    return Evaluation(submission=submission, metrics=_evaluate(options, model, submission, split))


def _evaluate(options: EvalOptions, model: Detector, submission: Path, split: str) -> Metrics | None:
    if options.data.version == "v1.0-test":
        return None
    metrics = evaluate(
        submission, root=options.data.root, version=options.data.version, split=split, out_dir=submission.parent
    )
    subject = {
        "recipe": model.recipe.name,
        "checkpoint": None if options.untrained else str(options.checkpoint),
        "input_size": model.recipe.input_size,
    }
    content = {**subject, **json.loads(metrics.to_json())}
    (submission.parent / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")
    return metrics


def _load_model(options: EvalOptions) -> Detector:
    recipe = get_recipe(options.recipe)
    if options.checkpoint is None:
        torch.manual_seed(options.seed)
        return create_model(recipe, input_size=options.input_size)
    trained_as = read_recipe_name(options.checkpoint) or recipe.name
    trained_size = read_input_size(options.checkpoint) or recipe.input_size
    model = create_model(recipe, input_size=options.input_size or trained_size)
    load_checkpoint(model, options.checkpoint)
    if trained_as != recipe.name:
        warnings.warn(f"{options.checkpoint} was trained as {trained_as}, not as {recipe.name}", stacklevel=2)
    if model.recipe.input_size != trained_size:
        warnings.warn(
            f"{options.checkpoint} was trained at {trained_size}, not {model.recipe.input_size}", stacklevel=2
        )
    return model


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but PyTorch finds no GPU: use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _make_room(options: EvalOptions) -> Path:
    """The output folder, made if need be, without the results of an earlier evaluation."""
    folder = options.folder
    earlier = [folder / name for name in _RESULTS if (folder / name).exists()]
    if earlier and not options.overwrite:
        raise ValueError(
            f"{earlier[0]} exists already: choose another folder with --out, or replace it with --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path in earlier:
        path.unlink()
    return folder
