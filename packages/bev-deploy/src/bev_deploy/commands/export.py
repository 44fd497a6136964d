"""``bev-deploy export``: from a recipe and its weights to a folder, checked against PyTorch."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from time import perf_counter

import torch

from bev_lss import CameraRig
from bev_nuscenes import DataOptions, NuscenesDataset, open_index
from bev_zoo import Detector, create_model, trained_model

from ..detector import load
from ..export import ExportOptions, export_model
from ..manifest import MANIFEST_NAME, Manifest
from ..verify import OutputError, example_rig, output_errors
from .options import ExportArguments
from .text import as_table, size_text

__all__ = ["export"]

_LIMIT = 1e-3  # of a float32 export: standard deviations, or the share of voxels
_USUAL_CAMERAS = 6


def export(arguments: ExportArguments) -> int:
    """Export, print what was written and how far it is from PyTorch; 1 if that is too far.

    Raises:
        ValueError: options that contradict each other, or a checkpoint that does not fit.
    """
    _check(arguments)
    model = _model(arguments)
    rig, raw_size = _cameras(arguments, model)
    options = ExportOptions(
        pool=arguments.pool,
        precision=arguments.precision,
        raw=arguments.raw,
        preprocess=arguments.preprocess,
        raw_size=raw_size,
        batch=None if arguments.batch == "dynamic" else arguments.batch,
        opset=arguments.opset,
        table_margin=arguments.table_margin,
    )
    print(f"exporting {arguments.recipe} to {arguments.folder}", file=sys.stderr)
    begin = perf_counter()
    manifest = export_model(model, arguments.folder, options, rig=rig, checkpoint=arguments.checkpoint)
    print(_written(manifest, arguments.folder, perf_counter() - begin))
    return _verified(model, arguments.folder) if arguments.verify else 0


def _check(arguments: ExportArguments) -> None:
    if arguments.checkpoint is not None and arguments.untrained:
        raise ValueError("give --checkpoint FILE or --untrained, not both")
    if arguments.cameras is not None and arguments.cameras < 1:
        raise ValueError(f"--cameras must be at least 1, got {arguments.cameras}")
    if arguments.raw_size is not None and min(arguments.raw_size) < 1:
        raise ValueError(f"--raw-size must be two numbers of pixels above 0, got {arguments.raw_size}")
    if (arguments.folder / MANIFEST_NAME).exists() and not arguments.overwrite:
        raise ValueError(
            f"{arguments.folder} holds an export already: choose another folder with --out, or replace it with "
            "--overwrite"
        )


def _model(arguments: ExportArguments) -> Detector:
    checkpoint = arguments.checkpoint
    if checkpoint is None:
        if not arguments.untrained:
            warnings.warn("no --checkpoint: the weights are untrained (--untrained says so)", stacklevel=2)
        torch.manual_seed(arguments.seed)
        return create_model(arguments.recipe, input_size=arguments.input_size, align=arguments.align).eval()
    return trained_model(arguments.recipe, checkpoint, input_size=arguments.input_size, align=arguments.align).eval()


def _cameras(arguments: ExportArguments, model: Detector) -> tuple[CameraRig, tuple[int, int]]:
    """The rig to export for, and the size of its images."""
    data = arguments.data.data
    if data is None:
        rig = example_rig(model, cameras=arguments.cameras or _USUAL_CAMERAS)
        return rig, arguments.raw_size or ExportOptions.raw_size
    rig, raw_size = _first_sample(data, model)
    if arguments.cameras not in (None, rig.num_cameras):
        raise ValueError(f"{data.root} has {rig.num_cameras} cameras, --cameras says {arguments.cameras}")
    return rig, arguments.raw_size or raw_size


def _first_sample(data: DataOptions, model: Detector) -> tuple[CameraRig, tuple[int, int]]:
    """The cameras of the first sample of a split, and the size of their images: (W, H)."""
    index, recipe = open_index(data), model.recipe
    dataset = NuscenesDataset(
        index,
        data.split or index.splits[0],
        input_size=recipe.input_size,
        image_augmentation=recipe.image_augmentation,
    )
    sizes = {(int(width), int(height)) for width, height in index.cameras.sizes[dataset.positions[0]]}
    if len(sizes) > 1:
        raise ValueError(f"the cameras in {data.root} have images of several sizes, {sorted(sizes)}: one is needed")
    return CameraRig(**{name: tensor[None] for name, tensor in dataset[0].cameras.items()}), sizes.pop()


def _written(manifest: Manifest, folder: Path, seconds: float) -> str:
    sizes = {name: (folder / name).stat().st_size for name in (*manifest.files, MANIFEST_NAME)}
    state = f" ({len(manifest.state)} of state)" if manifest.state else ""
    model = (str(len(manifest.inputs)), f"{len(manifest.outputs)}{state}", f"{seconds:.1f}")
    rows = [
        (str(folder / name), size_text(size), *(model if name == manifest.model else ("", "", "")))
        for name, size in sizes.items()
    ]
    return as_table(("file", "size", "inputs", "outputs", "seconds"), rows)


def _verified(model: Detector, folder: Path) -> int:
    exported = load(folder, device="cpu")
    errors = output_errors(model, exported)
    print(f"\nONNX Runtime ({exported.manifest.precision}) against PyTorch (fp32), random images:")
    print(as_table(("output", "worst difference"), [(e.output, _difference(e)) for e in errors]))
    if exported.manifest.precision != "fp32":
        return 0
    wrong = [error for error in errors if not error.error <= _LIMIT]
    for error in wrong:
        print(
            f"bev-deploy: error: {folder} differs from PyTorch in {error.output} by {_difference(error)}, more than "
            f"{_LIMIT:g}: do not use it",
            file=sys.stderr,
        )
    return int(bool(wrong))


def _difference(error: OutputError) -> str:
    unit = "standard deviations" if error.unit == "std" else "of the voxels"
    return f"{error.error:.1e} {unit}"
