"""The two real key frames, and a detector that knows their answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bev_nuscenes import DataOptions, NuscenesIndex, open_index
from bev_zoo import CameraRig, Detections, Recipe

KEY_FRAMES = Path(__file__).resolve().parents[4] / "shared" / "data" / "nuscenes-keyframes"


@pytest.fixture
def key_frames(tmp_path: Path) -> DataOptions:
    """The real key frames, where the checkout has them beside it."""
    if not KEY_FRAMES.is_dir():
        pytest.skip(f"needs the real key frames in {KEY_FRAMES}")
    return DataOptions(root=str(KEY_FRAMES), index=tmp_path / "index.npz")


class Oracle(nn.Module):
    """Answers with the ground truth of one split, sample after sample, and with one false box of low score."""

    def __init__(self, recipe: Recipe, index: NuscenesIndex, split: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.answers = iter([index.box_rows(position) for position in index.split_positions(split)])
        self.boxes = torch.from_numpy(index.boxes.boxes.copy())
        self.labels = torch.from_numpy(index.boxes.labels.astype("int64"))

    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections]:
        return [self._answer(next(self.answers)) for _ in range(len(images))]

    def _answer(self, rows) -> Detections:
        boxes, labels = self.boxes[rows], self.labels[rows]
        false = boxes[:1] + torch.tensor([30.0, 0, 0, 0, 0, 0, 0, 0, 0])
        scores = torch.full((len(labels) + 1,), 0.9)
        scores[-1] = 0.2
        return Detections(torch.cat([boxes, false]), scores, torch.cat([labels, labels[:1]]))


@pytest.fixture
def oracle(key_frames: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes bev-eval's detector an Oracle of mini_val."""
    index = open_index(key_frames)
    monkeypatch.setattr("bev_eval.app.create_model", lambda recipe, **_: Oracle(recipe, index, "mini_val"))
