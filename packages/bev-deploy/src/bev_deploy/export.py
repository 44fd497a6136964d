"""From a detector to a folder with an ONNX file and its manifest."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import opset18 as operators
from torch import Tensor

from bev_heads import CenterHead
from bev_lss import CameraRig
from bev_nuscenes import PIXEL_MEAN, PIXEL_STD
from bev_ops import reference
from bev_zoo import Detector, nuscenes_rig
from bev_zoo.build import map_shape

from .feed import Feed, identity_motion
from .manifest import Manifest, Preprocessing, sha256_of
from .plugin_node import PLUGIN_TRANSLATIONS, add_plugin_body
from .preprocess import ImagePreprocessing
from .signature import STATE, Layout, TensorSpec, inputs_of, outputs_of
from .step import Pooling, Precision, Step
from .tables import TRACED_SAMPLES, TableBounds

__all__ = ["MODEL_NAME", "ExportOptions", "export_model"]

MODEL_NAME = "model.onnx"
_MODULE_NAMES = "pkg.torch.onnx.name_scopes"
_NUSCENES_IMAGE = (1600, 900)
# Our operators in operators that a runtime has.
_DECOMPOSED = {torch.ops.bev_ops.best_of_rows.default: reference.best_of_rows}


def _floor_divide(dividend: Any, divisor: Any) -> Any:
    """Of integers. The exporter's own way compares truth values for equality, which TensorRT does not do."""
    return operators.Div(operators.Sub(dividend, operators.Mod(dividend, divisor)), divisor)


def _grid_sample(maps: Any, places: Any, mode: int, padding: int, align_corners: bool) -> Any:
    """Bilinear, zero outside, -1 and 1 the centres of the outermost pixels.

    Said in terms of their edges, which differs by a factor, it takes ONNX Runtime a fifth of the time on a CPU.
    """
    assert (mode, padding, align_corners) == (0, 0, True), (mode, padding, align_corners)
    height, width = maps.shape[2:]
    factor = np.array([(width - 1) / width, (height - 1) / height], np.float32)
    places = operators.Mul(places, operators.Constant(value=onnx.numpy_helper.from_array(factor)))
    return operators.GridSample(maps, places, align_corners=0, mode="bilinear", padding_mode="zeros")


