"""``bev-deploy show`` and ``check``: what is in a folder, and whether it is in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from ..lint import lint_for_tensorrt
from ..manifest import Manifest
from ..signature import TensorSpec
from .options import CheckArguments, ShowArguments
from .text import as_table, size_text

__all__ = ["check", "problems_of", "show"]


def show(arguments: ShowArguments) -> int:
    """Print what a program needs to know to run the model.

    Raises:
        ManifestError: no export there, or a changed one.
    """
    manifest = Manifest.read(arguments.folder)
    sections = {
        "": _facts(manifest, arguments.folder),
        "inputs": _specs(manifest.inputs),
        "outputs": _specs(manifest.outputs),
        "state": _state(manifest),
        "pre-processing": _preprocessing(manifest),
        "post-processing": _postprocessing(manifest),
        "pooling tables": as_table(
            ("size", "exported for", "largest"),
            [
                (name, str(typical), str(bound))
                for name, typical, bound in zip(manifest.bounds._fields, manifest.typical, manifest.bounds, strict=True)
            ],
        ),
    }
    print("\n\n".join(f"{title}\n{text}" if title else text for title, text in sections.items() if text))
    return 0


def check(arguments: CheckArguments) -> int:
    """Print every problem of an export; 1 if there is one.

    Raises:
        ManifestError: no export there, or a changed one.
    """
    folder = arguments.folder
    manifest = Manifest.read(folder)
    problems = problems_of(folder, manifest)
    for problem in problems:
        print(f"{folder / manifest.model}: {problem}")
    if not problems:
        print(
            f"{folder} is in order: {manifest.recipe}, opset {manifest.opset}, {', '.join(manifest.files)} as exported"
        )
    return int(bool(problems))


def problems_of(folder: Path, manifest: Manifest) -> list[str]:
    """What is wrong with the ONNX file of an export, and what TensorRT would refuse in it: a line each."""
    path = folder / manifest.model
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [f"not a valid ONNX file: {str(error).splitlines()[0]}"]
    graph = onnx.load(path, load_external_data=False).graph
    return [
        *_signature_problems("input", manifest.inputs, graph.input),
        *_signature_problems("output", manifest.outputs, graph.output),
        *(f"TensorRT: {line}" for line in lint_for_tensorrt(path)),
    ]


def _signature_problems(kind: str, specs: Sequence[TensorSpec], values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    found = {value.name: value.type.tensor_type for value in values}
    wanted = {spec.name: spec for spec in specs}
    problems = [f"{kind} {name} is in the manifest and not in the model" for name in wanted.keys() - found.keys()]
    problems += [f"{kind} {name} is in the model and not in the manifest" for name in found.keys() - wanted.keys()]
    for name in wanted.keys() & found.keys():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(found[name].elem_type).name
        sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in found[name].shape.dim)
        fixed = tuple(size if isinstance(size, int) else None for size in wanted[name].shape)
        if (dtype, sizes) != (wanted[name].dtype, fixed):
            problems.append(
                f"{kind} {name} is {dtype} {sizes} in the model, {wanted[name].dtype} {wanted[name].shape} in the "
                "manifest"
            )
    return sorted(problems)


def _facts(manifest: Manifest, folder: Path) -> str:
    height, width = manifest.input_size
    samples = {None: "any number of samples", 1: "1 sample"}.get(manifest.batch, f"{manifest.batch} samples")
    axes = zip("xyz", *(manifest.grid[bound] for bound in ("lower", "upper", "step")), strict=True)
    size = size_text((folder / manifest.model).stat().st_size)
    rows = {
        "recipe": f"{manifest.recipe}, {manifest.task}",
        "model": f"{folder / manifest.model}, {size}, opset {manifest.opset}",
        "numbers": manifest.precision + (" and int8" if manifest.quantized else ""),
        "call": f"{samples}, {manifest.cameras} cameras, {height} x {width} pixels, one frame",
        "grid": ", ".join(f"{axis} {lower:g} to {upper:g} by {step:g}" for axis, lower, upper, step in axes) + " m",
        "lifting": f"every {manifest.stride} pixels, {len(manifest.depths)} depths from {manifest.depths[0]:g} m",
        "pooling": manifest.pool,
        "results": "raw outputs" if manifest.raw else "candidates" if manifest.task == "detection" else "classes",
        "checkpoint": f"SHA-256 {manifest.checkpoint}" if manifest.checkpoint else "none, the weights are untrained",
        "made by": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    return "\n".join(f"{name:<10}  {text}" for name, text in rows.items())


def _specs(specs: Sequence[TensorSpec]) -> str:
    rows = [(spec.name, spec.dtype, " x ".join(map(str, spec.shape)), spec.meaning) for spec in specs]
    return as_table(("name", "type", "shape", "meaning"), rows)


def _state(manifest: Manifest) -> str:
    """What goes back in at the next step."""
    return as_table(("output", "input of the next step"), list(manifest.state.items())) if manifest.state else ""


def _preprocessing(manifest: Manifest) -> str:
    made = manifest.preprocessing
    where = "in the model, which takes uint8 images" if made.in_graph else "before the model"
    steps = [
        f"{where}; camera images of {made.raw_size[0]} x {made.raw_size[1]}",
        f"resize (bicubic) to {made.resized[0]} x {made.resized[1]}, crop left, top, right, bottom {made.crop}",
        f"swap R and B, subtract {made.mean}, divide by {made.deviation}",
    ]
    return "\n".join(steps)


def _postprocessing(manifest: Manifest) -> str:
    if manifest.postprocessing is None:
        return ""
    return "\n".join(f"{name}: {value}" for name, value in manifest.postprocessing.items())
