"""A training run from its options to its weights."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from bev_train.build import build_data
from bev_train.fit import RunResult, fit
from bev_train.options import TrainOptions
from bev_train.resolve import resolve_recipe
from bev_train.run_folder import RunFolder, open_run_folder
from bev_train.weights import create_starting_model

__all__ = ["train"]


def train(options: TrainOptions) -> RunResult:
    """Train a recipe on nuScenes.

    Raises:
        ValueError: a mistake in the options, the data or a checkpoint; the message says what to do.
    """
    recipe = resolve_recipe(options)
    folder = open_run_folder(options, recipe) if rank_zero_only.rank == 0 else RunFolder(options.folder)
    data = build_data(options, recipe)
    pl.seed_everything(options.seed, verbose=False)
    model = create_starting_model(options, recipe)
    return fit(model, data, options, recipe, folder)