_TRANSLATIONS = {
    torch.ops.aten.floor_divide.default: _floor_divide,
    torch.ops.aten.grid_sampler.default: _grid_sample,
    **PLUGIN_TRANSLATIONS,
}
_SIZES = {"points": (0, 1), "sums_1": (0, 1), "sums_2": (0, 1), "sums_3": (0, 1), "width_3": (1, 1)}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a model is exported.

    Args:
        pool: "native" uses operators that every runtime has; "plugin" one node ``bev::bev_pool`` for TensorRT, with a
            body of the former that other runtimes run.
        precision: "fp32" or "fp16". Inputs, pooling, warping, matching and results are float32 in both.
        raw: the head's own outputs, instead of the best candidates or the classes of voxels.
        preprocess: take uint8 camera images and resize, crop and normalise them in the graph.
        raw_size: (W, H) of the camera images, pixels; recorded, and needed by ``preprocess``.
        batch: samples per call; None for any number, for models without history.
        opset: ONNX operator set.
        table_margin: largest pooling tables an engine is to be built for, as a multiple of those of ``rig``.
    """

    pool: Pooling = "native"
    precision: Precision = "fp32"
    raw: bool = False
    preprocess: bool = False
    raw_size: tuple[int, int] = _NUSCENES_IMAGE
    batch: int | None = 1
    opset: int = 18
    table_margin: float = 1.5


def export_model(
    model: Detector,
    folder: str | Path,
    options: ExportOptions | None = None,
    *,
    rig: CameraRig | None = None,
    checkpoint: str | Path | None = None,
) -> Manifest:
    """Write ``model.onnx`` and ``manifest.json``; an earlier export in the folder is replaced when all is done.

    Args:
        model: the detector, on the CPU.
        folder: made if need be.
        options: see :class:`ExportOptions`.
        rig: cameras like those it will run with, any number of samples and frames; six cameras like nuScenes' if None.
            Only how many there are, and how large their tables are, is kept: calibrations are inputs.
        checkpoint: what the weights were loaded from, for the record.

    Raises:
        ValueError: options that contradict each other, or the model.
        OSError: the folder cannot be written.
    """
    options = options or ExportOptions()
    _check(model, options)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rig = _example_rig(model, rig, options)
    layout = Layout(
        cameras=rig.num_cameras,
        batch=options.batch,
        precision=options.precision,
        raw=options.raw,
        raw_size=options.raw_size if options.preprocess else None,
    )
    preprocessing = None
    if options.preprocess:
        preprocessing = ImagePreprocessing(options.raw_size, model.recipe.input_size, model.recipe.image_augmentation)
    step = Step(
        model,
        precision=options.precision,
        raw=options.raw,
        pool=options.pool,
        preprocessing=preprocessing,
    )
    inputs, typical = _example_inputs(model, rig, layout)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        path = Path(scratch) / MODEL_NAME
        _write_onnx(step, inputs, inputs_of(model, layout), outputs_of(model, layout), options, path)
        _check_file(path)
        manifest = _manifest(model, options, layout, typical, path, checkpoint)
        path.replace(folder / MODEL_NAME)
    manifest.write(folder)
    return manifest


def _check(model: Detector, options: ExportOptions) -> None:
    if any(p.device.type != "cpu" for p in model.parameters()):
        raise ValueError("export_model wants a model on the CPU: call model.cpu() first")
    if options.batch is None and model.recipe.temporal.history:
        raise ValueError(
            f"{model.recipe.name} keeps a history of every sample: export it for a fixed batch, such as --batch 1"
        )
    if options.batch is not None and options.batch < 1:
        raise ValueError(f"batch must be at least 1, or None for any number, got {options.batch}")
    if options.table_margin < 1:
        raise ValueError(f"table_margin must be at least 1, got {options.table_margin}")
    if options.opset < 18:
        raise ValueError(f"opset must be at least 18, got {options.opset}: older ones lack operators that are needed")


def _example_rig(model: Detector, rig: CameraRig | None, options: ExportOptions) -> CameraRig:
    """One frame, as many samples as the graph is traced with."""
    samples = options.batch or TRACED_SAMPLES
    if rig is None:
        size, augmentation = model.recipe.input_size, model.recipe.image_augmentation
        return nuscenes_rig(size, samples=samples, rolling=True, augmentation=augmentation)
    fields = {field.name: getattr(rig, field.name)[:1] for field in dataclasses.fields(rig)}
    one = {name: value if name == "bev_aug" else value[:, :1] for name, value in fields.items()}
    return CameraRig(**{name: value.repeat(samples, *[1] * (value.ndim - 1)) for name, value in one.items()})


def _example_inputs(model: Detector, rig: CameraRig, layout: Layout) -> tuple[dict[str, Tensor], TableBounds]:
    """Inputs to trace with, in the order of the signature, and how large the tables are."""
    recipe, cameras = model.recipe, rig.frame_cameras(0)
    feed, samples = Feed(recipe), rig.batch_size
    state = torch.float16 if layout.precision == "fp16" else torch.float32
    specs = {spec.name: spec for spec in inputs_of(model, dataclasses.replace(layout, batch=samples))}
    images = specs["images"]
    made = {"images": torch.zeros(images.shape, dtype=getattr(torch, images.dtype)), **feed.cameras(cameras)}
    past = recipe.temporal.history
    if past:
        maps = torch.zeros(samples, past, *map_shape(recipe), dtype=state)
        valid = torch.ones(samples, past, dtype=torch.bool)
        made |= feed.history(maps, valid, identity_motion(samples, past, maps.device))
    if recipe.stereo:
        features = torch.zeros(specs["stereo"].shape, dtype=state)
        still = torch.eye(4).expand(samples, rig.num_cameras, 4, 4)
        made |= feed.stereo(features, torch.ones(samples, dtype=torch.bool), still, cameras)
    assert set(made) == set(specs), set(made) ^ set(specs)
    return {name: made[name].clone(memory_format=torch.contiguous_format) for name in specs}, feed.tables(
        cameras
    ).bounds


def _write_onnx(
    step: Step,
    inputs: dict[str, Tensor],
    inputs_spec: list[TensorSpec],
    outputs_spec: list[TensorSpec],
    options: ExportOptions,
    path: Path,
) -> None:
    with torch.no_grad():
        program = torch.export.export(
            step, (inputs,), dynamic_shapes=({spec.name: _dynamic(spec) for spec in inputs_spec},), strict=False
        )
        program = program.run_decompositions(_DECOMPOSED)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=options.opset,
            input_names=[spec.name for spec in inputs_spec],
            output_names=[spec.name for spec in outputs_spec],
            custom_translation_table=_TRANSLATIONS,
            optimize=True,
            verbose=False,
        )
    proto = exported.model_proto
    _forget_where_it_was_made(proto)
    onnx.save(proto, path)
    if options.pool == "plugin":
        add_plugin_body(path)


def _forget_where_it_was_made(model: onnx.ModelProto) -> None:
    """Of what the exporter notes of every node keep the name of the module alone.

    The rest are lines of its sources, with their paths: files of the same model would differ from machine to machine.
    """
    graph = model.graph
    for thing in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        kept = [entry for entry in thing.metadata_props if entry.key == _MODULE_NAMES]
        del thing.metadata_props[:]
        thing.metadata_props.extend(kept)


def _dynamic(spec: TensorSpec) -> dict[int, object] | None:
    """Sizes of an input that are names, as torch.export wants them."""
    sizes = {i: torch.export.Dim.DYNAMIC for i, size in enumerate(spec.shape) if isinstance(size, str)}
    return sizes or None


def _check_file(path: Path) -> None:
    onnx.checker.check_model(str(path), full_check=True)


def _manifest(
    model: Detector,
    options: ExportOptions,
    layout: Layout,
    typical: TableBounds,
    path: Path,
    checkpoint: str | Path | None,
) -> Manifest:
    recipe, grid = model.recipe, model.recipe.view.grid
    transform = recipe.image_augmentation.fixed(options.raw_size, recipe.input_size)
    outputs = tuple(outputs_of(model, layout))
    return Manifest(
        recipe=recipe.name,
        task=recipe.task,
        input_size=recipe.input_size,
        align=recipe.temporal.align,
        classes=recipe.classes,
        cameras=layout.cameras,
        batch=options.batch,
        pool=options.pool,
        precision=options.precision,
        raw=options.raw,
        quantized=False,
        opset=options.opset,
        model=MODEL_NAME,
        files={MODEL_NAME: sha256_of(path)},
        inputs=tuple(inputs_of(model, layout)),
        outputs=outputs,
        state={name: STATE[name] for name in (spec.name for spec in outputs) if name in STATE},
        bounds=typical.scaled(options.table_margin),
        typical=typical,
        preprocessing=Preprocessing(
            in_graph=options.preprocess,
            raw_size=options.raw_size,
            resized=transform.resized,
            crop=transform.crop,
            image_aug=tuple(tuple(row) for row in transform.homography().tolist()),
            mean=PIXEL_MEAN,
            deviation=PIXEL_STD,
        ),
        postprocessing=dataclasses.asdict(model.head.decode_options) if isinstance(model.head, CenterHead) else None,
        grid={"lower": tuple(grid.lower), "upper": tuple(grid.upper), "step": tuple(grid.step)},
        stride=model.view_transform.stride,
        depths=tuple(recipe.view.depth.values().tolist()),
        checkpoint=None if checkpoint is None else sha256_of(checkpoint),
        versions={name: version(name) for name in ("bev-deploy", "torch", "onnx", "onnxscript")}
        | {"python": platform.python_version()},
    )
