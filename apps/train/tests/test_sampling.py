"""Which samples a process draws: complete, equal for any number of processes, resumable anywhere."""

from __future__ import annotations

import itertools

import pytest

from bev_nuscenes import EpochSampler
from bev_train.data import ResumableSampler


def _draws(size: int, *, epoch: int = 0, **kwargs: int) -> list:
    sampler = ResumableSampler(EpochSampler(range(size), seed=3, num_replicas=1, rank=0), **kwargs)
    sampler.set_epoch(epoch)
    return list(sampler)


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
