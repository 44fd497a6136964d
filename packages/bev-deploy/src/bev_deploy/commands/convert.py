"""``bev-deploy quantize`` and ``build``: from an export to an int8 model, or to an engine."""

from __future__ import annotations

import sys

from bev_nuscenes import NuscenesDataset, open_index

from ..manifest import MANIFEST_NAME, Manifest
from ..quantization import calibration_inputs, quantize_model
from ..tensorrt import build_engine
from .options import BuildArguments, QuantizeArguments

__all__ = ["build", "quantize"]


def quantize(arguments: QuantizeArguments) -> int:
    """Quantise and print the report.

    Raises:
        ValueError: no export there, an export that cannot be quantised, or data that do not fit it.
    """
    folder, target = arguments.folder, arguments.target
    if (target / MANIFEST_NAME).exists() and not arguments.overwrite:
        raise ValueError(
            f"{target} holds an export already: choose another folder with --out, or replace it with --overwrite"
        )
    manifest = Manifest.read(folder)
    evaluation = None if arguments.evaluate_on is None else _split(arguments, manifest, arguments.evaluate_on)
    calibration = _split(arguments, manifest, arguments.data.training_split)
    samples = calibration_inputs(folder, calibration, arguments.samples, threads=arguments.options.threads)
    report = quantize_model(folder, target, samples, arguments.options, evaluation=evaluation)
    print(report.to_markdown())
    print(f"{target} holds the quantised model and this report")
    return 0


def build(arguments: BuildArguments) -> int:
    """Build the engine and print what it is.

    Raises:
        ValueError: no export there, no TensorRT or GPU here, or TensorRT refuses the model.
    """
    print(f"building an engine of {arguments.folder}; this takes minutes", file=sys.stderr)
    built = build_engine(arguments.folder, arguments.options)
    print(
        f"{arguments.folder}: engine of {built.recipe} for {built.gpu} with TensorRT {built.tensorrt}, "
        f"built in {built.build_seconds:.0f} s"
    )
    return 0


def _split(arguments: QuantizeArguments, manifest: Manifest, split: str) -> NuscenesDataset:
    recipe = manifest.recipe_at_size()
    return NuscenesDataset(
        open_index(arguments.data),
        split,
        input_size=recipe.input_size,
        frames=recipe.frames,
        image_augmentation=recipe.image_augmentation,
        images="raw" if manifest.preprocessing.in_graph else "exact",
    )
