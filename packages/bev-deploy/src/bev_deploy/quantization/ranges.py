"""Calibration: how large the numbers are that flow into each layer.

Letters: A sizes of an activation, any number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from torch import Tensor

from .running import Runner

__all__ = ["LEVELS", "Activation", "Histogram", "measure_activations"]

LEVELS = 127  # of either sign: -128 is left out, so that zero stands in the middle
_BINS = 8192
_ENTROPY_BINS = 2048
_BYTES_PER_RUN = 1 << 30  # of activations that are fetched at once


class Histogram:
    """Absolute values, counted in equal bins from 0; the bins grow with what comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, dtype=np.int64)
        self.limit = 0.0  # upper edge of the last bin
        self.largest = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count values of any shape.

        Raises:
            ValueError: one is infinite or not a number.
        """
        magnitudes = np.abs(values, dtype=np.float32).reshape(-1)
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            raise ValueError("infinite or not a number")
        self.largest = max(self.largest, largest)
        self._grow(largest)
        if self.limit > 0:
            places = (magnitudes * (_BINS / self.limit)).astype(np.int32)
            self.counts += np.bincount(np.minimum(places, _BINS - 1), minlength=_BINS)
        else:
            self.counts[0] += len(magnitudes)

    def percentile(self, percent: float) -> float:
        """The magnitude that this share of all values does not exceed, to the width of a bin; 100 is exact."""
        reached = np.cumsum(self.counts) >= self.counts.sum() * (percent / 100)
        return min((int(np.argmax(reached)) + 1) * self.limit / _BINS, self.largest)

    def least_entropy(self) -> float:
        """The magnitude to cut off at so that int8 keeps the distribution closest to the one that was counted, as its
        relative entropy says."""
        counts = self.counts.reshape(_ENTROPY_BINS, -1).sum(axis=1)
        return min(_bins_of_least_entropy(counts) * self.limit / _ENTROPY_BINS, self.largest)

    def _grow(self, largest: float) -> None:
        if self.limit == 0.0:
            self.limit = largest
        while self.limit < largest:
            self.limit *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, dtype=np.int64)])


@dataclass
class Activation:
    """What was seen of one tensor.

    Attributes:
        shape: of the last sample.
        histogram: over all samples.
    """

    shape: tuple[int, ...]
    histogram: Histogram

    @property
    def is_pixel(self) -> bool:
        """Whether it is one number per channel: a vector of camera parameters, or a mean over a map."""
        return len(self.shape) >= 4 and prod(self.shape[2:]) == 1


def measure_activations(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    samples: Iterable[Mapping[str, Tensor]],
    *,
    threads: int | None = None,
) -> dict[str, Activation]:
    """Run a model on samples and count what flows through some of its tensors.

    Args:
        model: float.
        tensors: their names.
        samples: inputs of the model, by name; looked at once.
        threads: that one operator may use.

    Raises:
        ValueError: a tensor holds what is no finite number.
    """
    groups = list(_groups(tensors, _bytes_of_tensors(model.graph)))
    runner = Runner(model, tensors, threads=threads)
    seen = {name: Activation((), Histogram()) for name in tensors}
    for inputs in samples:
        for group in groups:
            for name, values in runner(inputs, group).items():
                seen[name].shape = values.shape
                try:
                    seen[name].histogram.add(values)
                except ValueError as error:
                    raise ValueError(f"calibration: the activation {name!r} is {error}") from None
    return seen


def _bins_of_least_entropy(counts: np.ndarray) -> int:
    """How many of the first bins (K,) are worth telling apart in LEVELS + 1 steps, the rest counting as the last.

    Bin 0 holds the zeros that a ReLU makes, which int8 has exactly: it is left out of the comparison.
    """
    counts = counts.astype(np.float64)
    counts[0] = 0.0
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1
    first = min(LEVELS + 1, used)
    ends = range(first, used + 1)
    return min(ends, key=lambda end: _entropy(counts, end))


def _entropy(counts: np.ndarray, end: int) -> float:
    """Relative entropy of the distribution cut off at a bin and seen in LEVELS + 1 steps, to the one that was cut."""
    wanted = counts[:end].copy()
    wanted[-1] += counts[end:].sum()
    steps = np.arange(end) * (LEVELS + 1) // end
    present = counts[:end] > 0
    sums = np.bincount(steps, weights=counts[:end], minlength=LEVELS + 1)
    numbers = np.bincount(steps, weights=present, minlength=LEVELS + 1)
    got = np.where(present, sums[steps] / np.maximum(numbers[steps], 1), 0.0)
    if got.sum() == 0:
        return np.inf
    wanted, got = wanted / wanted.sum(), got / got.sum()
    both = (wanted > 0) & (got > 0)
    missing = wanted[(wanted > 0) & (got == 0)].sum()  # had no share in the steps: counts as an error of its size
    return float((wanted[both] * np.log(wanted[both] / got[both])).sum() + missing)


def _bytes_of_tensors(graph: onnx.GraphProto) -> dict[str, int]:
    """Of those with a known shape; unknown sizes count as one."""
    sizes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes[value.name] = 4 * prod(max(dim.dim_value, 1) for dim in value.type.tensor_type.shape.dim)
    return sizes


def _groups(tensors: Sequence[str], sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Tensors that fit into memory together; each stands alone if need be."""
    group: list[str] = []
    room = _BYTES_PER_RUN
    for name in tensors:
        size = sizes.get(name, 0)
        if group and size > room:
            yield group
            group, room = [], _BYTES_PER_RUN
        group.append(name)
        room -= size
    if group:
        yield group
