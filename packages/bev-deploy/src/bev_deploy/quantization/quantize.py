"""From an exported model to one whose layers run in int8."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from torch import Tensor

from bev_nuscenes import NuscenesDataset

from ..detector import load
from ..manifest import Manifest, sha256_of
from .accuracy import AccuracyChange, check_answers, compare_accuracy
from .calibrate import Calibrated, calibrated
from .graph import quantized_model
from .layers import Layer, fold_split_weights, results_of
from .options import QuantizeOptions
from .report import LayerReport, QuantizationReport
from .running import Runner
from .samples import check_dataset
from .search import Sensitivity, chosen_layers, relative_errors, sensitivity

__all__ = ["quantize_model"]

_HALF_PRECISION_OPSET = 19  # QuantizeLinear takes float16 from there on


def quantize_model(
    folder: str | Path,
    out: str | Path,
    samples: Iterable[Mapping[str, Tensor]],
    options: QuantizeOptions | None = None,
    *,
    evaluation: NuscenesDataset | None = None,
) -> QuantizationReport:
    """Write an export again with int8 layers: ``model.onnx``, ``manifest.json``, ``quantization.json`` and ``.md``.

    Inputs, outputs and state stay as they are. Convolutions (and linear layers of the backbone, if asked for) get
    explicit QuantizeLinear and DequantizeLinear operators; pooling, softmax, warping, matching, what looks at camera
    parameters, and the last layer of every branch of the head stay as they are, and so do layers that turn out to be
    sensitive, see :class:`QuantizeOptions`.

    Args:
        folder: what ``bev-deploy export`` wrote.
        out: another folder; made if need be, an earlier model in it is replaced when all is done.
        samples: inputs of the model by name, looked at once; :func:`calibration_inputs` makes them from a data set.
        options: see :class:`QuantizeOptions`.
        evaluation: a split on which both models are evaluated; None leaves this out.

    Raises:
        ManifestError: no export in the folder.
        ValueError: an export that is quantised already, samples that are too few or do not fit, modules to keep that
            do not exist or leave nothing to quantise, an evaluation split that does not fit or has no annotations.
        OSError: ``out`` cannot be written.
    """
    options = options or QuantizeOptions()
    folder, out = Path(folder), Path(out)
    manifest = Manifest.read(folder)
    _check(manifest, folder, out)
    if evaluation is not None:
        check_dataset(manifest, evaluation)
        check_answers(manifest, evaluation)
    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(folder / manifest.model)
    fold_split_weights(model.graph)
    known = calibrated(model, manifest, samples, options)
    compare = _Comparison(model, known.samples, options.threads)
    chosen = _chosen(model, known, compare, options)
    _write(chosen.model, manifest, out)
    report = QuantizationReport(
        recipe=manifest.recipe,
        options=options,
        samples=known.count,
        layers=chosen.layers,
        left_out=tuple(known.left_out),
        results=dict(zip(compare.results, chosen.errors.tolist(), strict=True)),
        bytes_before=(folder / manifest.model).stat().st_size,
        bytes_after=(out / manifest.model).stat().st_size,
        accuracy=None,
    )
    report.write(out)  # an evaluation that fails takes nothing with it
    if evaluation is not None:
        report = dataclasses.replace(report, accuracy=_accuracy(folder, out, evaluation, options))
        report.write(out)
    return report


@dataclass(frozen=True)
class _Chosen:
    """The model with the layers in int8 that are to be."""

    model: onnx.ModelProto
    errors: np.ndarray  # (R,) of the results
    layers: tuple[LayerReport, ...]


def _check(manifest: Manifest, folder: Path, out: Path) -> None:
    if manifest.quantized:
        raise ValueError(f"{folder} is quantised already: give the folder of the export that it was made from")
    if out.resolve() == folder.resolve():
        raise ValueError(f"{out} holds the export itself: write the quantised model to another folder")
    if manifest.precision == "fp16" and manifest.opset < _HALF_PRECISION_OPSET:
        raise ValueError(
            f"half precision is quantised from opset {_HALF_PRECISION_OPSET} on, this export has {manifest.opset}: "
            f"export it again with --opset {_HALF_PRECISION_OPSET}"
        )


def _chosen(model: onnx.ModelProto, known: Calibrated, compare: _Comparison, options: QuantizeOptions) -> _Chosen:
    found = None
    if options.max_error is not None or len(known.calibrations) > 1:
        found = sensitivity(
            model, known.layers, known.calibrations, compare.results, known.samples, threads=options.threads
        )
    ranges = known.calibrations[0] if found is None else found.ranges

    def with_int8(places: Sequence[int]) -> onnx.ModelProto:
        return quantized_model(model, [known.layers[place] for place in places], ranges)

    kept = list(range(len(known.layers)))
    if options.max_error is None:
        errors = compare(with_int8(kept))
    else:
        kept, errors = chosen_layers(found.alone, lambda places: compare(with_int8(places)), options.max_error)
    layers = [_reported(layer, place, ranges, found, place in kept) for place, layer in enumerate(known.layers)]
    return _Chosen(with_int8(kept), errors, tuple(layers))


class _Comparison:
    """Runs other versions of a model on the samples that layers are tried on."""

    def __init__(self, model: onnx.ModelProto, samples: Sequence[Mapping[str, Tensor]], threads: int | None) -> None:
        self.results = results_of(model.graph)
        self._samples, self._threads = samples, threads
        self._wanted = self._outputs(model)

    def __call__(self, other: onnx.ModelProto) -> np.ndarray:
        """The error of each result (R,)."""
        return relative_errors(self._wanted, self._outputs(other))

    def _outputs(self, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
        tensors = list(self.results.values())
        run = Runner(model, tensors, threads=self._threads)
        return [run(inputs, tensors) for inputs in self._samples]


def _reported(
    layer: Layer, place: int, ranges: Mapping[str, float], found: Sensitivity | None, int8: bool
) -> LayerReport:
    worst = None if found is None else int(found.alone[place].argmax())
    return LayerReport(
        name=layer.name,
        operator=layer.operator,
        reach=ranges[layer.input],
        error=None if worst is None else float(found.alone[place, worst]),
        result=None if worst is None else found.results[worst],
        int8=int8,
    )


def _write(made: onnx.ModelProto, manifest: Manifest, out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out, prefix=".quantize-") as scratch:
        path = Path(scratch) / manifest.model
        onnx.save(made, path)
        onnx.checker.check_model(str(path), full_check=True)
        quantized = dataclasses.replace(
            manifest,
            quantized=True,
            files={manifest.model: sha256_of(path)},
            # Not every distribution of ONNX Runtime is called onnxruntime.
            versions=manifest.versions
            | {name: version(name) for name in ("bev-deploy", "onnx")}
            | {"onnxruntime": onnxruntime.__version__},
        )
        path.replace(out / manifest.model)
    quantized.write(out)


def _accuracy(folder: Path, out: Path, evaluation: NuscenesDataset, options: QuantizeOptions) -> AccuracyChange:
    before, after = (load(path, threads=options.threads) for path in (folder, out))
    return compare_accuracy(before, after, evaluation)
