"""Samplers whose order is a function of seed and epoch alone, whatever the number of processes and workers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch.distributed
from torch.utils.data import DistributedSampler

from .dataset import Draw, NuscenesDataset
from .randomness import Purpose, generator

__all__ = ["ClassBalancedSampler", "EpochSampler", "class_balanced_indices"]


def class_balanced_indices(presence: np.ndarray, seed: int = 0) -> np.ndarray:
    """Indices that show every class about equally often, sorted by class and to be shuffled each epoch.

    Every class draws, with replacement, from the samples that contain it; all classes draw the same number, and
    together as many as there are (sample, class) pairs. A class without any sample draws nothing and leaves its share
    to the others (the published code divides by zero there).

    Args:
        presence: (S, C) bool, which of S samples contains which of C classes.
        seed: seed of the draw. It happens once: all epochs see the same multiset, as published.

    Returns:
        (D,) int64 with repetitions. Source: Class-balanced Grouping and Sampling (arXiv 1908.09492), CBGS.

    Raises:
        ValueError: no sample contains any class.
    """
    counts = presence.sum(axis=0)
    pairs = int(counts.sum())
    if not pairs:
        raise ValueError("class-balanced sampling needs annotated boxes and this split has none; sample without it")
    share = 1 / np.count_nonzero(counts)
    rng = generator(Purpose.BALANCE, seed)
    drawn = [
        rng.choice(np.flatnonzero(presence[:, label]), int(count * (share / (count / pairs))))
        for label, count in enumerate(counts)
        if count
    ]
    return np.concatenate(drawn).astype(np.int64)


class EpochSampler(DistributedSampler):
    """Shuffles indices anew each epoch and deals them to the processes in turn.

    Step k of P processes with b samples each holds the same samples as step k of one process with P*b. The end is
    padded from the beginning so that all processes get equally many. Items are Draws: they carry the epoch and, for an
    index that occurs several times, which time it is.

    It derives from DistributedSampler so that Lightning leaves it alone instead of sharding it again; Lightning calls
    ``set_epoch``, and so must anyone else.
    """

    def __init__(
        self,
        dataset: NuscenesDataset,
        indices: np.ndarray | None = None,  # (D,) int64
        *,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        """Prepare a sampler.

        Args:
            dataset: data set to draw from.
            indices: indices into it, with repetitions; None stands for each once.
            seed: seed of the shuffles.
            num_replicas: number of processes; None asks torch.distributed when an epoch begins.
            rank: number of this process; None likewise.
        """
        super().__init__(dataset, num_replicas=1, rank=0, seed=seed)
        self.indices = np.arange(len(dataset)) if indices is None else indices
        self.repeats = _occurrence_numbers(self.indices)
        self._placement = num_replicas, rank

    def __len__(self) -> int:
        """Number of draws for this process."""
        return math.ceil(len(self.indices) / self._placed()[0])

    def __iter__(self) -> Iterator[Draw]:
        replicas, rank = self._placed()
        order = generator(Purpose.SHUFFLE, self.seed, self.epoch).permutation(len(self.indices))
        order = np.resize(order, replicas * len(self))
        for place in order[rank::replicas]:
            yield Draw(int(self.indices[place]), self.epoch, int(self.repeats[place]))

    def _placed(self) -> tuple[int, int]:
        replicas, rank = self._placement
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if replicas is None:
            replicas = torch.distributed.get_world_size() if distributed else 1
        if rank is None:
            rank = torch.distributed.get_rank() if distributed else 0
        return replicas, rank


class ClassBalancedSampler(EpochSampler):
    """EpochSampler over ``class_balanced_indices`` of a data set's split."""

    def __init__(
        self, dataset: NuscenesDataset, *, seed: int = 0, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        """Draw the indices; the options are those of EpochSampler.

        Raises:
            ValueError: the split has no annotated boxes.
        """
        indices = class_balanced_indices(dataset.index.class_presence(dataset.positions), seed)
        super().__init__(dataset, indices, seed=seed, num_replicas=num_replicas, rank=rank)


def _occurrence_numbers(indices: np.ndarray) -> np.ndarray:
    """For each entry (D,) how often its value occurred before it."""
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    first = np.searchsorted(ordered, ordered, side="left")
    numbers = np.empty_like(order)
    numbers[order] = np.arange(len(indices)) - first
    return numbers
