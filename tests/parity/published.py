"""Checkpoints and inputs of the published systems, made by the rules of the reference, and how values are compared.

Nothing here comes from our own packages except :class:`CameraRig`: weights are filled from the *published* names, so
that loading them goes through the checkpoint importer.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bev_lss import CameraRig


class Published:
    """One file of reference values: ``forward/NAME.npz`` or ``train/NAME.npz``."""

    def __init__(self, reference: Path, kind: str, name: str) -> None:
        self.values = np.load(reference / kind / f"{name}.npz")
        self.manifest: dict[str, list[int]] = json.loads((reference / "manifest" / f"{name}.json").read_text())
        self.seed = int(self.values["seed"])
        self.frames = int(self.values["frames"])
        self.input_size: tuple[int, int] = tuple(int(n) for n in self.values["input_size"])

    def checkpoint(self) -> dict[str, Tensor]:
        """The state dict of the published system, by its published names."""
        state = {key: _by_rule(key, shape, self.seed) for key, shape in self.manifest.items()}
        for key in self.values.files:
            if key.startswith("state/"):
                state[key.removeprefix("state/")] = torch.from_numpy(self.values[key])
        return state

    def images(self) -> Tensor:
        """(1, T, N, 3, H, W), newest frame first."""
        rng = np.random.default_rng([self.seed, 7])
        height, width = self.input_size
        cameras = len(self.values["intrinsics"])
        coarse = rng.standard_normal((self.frames, cameras, 3, height // 16, width // 16)).astype(np.float32)
        fine = rng.standard_normal((self.frames, cameras, 3, height // 4, width // 4)).astype(np.float32)
        return torch.from_numpy(_repeat(coarse, 16) + 0.5 * _repeat(fine, 4))[None]

    def rig(self) -> CameraRig:
        """The calibration, T frames."""
        values = {
            k: torch.from_numpy(self.values[k]).float() for k in ("intrinsics", "cam_to_ego", "ego_to_global", "bda")
        }
        frames, cameras = values["cam_to_ego"].shape[:2]
        image_aug = torch.from_numpy(self.values["post_rot"]).float()
        image_aug[:2, 2] = torch.from_numpy(self.values["post_tran"]).float()[:2]
        return CameraRig(
            intrinsics=values["intrinsics"].expand(1, frames, cameras, 3, 3),
            cam_to_ego=values["cam_to_ego"][None],
            ego_to_global=values["ego_to_global"][None],
            image_aug=image_aug.expand(1, frames, cameras, 3, 3),
            bev_aug=values["bda"][None],
        )

    def stage_error(self, stage: str, got: Tensor) -> float:
        """Largest error of a stage's sampled values, in standard deviations of the whole tensor."""
        shape = tuple(self.values[f"{stage}.shape"])
        assert got.numel() == np.prod(shape), f"{stage}: wanted {shape}, got {tuple(got.shape)}"
        sampled = got.detach().reshape(-1)[torch.from_numpy(self.values[f"{stage}.index"])].numpy()
        return float(np.abs(sampled - self.values[f"{stage}.value"]).max() / self.values[f"{stage}.mean_std"][1])


def matched_boxes(wanted: np.ndarray, got: np.ndarray, tolerance: float = 1e-3) -> float:
    """Share of the wanted rows (M, K) that have a row of their own in got (M', K), all entries within the tolerance."""
    free = np.ones(len(got), dtype=bool)
    matched = 0
    for row in wanted:
        distance = np.abs(got - row).max(axis=1) if len(got) else np.empty(0)
        candidates = np.flatnonzero(free & (distance <= tolerance))
        if len(candidates):
            free[candidates[distance[candidates].argmin()]] = False
            matched += 1
    return matched / max(len(wanted), len(got))


def _repeat(blocks: np.ndarray, times: int) -> np.ndarray:
    return blocks.repeat(times, axis=-2).repeat(times, axis=-1)


def _by_rule(key: str, shape: list[int], seed: int) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros((), dtype=torch.long)
    x = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)
    if key.endswith("running_var"):
        x = 1 + 0.2 * np.tanh(x)
    elif key.endswith(("running_mean", "relative_position_bias_table", "absolute_pos_embed")):
        x = 0.1 * x
    elif len(shape) <= 1:
        x = 1 + 0.1 * np.tanh(x) if key.endswith("weight") else 0.05 * x
    else:
        x = x * (3.0 if key.startswith("predicter") else 0.8) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))
