"""Published backbones: weights and images by the rules of the reference, and how their stages are compared."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

REFERENCE = Path(__file__).resolve().parents[3].parent / "shared" / "reference"
PREFIX = "img_backbone."


class PublishedBackbone:
    """The image backbone of one published system."""

    def __init__(self, name: str) -> None:
        self._values = np.load(REFERENCE / "forward" / f"{name}.npz")
        self._shapes = json.loads((REFERENCE / "manifest" / f"{name}.json").read_text())
        self._seed = int(self._values["seed"])

    def entries(self) -> dict[str, Tensor]:
        """The checkpoint by its published names, without the prefix of the backbone."""
        names = [name for name in self._shapes if name.startswith(PREFIX)]
        return {name.removeprefix(PREFIX): self._by_rule(name) for name in names}

    def images(self, frame: int) -> Tensor:
        """Images (6, 3, H, W) of a frame; 0 is now."""
        rng = np.random.default_rng([self._seed, 7])
        height, width = (int(n) for n in self._values["input_size"])
        frames, cameras = int(self._values["frames"]), len(self._values["intrinsics"])
        coarse, fine = (
            rng.standard_normal((frames, cameras, 3, height // n, width // n)).astype(np.float32)[frame]
            for n in (16, 4)
        )
        return torch.from_numpy(_repeat(coarse, 16) + 0.5 * _repeat(fine, 4))

    def stage_error(self, level: int, got: Tensor) -> float:
        """Largest error of the sampled values of a level of the first call, in deviations of the level."""
        stage = f"img_backbone/call0/{level}"
        assert got.shape == tuple(self._values[f"{stage}.shape"])
        sampled = got.reshape(-1)[torch.from_numpy(self._values[f"{stage}.index"])].numpy()
        return float(np.abs(sampled - self._values[f"{stage}.value"]).max() / self._values[f"{stage}.mean_std"][1])

    def _by_rule(self, name: str) -> Tensor:
        shape = self._shapes[name]
        x = np.random.default_rng([self._seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith(("relative_position_bias_table", "absolute_pos_embed")):
            x = 0.1 * x
        elif len(shape) <= 1:
            x = 1 + 0.1 * np.tanh(x) if name.endswith("weight") else 0.05 * x
        else:
            x = 0.8 * x / np.sqrt(np.prod(shape[1:]))
        return torch.from_numpy(np.asarray(x, dtype=np.float32))


def _repeat(blocks: np.ndarray, times: int) -> np.ndarray:
    return blocks.repeat(times, axis=-2).repeat(times, axis=-1)


@pytest.fixture
def published() -> Callable[[str], PublishedBackbone]:
    """From the name of a published system to its backbone; the test is skipped where there is no reference."""
    if not REFERENCE.is_dir():
        pytest.skip("needs shared/reference beside the repository, which is not there")
    return PublishedBackbone
