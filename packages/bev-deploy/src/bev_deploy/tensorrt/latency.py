"""How long one step of a loaded model takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from bev_deploy.session import Session
from bev_deploy.signature import TensorSpec
from bev_zoo import nuscenes_rig

if TYPE_CHECKING:
    from bev_deploy.detector import DeployedDetector

__all__ = ["Latency", "latency", "step_inputs"]

_NUSCENES_CAMERAS = 6


class Latency(NamedTuple):
    """Milliseconds of one call, from queueing to the result."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


def latency(session: Session, inputs: Mapping[str, Tensor], *, runs: int = 100, warmup: int = 10) -> Latency:
    """Time a session on the same inputs again and again, each call waited for.

    Args:
        session: a loaded model.
        inputs: by name, on any device; they are brought to the session's before the clock starts.
        runs: calls that are timed.
        warmup: calls before those.

    Raises:
        ValueError: fewer than one run.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(f"runs must be at least 1 and warmup at least 0, got {runs} and {warmup}")
    placed = {name: tensor.to(session.device) for name, tensor in inputs.items()}
    for _ in range(warmup):
        session(placed)
    times = torch.tensor([_timed(session, placed) for _ in range(runs)], dtype=torch.float64)
    low, middle, high = times.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return Latency(middle, low, high, runs)


def step_inputs(detector: DeployedDetector, *, samples: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Inputs of one step in the middle of a drive: drawn images, cameras like nuScenes', a full history.

    Args:
        detector: a loaded model of six cameras.
        samples: B, for an export that takes any number; 1 if None.
        seed: of images and history.

    Raises:
        ValueError: a model of another number of cameras.
    """
    manifest, recipe = detector.manifest, detector.recipe
    if manifest.cameras != _NUSCENES_CAMERAS:
        raise ValueError(f"inputs can be made for {_NUSCENES_CAMERAS} cameras, this export has {manifest.cameras}")
    samples = manifest.batch or samples or 1
    rig = nuscenes_rig(recipe.input_size, samples=samples, rolling=True, augmentation=recipe.image_augmentation)
    cameras = rig.to(detector.device).frame_cameras(0)
    made = detector.feed.cameras(cameras)
    if recipe.temporal.history:
        made |= detector.past([], None, samples)
        made["history_valid"] = torch.ones_like(made["history_valid"])
    if recipe.stereo:
        made |= detector.no_stereo(samples, cameras)
        made["stereo_valid"] = torch.ones_like(made["stereo_valid"])
    generator = torch.Generator().manual_seed(seed)
    for spec in manifest.inputs:
        if spec.name in ("images", "history", "stereo"):
            made[spec.name] = _drawn(spec, samples, generator).to(detector.device)
    return {spec.name: made[spec.name] for spec in manifest.inputs}


def _drawn(spec: TensorSpec, samples: int, generator: torch.Generator) -> Tensor:
    sizes = [samples, *(int(size) for size in spec.shape[1:])]
    if spec.dtype == "uint8":
        return torch.randint(0, 256, sizes, dtype=torch.uint8, generator=generator)
    return torch.randn(sizes, generator=generator).to(getattr(torch, spec.dtype))


def _timed(session: Session, inputs: Mapping[str, Tensor]) -> float:
    began = time.perf_counter()
    session(inputs)
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return (time.perf_counter() - began) * 1e3
