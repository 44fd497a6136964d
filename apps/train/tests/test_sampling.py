"""Which samples a process draws: complete, equal for any number of processes, resumable anywhere."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from bev_nuscenes import ClassBalancedSampler, EpochSampler
from bev_train.data import ResumableSampler


def _draws(size: int, *, epoch: int = 0, **kwargs: int) -> list:
    sampler = ResumableSampler(EpochSampler(range(size), seed=3, num_replicas=1, rank=0), **kwargs)
    sampler.set_epoch(epoch)
    return list(sampler)


class _Split:
    """Key frames and the classes (frames, 10) that are in them."""

    def __init__(self, present: np.ndarray) -> None:
        self.positions = np.arange(len(present))
        self.index = SimpleNamespace(class_presence=lambda positions: present[positions])

    def __len__(self) -> int:
        return len(self.positions)


def test_an_epoch_draws_everything_and_fills_up_from_its_beginning() -> None:
    draws = _draws(10, batch_size=4)
    assert len(draws) == 12
    assert sorted(draw.index for draw in draws[:10]) == list(range(10))
    assert [draw.index for draw in draws[10:]] == [draw.index for draw in draws[:2]]
    assert len(set(draws)) == 12  # what fills up is augmented anew


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    assert _draws(10, batch_size=2, epoch=1) == _draws(10, batch_size=2, epoch=1)
    assert [d.index for d in _draws(10, batch_size=2)] != [d.index for d in _draws(10, batch_size=2, epoch=1)]


@pytest.mark.parametrize(
    ("size", "batch", "replicas", "accumulate"), [(10, 2, 2, 1), (9, 1, 3, 2), (3, 2, 4, 1), (16, 4, 2, 2)]
)
def test_processes_share_the_batches_of_one(size: int, batch: int, replicas: int, accumulate: int) -> None:
    single = _draws(size, batch_size=batch * replicas, accumulate=accumulate)
    ranks = [_draws(size, batch_size=batch, replicas=replicas, rank=r, accumulate=accumulate) for r in range(replicas)]
    step = batch
    together = [
        draw for begin in range(0, len(ranks[0]), step) for rank in ranks for draw in rank[begin : begin + step]
    ]
    assert together == single
    assert len(single) % (batch * replicas * accumulate) == 0


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_class_balanced_draws_are_those_of_one_process(replicas: int) -> None:
    rare = np.zeros((12, 10), dtype=bool)
    rare[:, 0], rare[3, 1], rare[7:9, 2] = True, True, True
    split = _Split(rare)
    shares = []
    parts = ({"batch_size": 1, "replicas": replicas, "rank": rank} for rank in range(replicas))
    for options in ({"batch_size": replicas}, *parts):
        epochs = ClassBalancedSampler(split, seed=5, num_replicas=1, rank=0)
        shares.append(list(ResumableSampler(epochs, **options)))
    single, *ranks = shares
    assert [draw for draws in zip(*ranks, strict=True) for draw in draws] == single
    assert sum(draw.index == 3 for draw in single) > 2  # the rare one is drawn again and again


@pytest.mark.parametrize("consumed", range(13))
def test_resuming_skips_exactly_what_was_consumed(consumed: int) -> None:
    kwargs = {"batch_size": 2, "replicas": 2, "rank": 1}
    whole = list(itertools.chain.from_iterable(_draws(10, epoch=epoch, **kwargs) for epoch in range(5)))
    sampler = ResumableSampler(EpochSampler(range(10), seed=3, num_replicas=1, rank=0), consumed=consumed, **kwargs)
    rest = list(sampler)
    for epoch in range(sampler.epoch + 1, 5):
        sampler.set_epoch(epoch)
        rest += list(sampler)
    assert rest == whole[consumed * 2 :]
