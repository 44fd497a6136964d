"""The recipe that follows from the options of a run."""

from __future__ import annotations

import warnings
from dataclasses import replace

from bev_train.options import TrainOptions
from bev_zoo import Recipe, get_recipe

__all__ = ["resolve_recipe"]


def resolve_recipe(options: TrainOptions) -> Recipe:
    """The recipe with the options of this run in it.

    Raises:
        ValueError: unknown recipe, or an option out of its range or not meant for the recipe.
    """
    _check_ranges(options)
    recipe = get_recipe(options.recipe)
    if options.validate_every_epochs is not None and recipe.task != "occupancy":
        raise ValueError(
            f"--validate-every-epochs measures occupancy, {recipe.name} detects boxes: "
            "evaluate its model.safetensors with bev-eval"
        )
    if options.input_size is not None:
        recipe = replace(recipe, input_size=options.input_size)
    changes = {
        name: value
        for name in ("epochs", "batch_size", "learning_rate", "warmup_steps")
        if (value := getattr(options, name)) is not None
    }
    changes["milestones"] = _milestones(recipe, options)
    if options.sync_bn:
        changes["syncbn_start_epoch"] = 0
    if options.class_balanced != "recipe":
        changes["class_balanced"] = options.class_balanced == "on"
    return replace(recipe, training=replace(recipe.training, **changes))


def _check_ranges(options: TrainOptions) -> None:
    positive = (
        "epochs",
        "max_steps",
        "max_minutes",
        "batch_size",
        "accumulate",
        "learning_rate",
        "num_nodes",
        "validate_every_epochs",
        "checkpoint_every_epochs",
        "checkpoint_every_minutes",
        "checkpoint_every_steps",
        "worker_timeout",
        "log_every",
    )
    for name in positive:
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    for name in ("workers", "warmup_steps", "seed", "max_skipped_steps"):
        value = getattr(options, name)
        if value is not None and value < 0:
            raise ValueError(f"--{name.replace('_', '-')} must not be negative, got {value}")
    if options.compile and options.checkpoint_activations:
        raise ValueError("--compile and --checkpoint-activations exclude each other: a compiled stage cannot be redone")
    if options.strategy == "fsdp" and options.validate_every_epochs is not None:
        raise ValueError(
            "--validate-every-epochs needs the whole model in every process, and --strategy fsdp shares it out: take "
            "ddp, or use bev-eval after training"
        )
    if options.worker_timeout is not None and options.workers == 0:
        raise ValueError("--worker-timeout watches loading workers, and --workers is 0: leave it out")


def _milestones(recipe: Recipe, options: TrainOptions) -> tuple[int, ...]:
    """Those asked for, else the recipe's at the same shares of the training."""
    epochs = options.epochs or recipe.training.epochs
    if options.milestones is None:
        return tuple(round(milestone * epochs / recipe.training.epochs) for milestone in recipe.training.milestones)
    lost = [milestone for milestone in options.milestones if milestone >= epochs]
    if lost:
        warnings.warn(f"--milestones {lost} are never reached in {epochs} epochs", stacklevel=3)
    return options.milestones
