"""A detector with the weights of a checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path

from .checkpoint import load_checkpoint, read_input_size, read_recipe_name
from .create import create_model
from .detector import Detector
from .recipe import Align
from .recipes import get_recipe

__all__ = ["trained_model"]


def trained_model(
    recipe: str, checkpoint: str | Path, *, input_size: tuple[int, int] | None = None, align: Align | None = None
) -> Detector:
    """Build a recipe's detector at the input size that a checkpoint was trained at, and load its weights.

    Args:
        recipe: its name.
        checkpoint: a file of ours or a published one.
        input_size: height and width, pixels, instead of those it was trained at.
        align: history "during" or "after" the view transform; the recipe's own if None.

    Warns:
        UserWarning: the checkpoint says that it was trained as another recipe, or at another size.

    Raises:
        ValueError: an unknown recipe, a size that cannot be, or a checkpoint that does not fit.
    """
    wanted = get_recipe(recipe)
    trained_as = read_recipe_name(checkpoint) or wanted.name
    trained_size = read_input_size(checkpoint) or wanted.input_size
    model = create_model(wanted, input_size=input_size or trained_size, align=align)
    load_checkpoint(model, checkpoint)
    if trained_as != wanted.name:
        warnings.warn(f"{checkpoint} was trained as {trained_as}, not as {wanted.name}", stacklevel=2)
    if model.recipe.input_size != trained_size:
        warnings.warn(f"{checkpoint} was trained at {trained_size}, not {model.recipe.input_size}", stacklevel=2)
    return model
