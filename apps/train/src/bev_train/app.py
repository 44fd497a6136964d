"""A training run from its options to its weights."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from bev_train.build import build_data
from bev_train.fit import RunResult, fit
from bev_train.options import TrainOptions
from bev_train.resolve import resolve_recipe
from bev_train.run_folder import RunFolder, join_run_folder, open_run_folder
from bev_train.weights import create_starting_model
from bev_zoo import Recipe

__all__ = ["open_or_join", "train"]


def train(options: TrainOptions) -> RunResult:
    """Train a recipe on nuScenes.

    Raises:
        ValueError: a mistake in the options, the data or a checkpoint; the message says what to do.
    """
    recipe = resolve_recipe(options)
    folder = open_or_join(options, recipe)
    data = build_data(options, recipe)
    pl.seed_everything(options.seed, verbose=False)
    model = create_starting_model(options, recipe)
    try:
        return fit(model, data, options, recipe, folder)
    finally:
        if data.dataset.faults.count:
            print(f"bev-train: {data.dataset.faults.report()}", file=sys.stderr)


def open_or_join(options: TrainOptions, recipe: Recipe) -> RunFolder:
    """The run's folder: checked by the first process, taken as it is by the others.

    Raises:
        ValueError: a folder that is taken, or a run that cannot be continued.
    """
    return open_run_folder(options, recipe) if rank_zero_only.rank == 0 else join_run_folder(options)
