"""A small detector and a calibration for it."""

from __future__ import annotations

import pytest
import torch

from bev_lss import CameraRig
from bev_zoo import Detector, create_model

SIZE = (64, 96)


@pytest.fixture
def model() -> Detector:
    torch.manual_seed(0)
    return create_model("bevdet-tiny", input_size=SIZE)


@pytest.fixture
def rig() -> CameraRig:
    """Two samples, one frame, two cameras: one looks forward, one backward."""
    forward = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    backward = torch.tensor([[0.0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    lead = (2, 1, 2)
    return CameraRig(
        intrinsics=torch.tensor([[60.0, 0, 48], [0, 60, 32], [0, 0, 1]]).expand(*lead, 3, 3),
        cam_to_ego=torch.stack([forward, backward]).expand(*lead, 4, 4),
        ego_to_global=torch.eye(4).expand(*lead, 4, 4),
        image_aug=torch.eye(3).expand(*lead, 3, 3),
        bev_aug=torch.eye(3).expand(2, 3, 3),
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 1, 2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
