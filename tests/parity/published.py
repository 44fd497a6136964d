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

PUBLISHED_SYSTEMS = (
    "bevdet-r50",
    "bevdet-r50-cbgs",
    "bevdet-r50-4d-cbgs",
    "bevdet-r50-4d-depth-cbgs",
    "bevdet-r50-4d-stereo-cbgs",
    "bevdet-r50-4dlongterm-cbgs",
    "bevdet-r50-4dlongterm-depth-cbgs",
    "bevdet-r50-4dlongterm-stereo-cbgs",
    "bevdet-stbase-4d-stereo-512x1408-cbgs",
    "bevdet-swinb-4d-256x704-cbgs",
    "bevdet-swinb-4d-256x704-cbgs-geomim",
    "bevdet-swinb-4d-stereo-256x704-cbgs-geomim",
    "bevdet-swinb-4d-stereo-512x1408-cbgs-geomim",
    "bevdet-occ-r50-4d-stereo-24e",
    "bevdet-occ-r50-4d-stereo-24e_384704",
    "bevdet-occ-r50-4dlongterm-stereo-24e_384704",
    "bevdet-occ-stbase-4d-stereo-512x1408-24e",
    "bevdet-occ-swinb-4d-stereo-512x1408-24e-geomim",
    "bevdet-occ-swinb-4d-stereo-512x1408-24e-geomim-load",
    "bevdet-occ-swinl-4d-stereo-512x1408-24e-geomim",
)


class Published:
    """One file of reference values: ``forward/NAME[.VARIANT].npz`` or ``train/NAME.npz``."""

    def __init__(self, reference: Path, kind: str, case: str) -> None:
        self.name, _, self.variant = case.partition(".")
        self.values = np.load(reference / kind / f"{case}.npz")
        self.manifest: dict[str, list[int]] = json.loads((reference / "manifest" / f"{self.name}.json").read_text())
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

    def depth_map(self) -> Tensor:
        """(1, N, H, W) LiDAR depth of the training step, metres, by the rule that stands in the file."""
        rng = np.random.default_rng([self.seed, 9])
        shape = (1, len(self.values["intrinsics"]), *self.input_size)
        depth = np.where(rng.random(shape) < 0.05, rng.uniform(1, 70, shape), 0)
        return torch.from_numpy(depth.astype(np.float32))

    def occupancy(self) -> tuple[Tensor, Tensor]:
        """Classes (1, X, Y, Z) uint8 and camera mask (1, X, Y, Z) bool of the training step."""
        rng = np.random.default_rng([self.seed, 11])
        semantics = rng.integers(0, 18, (1, 200, 200, 16))
        return torch.from_numpy(semantics.astype(np.uint8)), torch.from_numpy(rng.random(semantics.shape) < 0.3)

    def stages(self) -> list[str]:
        """The stages whose values the file holds."""
        return [key.removesuffix(".shape") for key in self.values.files if key.endswith(".shape")]

    def stage_error(self, stage: str, got: Tensor) -> float:
        """Largest error of a stage's sampled values, in standard deviations of the whole tensor."""
        shape = tuple(self.values[f"{stage}.shape"])
        assert got.numel() == np.prod(shape), f"{stage}: wanted {shape}, got {tuple(got.shape)}"
        sampled = got.detach().reshape(-1)[torch.from_numpy(self.values[f"{stage}.index"])].numpy()
        return float(np.abs(sampled - self.values[f"{stage}.value"]).max() / self.values[f"{stage}.mean_std"][1])


def matched_boxes(wanted: np.ndarray, got: np.ndarray, tolerance: float = 1e-3) -> float:
    """Share of the wanted rows (M, K) that have a row of their own in got (M', K), all entries within the tolerance.

    Entries beyond 1 are compared relative to their size: with weights by rule, boxes are kilometres long.
    """
    free = np.ones(len(got), dtype=bool)
    matched = 0
    for row in wanted:
        distance = (np.abs(got - row) / np.maximum(np.abs(row), 1)).max(axis=1) if len(got) else np.empty(0)
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
