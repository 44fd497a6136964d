"""Predictions made on the spot: a checkpoint or an exported model, run on one sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from bev_lss import CameraRig
from bev_nuscenes import NuscenesDataset, collate
from bev_zoo import Detector, Recipe, read_recipe_name, trained_model

from .frame import Boxes
from .source import Source

if TYPE_CHECKING:
    from bev_deploy import DeployedDetector

Backend = Literal["onnxruntime", "tensorrt"]


def predict(source: Source, position: int, recipe: str | None, checkpoint: Path, device: str) -> Boxes:
    """The boxes (global) that a model sees in the sample at ``position`` of the source's split.

    Raises ValueError for an unknown recipe, a checkpoint that does not fit, or a device that is not there.
    """
    target = _device(device)
    model = trained_model(_recipe_name(recipe, checkpoint), checkpoint)
    return _boxes(model.to(target), source, position, target)


def predict_exported(
    source: Source, position: int, recipe: str | None, folder: Path, backend: Backend, device: str
) -> Boxes:
    """As :func:`predict`, with the exported model in a folder, whatever its recipe if none is named.

    Raises ValueError for a folder without an export of the recipe, a backend or a device that is not there.
    """
    from bev_deploy import load  # here, so that checkpoints need no runtimes

    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: an exported model runs on cpu or cuda")
    model = load(folder, backend, recipe=recipe, device="cuda" if backend == "tensorrt" else device)
    return _boxes(model, source, position, model.device)


def _boxes(model: "Detector | DeployedDetector", source: Source, position: int, device: torch.device) -> Boxes:
    if model.recipe.task != "detection":
        raise ValueError(f"{model.recipe.name} predicts voxels, and the picture shows boxes: choose a detector")
    batch = collate([_dataset(source, model.recipe)[position]]).to(device)
    (found,) = model.predict(batch.images, CameraRig(**batch.cameras))
    boxes = Boxes.from_ego(*(part.cpu().numpy() for part in (found.boxes, found.labels, found.scores)))
    return boxes.transform(batch.box_to_global[0].numpy())


def _dataset(source: Source, recipe: Recipe) -> NuscenesDataset:
    return NuscenesDataset(
        source.index,
        source.split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
    )


def _recipe_name(recipe: str | None, checkpoint: Path) -> str:
    name = recipe or read_recipe_name(checkpoint)
    if name is None:
        raise ValueError(f"checkpoint {checkpoint} names no recipe: give --recipe NAME")
    return name


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA fails an assertion of its own
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}): leave it out to run on the CPU") from None
    return device
