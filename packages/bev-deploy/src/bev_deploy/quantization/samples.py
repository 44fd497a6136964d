"""Inputs of an exported model as a data set gives them.

Letters: B samples, T frames (newest first), N cameras.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bev_lss import CameraRig
from bev_nuscenes import NuscenesDataset, collate

from ..detector import DeployedDetector
from ..manifest import Manifest
from ..session import OnnxRuntimeSession, Session

__all__ = ["calibration_inputs", "check_dataset"]


def calibration_inputs(
    folder: str | Path, dataset: NuscenesDataset, count: int = 64, *, seed: int = 0, threads: int | None = None
) -> Iterator[dict[str, Tensor]]:
    """Inputs for :func:`quantize_model`: those of the last step of whole sequences, with a full history.

    Samples are spread evenly over the split and come in random order.

    Args:
        folder: an export of one sample per call, or of any number.
        dataset: with as many frames as the recipe wants, at the input size of the export, not augmented; with
            ``images="raw"`` for an export that pre-processes.
        count: of samples; all if the split has fewer.
        seed: of the order.
        threads: that one operator may use.

    Returns:
        Inputs by name, one sample after the other; ``len`` says how many there are.

    Raises:
        ManifestError: no export in the folder.
        ValueError: a data set that does not fit the export.
    """
    folder = Path(folder)
    manifest = Manifest.read(folder)
    check_dataset(manifest, dataset)
    session = _Listening(OnnxRuntimeSession(folder, manifest, threads=threads))
    places = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int))
    order = np.random.default_rng(seed).permutation(places)
    return _Counted(_inputs(DeployedDetector(manifest, session), session, dataset, order), len(order))


def _inputs(
    model: DeployedDetector, session: _Listening, dataset: NuscenesDataset, places: np.ndarray
) -> Iterator[dict[str, Tensor]]:
    for place in places:
        batch = collate([dataset[int(place)]]).to("cpu")
        model.outputs(batch.images, CameraRig(**batch.cameras))
        yield session.inputs


def check_dataset(manifest: Manifest, dataset: NuscenesDataset) -> None:
    """Compare a data set with an export.

    Raises:
        ValueError: they do not fit each other.
    """
    recipe = manifest.recipe_at_size()
    if manifest.preprocessing.in_graph != (dataset.images == "raw"):
        takes, wanted = ("camera images", "raw") if manifest.preprocessing.in_graph else ("prepared images", "exact")
        raise ValueError(
            f'this export takes {takes}, the data set gives images="{dataset.images}": open it with images="{wanted}"'
        )
    if manifest.batch not in (1, None):
        raise ValueError(f"this export takes {manifest.batch} samples at once: export it with --batch 1")
    if dataset.training or (dataset.frames, tuple(dataset.input_size)) != (recipe.frames, recipe.input_size):
        raise ValueError(
            f"{recipe.name} wants {recipe.frames} frames of {recipe.input_size} without augmentation, the data set has "
            f"{dataset.frames} of {tuple(dataset.input_size)}{', augmented' if dataset.training else ''}: "
            "open it with the frames and input size of the recipe, training=False"
        )


class _Counted(Iterator[dict[str, Tensor]]):
    """Samples of which it is known how many there are: a progress bar can say when it is done."""

    def __init__(self, samples: Iterator[dict[str, Tensor]], count: int) -> None:
        self._samples = samples
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __next__(self) -> dict[str, Tensor]:
        return next(self._samples)


class _Listening:
    """A session that remembers what it was last asked."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return self._session.device

    @property
    def fixed_tables(self) -> bool:
        return self._session.fixed_tables

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.inputs = dict(inputs)
        return self._session(inputs)
