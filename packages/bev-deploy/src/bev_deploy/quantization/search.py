"""Which layers cost how much accuracy in int8, and which are better left as they are.

Every layer is put to int8 alone, with every calibration that there is to choose from, and the results of the model
compared. Activations take the calibration that harms the results least. Errors of single layers have little to do with
each other, so that their squares add up: which layers have to go for an error to become so and so small is known before
it is measured, and then measured.

Letters: C calibrations, L layers, R results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from torch import Tensor

from bev_nuscenes.command_line import progress

from .graph import REACHES, SWITCHES, switchable_model
from .layers import Layer
from .running import Runner

__all__ = ["Sensitivity", "chosen_layers", "relative_errors", "sensitivity"]


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """How much the results change when layers are in int8.

    Attributes:
        layers: in the order of the graph.
        results: names of the results.
        ranges: largest magnitude that int8 reaches by the name of a layer's input, as chosen.
        alone: (L, R) error of each result with one layer in int8: root mean square of the change, over the standard
            deviation of the result.
    """

    layers: tuple[Layer, ...]
    results: tuple[str, ...]
    ranges: dict[str, float]
    alone: np.ndarray


def sensitivity(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    calibrations: Sequence[Mapping[str, float]],
    results: Mapping[str, str],
    samples: Sequence[Mapping[str, Tensor]],
    *,
    threads: int | None = None,
) -> Sensitivity:
    """Try every layer alone.

    Args:
        model: float.
        layers: that may run in int8.
        calibrations: to choose from; each gives the largest magnitude by the name of a layer's input.
        results: name -> tensor of the graph.
        samples: inputs of the model, by name.
        threads: that one operator may use.
    """
    switches = _Switches(model, layers, results, samples, threads)
    alone = np.zeros((len(calibrations), len(layers), len(results)))
    with progress(alone.shape[0] * alone.shape[1], "trying layers", "trial") as bar:
        for c, ranges in enumerate(calibrations):
            for place in range(len(layers)):
                alone[c, place] = switches([place], ranges)
                bar.update()
    chosen = _best_calibrations(alone, layers)
    ranges = {layer.input: calibrations[c][layer.input] for layer, c in zip(layers, chosen, strict=True)}
    return Sensitivity(
        layers=tuple(layers),
        results=tuple(results),
        ranges=ranges,
        alone=alone[chosen, np.arange(len(layers))],
    )


def chosen_layers(
    alone: np.ndarray,  # (L, R)
    measured: Callable[[Sequence[int]], np.ndarray],
    max_error: float,
) -> tuple[list[int], np.ndarray]:
    """As many layers as may run in int8 together so that no result has a larger error than that.

    Args:
        alone: error of each result with one layer in int8.
        measured: the error of each result (R,) with some layers in int8, given by their places.
        max_error: the bound.

    Returns:
        Places of the layers, and the errors (R,) with them.
    """
    kept = list(range(len(alone)))
    squares = alone**2
    errors = measured(kept)
    while kept and errors.max() > max_error:
        worst = int(errors.argmax())
        share = (max_error / errors[worst]) ** 2  # of the sum of squares that may remain
        kept = _without_the_worst(kept, squares[:, worst], share)
        errors = measured(kept)
    return kept, errors


def relative_errors(wanted: Sequence[Mapping[str, np.ndarray]], got: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """Per result (R,), over all samples: root mean square of the difference over the standard deviation of what was
    wanted; 0 where nothing differs."""
    return np.array(
        [_relative_error([sample[name] for sample in wanted], [sample[name] for sample in got]) for name in wanted[0]]
    )


class _Switches:
    """Runs a model with some layers in int8."""

    def __init__(
        self,
        model: onnx.ModelProto,
        layers: Sequence[Layer],
        results: Mapping[str, str],
        samples: Sequence[Mapping[str, Tensor]],
        threads: int | None,
    ) -> None:
        self._inputs = [layer.input for layer in layers]
        self._results = list(results.values())
        self._samples = samples
        self._run = Runner(switchable_model(model, layers), self._results, threads=threads)
        self._wanted = self._outputs([], np.ones(len(layers)))

    def __call__(self, places: Sequence[int], ranges: Mapping[str, float]) -> np.ndarray:
        """The error of each result (R,)."""
        return relative_errors(self._wanted, self._outputs(places, [ranges[name] for name in self._inputs]))

    def _outputs(self, places: Sequence[int], reaches: Sequence[float]) -> list[dict[str, np.ndarray]]:
        switches = np.zeros(len(self._inputs), dtype=bool)
        switches[list(places)] = True
        told = {SWITCHES: switches, REACHES: np.asarray(reaches, dtype=np.float32)}
        return [self._run({**inputs, **told}, self._results) for inputs in self._samples]


def _best_calibrations(alone: np.ndarray, layers: Sequence[Layer]) -> np.ndarray:
    """(C, L, R) errors -> (L,) which calibration each layer's input takes; layers of one input take the same."""
    squares = alone.max(axis=2) ** 2
    inputs = np.array([layer.input for layer in layers])
    return np.array([squares[:, inputs == name].sum(axis=1).argmin() for name in inputs])


def _without_the_worst(kept: Sequence[int], squares: np.ndarray, share: float) -> list[int]:
    """Leave out the layers with the largest squares, one at least, until no more than a share of their sum is left."""
    by_size = sorted(kept, key=lambda place: squares[place])
    goal = squares[by_size].sum() * share
    by_size.pop()
    while by_size and squares[by_size].sum() > goal:
        by_size.pop()
    return sorted(by_size)


def _relative_error(wanted: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    wanted, got = (np.concatenate([array.ravel() for array in arrays], dtype=np.float64) for arrays in (wanted, got))
    change = np.sqrt(np.mean((got - wanted) ** 2))
    if not np.isfinite(change):
        return float("inf")
    return float(change / max(wanted.std(), np.finfo(np.float32).tiny)) if change > 0 else 0.0
