"""Exported models that are measured, and what they are fed with.

Shapes: B samples, T frames, N cameras, raw images H' x W'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from bev_bench.options import Backend, ExportsOptions, RunOptions, SystemOptions
from bev_bench.system import Inputs, make_inputs
from bev_zoo import Recipe

if TYPE_CHECKING:
    from bev_deploy import DeployedDetector

__all__ = ["WEIGHTS_OF_EXPORTS", "Export", "export_inputs", "open_exports"]

WEIGHTS_OF_EXPORTS = "those of the exported models"


class Export(NamedTuple):
    """A loaded model, and what a report calls it."""

    name: str
    model: DeployedDetector


def open_exports(options: ExportsOptions, system: SystemOptions, recipe: Recipe, run: RunOptions) -> list[Export]:
    """Load the exported models, which use as many threads as PyTorch does.

    Args:
        options: which.
        system: what else is measured.
        recipe: of it, at its size.
        run: where.

    Raises:
        ValueError: folders that hold no export of the recipe, different input sizes, or a backend that cannot run.
    """
    if not options.model:
        if options.backend is not None:
            raise ValueError(f"--backend {options.backend} runs exported models: give one with --model DIR")
        return []
    backend: Backend = options.backend or "onnxruntime"
    exports = [
        Export(f"{backend} {folder}", _loaded(folder, backend, system.recipe, run.device)) for folder in options.model
    ]
    sizes = {export.model.recipe.input_size for export in exports}
    if system.checkpoint is not None or system.shape is not None:
        sizes.add(recipe.input_size)
    if len(sizes) > 1:
        raise ValueError(
            f"what is compared must have one input size, these have {sorted(sizes)}: export again with --input-size"
        )
    return exports


def export_inputs(
    model: DeployedDetector, samples: int, seed: int, *, frames: int | None = None, now: int = 0
) -> Inputs:
    """As :func:`bev_bench.system.make_inputs`; noise (B, T, N, H', W', 3) where the model takes camera images."""
    inputs = make_inputs(model.recipe, samples, model.device, seed, frames=frames, now=now)
    preprocessing = model.manifest.preprocessing
    if not preprocessing.in_graph:
        return inputs
    width, height = preprocessing.raw_size
    generator = torch.Generator().manual_seed(seed + now)
    shape = (*inputs.images.shape[:3], height, width, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Inputs(images.to(model.device), inputs.rig)


def _loaded(folder: Path, backend: Backend, recipe: str, device: str) -> DeployedDetector:
    from bev_deploy import load  # here, so that models in PyTorch need no runtimes

    threads = {"threads": torch.get_num_threads()} if backend == "onnxruntime" else {}
    return load(folder, backend, recipe=recipe, device=device, **threads)
