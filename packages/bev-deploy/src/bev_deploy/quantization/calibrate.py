"""From a float model and samples to the layers that may run in int8 and the ranges of what flows into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass

import onnx
from torch import Tensor

from bev_nuscenes.command_line import progress

from ..manifest import Manifest
from ..signature import TensorSpec
from .layers import Layer, LeftOut, layers_of
from .options import QuantizeOptions
from .ranges import Histogram, measure_activations

__all__ = ["Calibrated", "calibrated"]

_LEAST_SAMPLES = 8
# Features of a bird's-eye view have long tails and want to be cut off early, those of a head do not.
_TRIED_PERCENTILES = (99.0, 99.9, 99.99, 100.0)


@dataclass(frozen=True)
class Calibrated:
    """What is known of a model before any layer is in int8."""

    layers: list[Layer]  # that may be in int8
    left_out: list[LeftOut]
    calibrations: list[dict[str, float]]  # to choose from: largest magnitude by the name of a layer's input
    samples: list[Mapping[str, Tensor]]  # to try layers on
    count: int  # of samples seen


def calibrated(
    model: onnx.ModelProto, manifest: Manifest, samples: Iterable[Mapping[str, Tensor]], options: QuantizeOptions
) -> Calibrated:
    """Find the layers of a model and run it on all samples.

    Raises:
        ValueError: samples that are too few or do not fit the manifest, modules to keep that do not exist or leave
            nothing to quantise.
    """
    candidates, left_out = layers_of(model.graph, matmul=options.matmul)
    candidates, asked_for = _without_kept(candidates, options.keep)
    tensors = list(dict.fromkeys(layer.input for layer in candidates))
    source = _Samples(samples, manifest.inputs, options.search_samples)
    seen = measure_activations(model, tensors, source, threads=options.threads)
    layers, unfit = [], []
    for layer in candidates:
        if seen[layer.input].is_pixel:
            unfit.append(LeftOut(layer.name, "its input is one number per channel, not a map"))
        elif seen[layer.input].histogram.largest == 0:
            unfit.append(LeftOut(layer.name, "its input was 0 in every sample"))
        else:
            layers.append(layer)
    if not layers:
        raise ValueError("no layer is left to quantise: keep less of the model as it is")
    calibrations = _calibrations({layer.input: seen[layer.input].histogram for layer in layers}, options)
    return Calibrated(layers, left_out + asked_for + unfit, calibrations, source.first, source.count)


def _calibrations(histograms: Mapping[str, Histogram], options: QuantizeOptions) -> list[dict[str, float]]:
    if options.calibration == "entropy":
        return [{name: histogram.least_entropy() for name, histogram in histograms.items()}]
    percents = {"trial": _TRIED_PERCENTILES, "minmax": (100.0,), "percentile": (options.percentile,)}
    return [
        {name: histogram.percentile(percent) for name, histogram in histograms.items()}
        for percent in percents[options.calibration]
    ]


def _without_kept(layers: Sequence[Layer], modules: Sequence[str]) -> tuple[list[Layer], list[LeftOut]]:
    """Layers, without those of some modules."""

    def within(layer: Layer, module: str) -> bool:
        owner = layer.name.partition("#")[0]  # a module may have several operators
        return layer.name == module or f"{owner}.".startswith(f"{module}.")

    for module in modules:
        if not any(within(layer, module) for layer in layers):
            tops = sorted({layer.name.split(".")[0] for layer in layers})
            raise ValueError(f"keep: no layer that could be quantised is in {module!r}; there are {', '.join(tops)}")
    kept = [layer for layer in layers if any(within(layer, module) for module in modules)]
    return [layer for layer in layers if layer not in kept], [LeftOut(layer.name, "asked for") for layer in kept]


class _Samples:
    """Samples as they come, looked at, counted, and the first of them kept."""

    def __init__(self, samples: Iterable[Mapping[str, Tensor]], specs: Sequence[TensorSpec], keep: int) -> None:
        self.first: list[Mapping[str, Tensor]] = []
        self.count = 0
        self._samples, self._specs, self._keep = samples, specs, keep

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        total = len(self._samples) if isinstance(self._samples, Sized) else None
        with progress(total, "calibrating", "sample") as bar:
            for inputs in self._samples:
                self._check(inputs)
                if self.count < self._keep:
                    self.first.append(inputs)
                self.count += 1
                yield inputs
                bar.update()
        if self.count < _LEAST_SAMPLES:
            raise ValueError(f"calibration needs at least {_LEAST_SAMPLES} samples, got {self.count}: give more")

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        names = {spec.name for spec in self._specs}
        if inputs.keys() != names:
            raise ValueError(
                f"calibration sample {self.count} does not fit the export: missing {sorted(names - inputs.keys())}, "
                f"unknown {sorted(inputs.keys() - names)}"
            )
        for spec in self._specs:
            shape, dtype = tuple(inputs[spec.name].shape), str(inputs[spec.name].dtype).removeprefix("torch.")
            fits = len(shape) == len(spec.shape) and all(
                isinstance(wanted, str) or wanted == size for wanted, size in zip(spec.shape, shape, strict=True)
            )
            if not fits or dtype != spec.dtype:
                raise ValueError(
                    f"calibration sample {self.count}: {spec.name} must be {spec.shape} {spec.dtype}, "
                    f"got {shape} {dtype}"
                )
