"""Runs a detector over a split."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from bev_nuscenes import NuscenesDataset, collate
from bev_zoo import CameraRig, Detector

__all__ = ["predict_split"]


def predict_split(
    model: Detector,
    dataset: NuscenesDataset,
    *,
    device: torch.device,
    batch_size: int = 1,
    workers: int = 0,
    score_threshold: float = 0.0,
) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """Predict every sample of a split, in its order, with a progress bar.

    Yields:
        What ``bev_nuscenes.SubmissionWriter.add`` takes: token, boxes (M, 9), scores (M,), labels (M,),
        box_to_global (4, 4).
    """
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    model = model.to(device).eval()
    with _progress(len(dataset), f"predicting {dataset.split}") as bar:
        for batch in loader:
            moved = batch.to(device)
            detections = model.predict(moved.images, CameraRig(**moved.cameras))
            for token, found, box_to_global in zip(batch.tokens, detections, batch.box_to_global, strict=True):
                found = found[found.scores >= score_threshold]
                yield token, found.boxes, found.scores, found.labels, box_to_global
                bar.update()


def _progress(samples: int, title: str) -> tqdm:
    """A bar with the time left; a line every half minute where there is no terminal."""
    return tqdm(total=samples, desc=title, unit="frame", mininterval=0.5 if sys.stderr.isatty() else 30)
