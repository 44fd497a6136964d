"""The order in which a split is predicted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bev_eval.predict import predict_split
from bev_nuscenes import Sample
from bev_zoo import CameraRig, Detections

SCENES = [1, 0, 1, 0, 0]  # two vehicles record at the same time


class TwoVehicles(Dataset):
    """Five samples in order of time, of two scenes that overlap."""

    split = "val"
    positions = np.arange(1, 6)
    index = SimpleNamespace(frames=SimpleNamespace(scenes=np.array([7, *SCENES])))

    def __len__(self) -> int:
        return len(SCENES)

    def __getitem__(self, i: int) -> Sample:
        eye = torch.eye(4).expand(1, 2, 4, 4)
        cameras = dict.fromkeys(("intrinsics", "image_aug"), eye[..., :3, :3])
        cameras |= {"cam_to_ego": eye, "ego_to_global": eye, "bev_aug": torch.eye(3)}
        return Sample(
            token=f"sample-{i}",
            images=torch.full((1, 2, 3, 4, 4), float(i)),
            cameras=cameras,
            boxes=torch.zeros(0, 9),
            labels=torch.zeros(0, dtype=torch.int64),
            box_to_global=i * torch.eye(4, dtype=torch.float64),
            timestamp=float(i),
            scene=f"scene-{SCENES[i]}",
        )


class Recorder(nn.Module):
    """Writes down what it is asked, and finds one box whose x is the value of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list = []

    def predict(self, images: Tensor, rig: CameraRig) -> list[Detections]:
        self.asked.append(len(images))
        return [Detections(image.mean() * torch.ones(1, 9), torch.ones(1), torch.zeros(1).long()) for image in images]

    def stream(self):
        def runner(images: Tensor, rig: CameraRig, *, timestamp: float, scene: str) -> list[Detections]:
            found = self.predict(images, rig)
            self.asked[-1] = (scene, timestamp)
            return found

        return runner


@pytest.mark.parametrize("workers", [0, 1])
def test_whole_samples_come_in_the_order_of_the_split(workers: int) -> None:
    model = Recorder()
    found = list(predict_split(model, TwoVehicles(), device=torch.device("cpu"), batch_size=2, workers=workers))
    assert [prediction.token for prediction in found] == [f"sample-{i}" for i in range(5)]
    assert [prediction.found.boxes[0, 0].item() for prediction in found] == [0, 1, 2, 3, 4]
    assert [prediction.box_to_global[0, 0].item() for prediction in found] == [0, 1, 2, 3, 4]
    assert model.asked == [2, 2, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_goes_scene_by_scene_in_order_of_time(workers: int) -> None:
    model = Recorder()
    found = list(predict_split(model, TwoVehicles(), device=torch.device("cpu"), workers=workers, stream=True))
    order = [1, 3, 4, 0, 2]
    assert [prediction.token for prediction in found] == [f"sample-{i}" for i in order]
    assert [prediction.found.boxes[0, 0].item() for prediction in found] == order
    assert model.asked == [(f"scene-{SCENES[i]}", float(i)) for i in order]
