"""Samplers: how often, in what order, and the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bev_nuscenes import ClassBalancedSampler, EpochSampler, NuscenesDataset, class_balanced_indices


@pytest.fixture
def dataset(tiny_index) -> NuscenesDataset:
    return NuscenesDataset(tiny_index, "mini_train", input_size=(32, 96), training=True)


def test_every_class_draws_the_same_number_from_the_samples_that_have_it():
    rng = np.random.default_rng(0)
    presence = rng.random((300, 10)) < np.linspace(0.02, 0.9, 10)
    indices = class_balanced_indices(presence, seed=1)
    # The published rule, spelled out: class k with n_k of the n pairs draws int(n_k * (0.1 / (n_k / n))) times.
    counts = presence.sum(0)
    pairs = counts.sum()
    draws = [int(n * (0.1 / (n / pairs))) for n in counts]
    assert len(indices) == sum(draws)
    assert max(draws) - min(draws) <= 1
    for label, part in enumerate(np.split(indices, np.cumsum(draws)[:-1])):
        assert presence[part, label].all()
    rare = presence[:, 0]
    assert rare[indices].mean() > 2 * rare.mean()


def test_a_class_that_never_occurs_leaves_its_share_to_the_others():
    presence = np.zeros((20, 10), dtype=bool)
    presence[:16, 0] = presence[:4, 3] = True
    indices = class_balanced_indices(presence)
    assert len(indices) == 20
    assert (indices[10:] < 4).all()


def test_no_boxes_at_all_is_an_error():
    with pytest.raises(ValueError, match="this split has none; sample without it"):
        class_balanced_indices(np.zeros((5, 10), dtype=bool))


def test_only_boxes_with_points_count(tiny_index):
    presence = tiny_index.class_presence(tiny_index.split_positions("mini_train"))
    # car, barrier and pedestrian in all annotated key frames; the truck has no points; the last frame has no boxes
    assert presence.sum(0).tolist() == [4, 0, 0, 0, 0, 4, 0, 0, 4, 0]
    assert not presence[4].any()


def test_the_multiset_is_one_for_all_epochs_and_the_order_is_not(dataset):
    sampler = ClassBalancedSampler(dataset, seed=3)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert {draw.epoch for draw in epochs[-1]} == {epoch}
    assert len(sampler) == len(epochs[0]) == 12
    indices = [[draw.index for draw in draws] for draws in epochs]
    assert indices[0] != indices[1]
    assert sorted(indices[0]) == sorted(indices[1])
    assert indices[0] != [draw.index for draw in ClassBalancedSampler(dataset, seed=4)]


def test_repeated_indices_are_told_apart(dataset):
    draws = list(ClassBalancedSampler(dataset))
    assert len(set(draws)) == len(draws)
    for index in {draw.index for draw in draws}:
        repeats = sorted(draw.repeat for draw in draws if draw.index == index)
        assert repeats == list(range(len(repeats)))


@pytest.mark.parametrize("replicas", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", [EpochSampler, ClassBalancedSampler])
def test_processes_share_one_order(dataset, kind, replicas):
    whole = list(kind(dataset, seed=2))
    shards = [kind(dataset, seed=2, num_replicas=replicas, rank=rank) for rank in range(replicas)]
    dealt = [draw for turn in zip(*map(list, shards), strict=True) for draw in turn]
    assert dealt[: len(whole)] == whole
    assert dealt[len(whole) :] == whole[: len(dealt) - len(whole)] or replicas > len(whole)
    assert {len(shard) for shard in shards} == {-(-len(whole) // replicas)}


def test_plain_shuffle_visits_everything_once(dataset):
    sampler = EpochSampler(dataset)
    assert sorted(draw.index for draw in sampler) == list(range(5))


def test_the_placement_is_asked_when_an_epoch_begins(dataset, tmp_path):
    sampler = EpochSampler(dataset)
    assert len(sampler) == 5
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert len(list(sampler)) == 5
    finally:
        torch.distributed.destroy_process_group()
    assert isinstance(sampler, torch.utils.data.DistributedSampler)  # Lightning leaves such a sampler as it is
