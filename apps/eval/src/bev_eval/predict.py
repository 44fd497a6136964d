"""Runs a model over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bev_eval.processes import Processes
from bev_nuscenes import Batch, NuscenesDataset, collate
from bev_nuscenes.command_line import progress
from bev_zoo import CameraRig, Detections

if TYPE_CHECKING:
    from bev_eval.models import Predictor

__all__ = ["Prediction", "groups_of", "predict_split"]


class Prediction(NamedTuple):
    """What a model found in one sample."""

    token: str
    found: Detections | Tensor  # boxes, or the class of every voxel (X, Y, Z) uint8
    box_to_global: Tensor  # (4, 4) float64, the frame of the boxes to the global frame


def predict_split(
    model: Predictor,
    dataset: NuscenesDataset,
    *,
    device: torch.device,
    batch_size: int = 1,
    fill_batches: bool = False,
    workers: int = 0,
    stream: bool = False,
    processes: Processes | None = None,
) -> Iterator[Prediction]:
    """Predict every sample of a split, with a progress bar; of several processes each predicts its share.

    Args:
        model: a detector or an occupancy model, in evaluation mode, or an exported one.
        dataset: the split, with the frames the model wants; with one frame for a stream.
        device: where the model wants its inputs.
        batch_size: samples per call; 1 for a stream.
        fill_batches: repeat a sample where fewer are left in the end, for an exported model that takes no fewer.
        workers: processes that load data.
        stream: feed ``model.stream()`` one frame after the other.
        processes: who shares the groups of :func:`groups_of`; None for this process alone.

    Yields:
        Predictions in the order of the split; for a stream scene by scene, in order of time within each.
    """
    processes = processes or Processes()
    groups = processes.share(groups_of(dataset, batch_size=batch_size, stream=stream))
    total = sum(map(len, groups))
    loader = DataLoader(
        dataset,
        batch_sampler=[[i] for group in groups for i in group] if stream else groups,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    predict = _stream(model) if stream else _whole_samples(model, batch_size if fill_batches else 1)
    with progress(total, f"predicting {dataset.split}") if processes.is_main else nullcontext() as bar:
        for batch in loader:
            results = predict(batch.to(device))
            for token, found, box_to_global in zip(batch.tokens, results, batch.box_to_global, strict=True):
                yield Prediction(token, found, box_to_global)
                if bar is not None:
                    bar.update()


def groups_of(dataset: NuscenesDataset, *, batch_size: int = 1, stream: bool = False) -> list[list[int]]:
    """What one process must predict together: indices of every batch, or of every scene of a stream, in order of time.

    Two vehicles may have recorded at the same time, so the samples of a scene need not stand in a row.
    """
    if not stream:
        return [list(range(i, min(i + batch_size, len(dataset)))) for i in range(0, len(dataset), batch_size)]
    scenes = dataset.index.frames.scenes[dataset.positions]
    return [np.flatnonzero(scenes == scene).tolist() for scene in np.unique(scenes)]


def _whole_samples(model: Predictor, at_least: int) -> Callable[[Batch], list[Detections] | list[Tensor]]:
    """What predicts a batch; one with fewer samples than the model takes is filled with its last one."""

    def predict(batch: Batch) -> list[Detections] | list[Tensor]:
        count = len(batch.images)
        if count >= at_least:
            return model.predict(batch.images, CameraRig(**batch.cameras))
        rows = torch.arange(at_least, device=batch.images.device).clamp(max=count - 1)
        rig = CameraRig(**{name: tensor[rows] for name, tensor in batch.cameras.items()})
        return model.predict(batch.images[rows], rig)[:count]

    return predict


def _stream(model: Predictor) -> Callable[[Batch], list[Detections] | list[Tensor]]:
    runner = model.stream()
    return lambda batch: runner(
        batch.images, CameraRig(**batch.cameras), timestamp=batch.timestamps[0], scene=batch.scenes[0]
    )
