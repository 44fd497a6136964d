"""The two real key frames, and models that know their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bev_nuscenes import OCCUPANCY_SHAPE, DataOptions, NuscenesIndex, open_index, read_occupancy
from bev_zoo import CameraRig, Detections, Recipe, get_recipe

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
    monkeypatch.setattr("bev_eval.models.create_model", lambda recipe, **_: Oracle(recipe, index, "mini_val"))


class VoxelOracle(nn.Module):
    """Answers with the occupancy ground truth of one split, but calls every car a bus; also as a stream."""

    def __init__(self, recipe: Recipe, index: NuscenesIndex, split: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.answers = iter([index.occupancy_path(position) for position in index.split_positions(split)])
        self.calls: list[tuple] = []

    def predict(self, images: Tensor, rig: CameraRig) -> list[Tensor]:
        assert (images.shape[1], rig.num_frames) == (self.recipe.frames, self.recipe.frames)
        return [self._answer() for _ in range(len(images))]

    def stream(self):
        def runner(images: Tensor, rig: CameraRig, *, timestamp: float, scene: str) -> list[Tensor]:
            self.calls.append((tuple(images.shape[:2]), rig.num_frames, timestamp, scene))
            return [self._answer()]

        return runner

    def _answer(self) -> Tensor:
        semantics = torch.from_numpy(read_occupancy(next(self.answers)).semantics)
        return torch.where(semantics == 4, 3, semantics).to(torch.uint8)


@pytest.fixture
def occupied(key_frames: DataOptions, tmp_path: Path) -> DataOptions:
    """The real key frames with made-up occupancy beside them: cars, buses and air in blocks."""
    root = tmp_path / "occupied"
    root.mkdir()
    for entry in Path(key_frames.root).iterdir():
        (root / entry.name).symlink_to(entry)
    options = DataOptions(root=str(root), index=tmp_path / "occupied.npz")
    index, rng = open_index(options), np.random.default_rng(0)
    for position in range(len(index)):
        path = index.occupancy_path(position)
        path.parent.mkdir(parents=True)
        semantics = rng.choice(np.array([3, 4, 17], np.uint8), (20, 20, 4)).repeat(10, 0).repeat(10, 1).repeat(4, 2)
        mask = np.ones(OCCUPANCY_SHAPE, dtype=np.uint8)
        np.savez_compressed(path, semantics=semantics, mask_lidar=mask, mask_camera=mask)
    return options


@pytest.fixture
def voxel_oracle(occupied: DataOptions, monkeypatch: pytest.MonkeyPatch) -> VoxelOracle:
    """Makes bev-eval's model a VoxelOracle of mini_val."""
    model = VoxelOracle(get_recipe("bevdet-tiny-occ"), open_index(occupied), "mini_val")
    monkeypatch.setattr("bev_eval.models.create_model", lambda recipe, **_: model)
    return model
