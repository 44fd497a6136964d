"""A published checkpoint, written as one of ours."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .checkpoint import CheckpointError, load_checkpoint, looks_like, read_checkpoint, save_checkpoint
from .create import entry_shapes, meta_model
from .detector import Detector
from .recipe import Recipe
from .recipes import get_recipe, list_recipes

__all__ = ["Conversion", "convert_checkpoint"]


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    path: Path
    recipe: str
    same_weights: tuple[str, ...]  # other recipes that these weights fit as well
    entries: int
    size: int  # bytes
    sha256: str


def convert_checkpoint(source: Path, target: Path, *, recipe: str | None = None, force: bool = False) -> Conversion:
    """Read a checkpoint of any kind that :func:`bev_zoo.load_checkpoint` reads and write it as safetensors of ours.

    The target appears whole or not at all.

    Args:
        source: the file to read.
        target: the ``.safetensors`` file to write; its folder must exist.
        recipe: name of the system; found by :func:`bev_zoo.looks_like` if left out.
        force: write over a file that is there.

    Raises:
        CheckpointError: not readable, no known system, or not fitting the recipe as a whole.
        ValueError: an unknown recipe, or a target of another suffix.
        OSError: the target is there and not to be written over, or cannot be written.
    """
    _check_target(target, force)
    wanted = None if recipe is None else get_recipe(recipe)
    state = read_checkpoint(source)
    chosen = wanted or _recognised(source, state)
    model = meta_model(chosen).to_empty(device="cpu")  # every entry is overwritten, or nothing is written
    try:
        load_checkpoint(model, state)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("the state dict", str(source), 1)) from error
    _save_whole(model, source, target)
    same = tuple(other.name for other in _alike(chosen) if entry_shapes(other) == entry_shapes(chosen))
    content = target.read_bytes()
    return Conversion(
        target, chosen.name, same, len(model.state_dict()), len(content), hashlib.sha256(content).hexdigest()
    )


def _check_target(target: Path, force: bool) -> None:
    if target.suffix != ".safetensors":
        raise ValueError(f"the file to write must end in .safetensors, got {target}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} to: make it first")
    if target.exists() and not force:
        raise FileExistsError(f"{target} is there already: --force writes over it")


def _recognised(source: Path, state: Mapping[str, Tensor]) -> Recipe:
    name = looks_like(state)
    if name is None:
        raise CheckpointError(
            f"{source} looks like no known system: name it with --recipe (python -m bev_zoo list shows all)"
        )
    return get_recipe(name)


def _save_whole(model: Detector, source: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converting-") as folder:
        written = Path(folder) / target.name
        save_checkpoint(model, written, {"converted_from": source.name})
        written.replace(target)


def _alike(recipe: Recipe) -> list[Recipe]:
    """Other recipes that might have the same weights."""
    others = (get_recipe(name) for name in list_recipes() if name != recipe.name)

    def family(recipe: Recipe) -> tuple[object, ...]:
        return recipe.task, recipe.frames, recipe.stereo, recipe.backbone.name

    return [other for other in others if family(other) == family(recipe)]
