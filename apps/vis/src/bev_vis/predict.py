"""Predictions made on the spot: a checkpoint or an exported model, run on the samples of a source."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from bev_lss import CameraRig
from bev_nuscenes import Batch, NuscenesDataset, attribute_names, collate
from bev_zoo import Detector, Recipe, read_recipe_name, trained_model

from .frame import Boxes
from .inner import InnerView, Observer
from .predictions import Layer, Prediction
from .source import Source
from .submission import attribute_number

if TYPE_CHECKING:
    from bev_deploy import DeployedDetector

Backend = Literal["onnxruntime", "tensorrt"]


@dataclass(frozen=True)
class Model:
    """A model with the samples it is run on: called with a place of the source's split."""

    detector: "Detector | DeployedDetector"
    data: NuscenesDataset
    device: torch.device
    layers: tuple[Layer, ...] = ()

    def __call__(self, position: int) -> Prediction:
        """Boxes (global) or voxels, and the layers that were asked for."""
        batch = collate([self.data[position]]).to(self.device)
        found, inner = self._run(batch)
        if self.detector.recipe.task == "occupancy":
            return Prediction(voxels=found.cpu().numpy().astype(np.uint8), inner=inner)
        numbers = (part.cpu().numpy() for part in (found.boxes, found.labels, found.scores))
        return Prediction(boxes=_with_attributes(*numbers).transform(batch.box_to_global[0].numpy()), inner=inner)

    def _run(self, batch: Batch) -> tuple:
        rig = CameraRig(**batch.cameras)
        if not self.layers:
            return self.detector.predict(batch.images, rig)[0], InnerView()
        observer = Observer(self.detector)
        with observer.listening():
            (found,) = self.detector.predict(batch.images, rig)
        return found, InnerView(
            depth=observer.depth(batch) if "depth" in self.layers else None,
            history=observer.history() if "history" in self.layers else None,
            heatmap=observer.heatmap() if "heatmap" in self.layers else None,
        )


def load_checkpoint_model(
    source: Source, recipe: str | None, checkpoint: Path, device: str, layers: tuple[Layer, ...] = ()
) -> Model:
    """A checkpoint, ready for the samples of a source.

    Raises ValueError for an unknown recipe, a checkpoint that does not fit, a device that is not there, or a layer that
    the recipe does not have.
    """
    target = _device(device)
    detector = trained_model(_recipe_name(recipe, checkpoint), checkpoint).to(target)
    if "history" in layers and not detector.recipe.temporal.history:
        raise ValueError(f"--layers history: {detector.recipe.name} sees one frame; leave it out")
    data = _dataset(source, detector.recipe, with_depth="depth" in layers and source.has_lidar)
    return Model(detector, data, target, layers)


def load_exported_model(source: Source, recipe: str | None, folder: Path, backend: Backend, device: str) -> Model:
    """The exported model in a folder, whatever its recipe if none is named.

    Raises ValueError for a folder without an export of the recipe, a backend or a device that is not there.
    """
    from bev_deploy import load  # here, so that checkpoints need no runtimes

    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: an exported model runs on cpu or cuda")
    detector = load(folder, backend, recipe=recipe, device="cuda" if backend == "tensorrt" else device)
    raw_images = detector.manifest.preprocessing.in_graph
    return Model(detector, _dataset(source, detector.recipe, raw_images=raw_images), detector.device)


def _with_attributes(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Boxes:
    """Boxes of the ego frame with the attributes that the submission would give them."""
    names = attribute_names(labels, boxes[:, 7:9])
    return Boxes.from_ego(boxes, labels, scores, np.array([attribute_number(name) for name in names], np.int64))


def _dataset(source: Source, recipe: Recipe, *, with_depth: bool = False, raw_images: bool = False) -> NuscenesDataset:
    return NuscenesDataset(
        source.index,
        source.split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
        with_depth=with_depth,
        images="raw" if raw_images else "exact",
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
