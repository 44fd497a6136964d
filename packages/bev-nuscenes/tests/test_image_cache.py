"""The cache of images: the same pixels always, no more memory than allowed, one decode for all workers."""

from __future__ import annotations

import copy
import dataclasses
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bev_nuscenes import CacheCounts, ImageAugmentation, NuscenesDataset, collate
from bev_nuscenes import image_cache as module
from bev_nuscenes.image_cache import ImageCache

IMAGE = ImageAugmentation(resize=(-0.06, 0.11), rotate_deg=(-5.4, 5.4), flip=True)


def dataset(index, **options) -> NuscenesDataset:
    defaults = {"input_size": (32, 96), "image_augmentation": IMAGE, "frames": 3}
    return NuscenesDataset(index, "mini_train", **(defaults | options))


def picture(key: int, height: int = 4, width: int = 5) -> np.ndarray:
    return np.random.default_rng(key).integers(0, 256, (height, width, 3), dtype=np.uint8)


def used(cache: ImageCache, key: int, height: int = 4, width: int = 5) -> tuple[np.ndarray, bool]:
    """What the cache hands out for a key, and whether it had to be made."""
    out, made = [], []
    cache.use(
        key,
        lambda: made.append(key) or picture(key, height, width),
        lambda pixels: out.__setitem__(slice(None), [+pixels]),
    )
    return out[0], bool(made)


def test_what_was_made_is_found_again_until_newer_images_need_the_room():
    cache = ImageCache(3 * 60, keys=10)  # three images of 4 x 5 x 3 bytes
    for key, made in (
        (1, True),
        (2, True),
        (1, False),
        (3, True),
        (1, False),
        (4, True),
        (1, True),
        (3, False),
        (2, True),
    ):
        pixels, was_made = used(cache, key)
        np.testing.assert_array_equal(pixels, picture(key))
        assert was_made == made, key
    assert cache.counts == CacheCounts(hits=3, misses=6)
    cache.clear()
    assert used(cache, 2)[1]


def test_images_of_any_sizes_never_leave_the_memory():
    cache, rng = ImageCache(1000, keys=8), np.random.default_rng(0)
    sizes = {key: tuple(rng.integers(1, 13, 2)) for key in range(8)}
    hits = 0
    for key in rng.integers(0, 8, 500).tolist():
        pixels, made = used(cache, key, *sizes[key])
        np.testing.assert_array_equal(pixels, picture(key, *sizes[key]))
        hits += not made
    assert hits > 50


def test_an_image_that_is_too_large_is_made_each_time():
    cache = ImageCache(50, keys=1)
    assert used(cache, 0)[1] and used(cache, 0)[1]


def test_an_image_that_is_overwritten_while_it_is_read_is_made_again():
    cache = ImageCache(2 * 60, keys=10)
    used(cache, 1)
    seen = []

    def consume(pixels: np.ndarray) -> None:
        if not seen:
            used(cache, 2)
            used(cache, 3)
        seen.append(pixels.copy())

    cache.use(1, lambda: picture(1), consume)
    assert len(seen) == 2
    np.testing.assert_array_equal(seen[0], picture(3))
    np.testing.assert_array_equal(seen[1], picture(1))


def _hammer(cache: ImageCache, seed: int, failures: multiprocessing.Queue) -> None:
    wrong = 0
    for key in np.random.default_rng(seed).integers(0, 12, 3000).tolist():
        wrong += not np.array_equal(used(cache, key, 3 + key, 7)[0], picture(key, 3 + key, 7))
    failures.put(wrong)


def test_processes_never_see_each_others_halves():
    context = multiprocessing.get_context("fork")
    cache, failures = ImageCache(1200, keys=12), context.Queue()
    processes = [context.Process(target=_hammer, args=(cache, seed, failures)) for seed in range(4)]
    for process in processes:
        process.start()
    assert [failures.get(timeout=60) for _ in processes] == [0] * 4
    for process in processes:
        process.join()
    assert cache.counts.hits > 500 and sum(cache.counts) == 4 * 3000


def test_a_process_that_died_with_the_lock_does_not_stop_the_others(monkeypatch):
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.1)
    cache = ImageCache(600, keys=10)
    used(cache, 1)
    cache._lock.acquire()
    with pytest.warns(UserWarning, match="died with the lock of the image cache"):
        assert used(cache, 1)[1]
    np.testing.assert_array_equal(used(cache, 1)[0], picture(1))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_begins_empty(copied):
    cache = ImageCache(600, keys=10)
    used(cache, 1)
    other = copied(cache)
    assert other.counts == CacheCounts(0, 0)
    assert used(other, 1)[1] and not used(other, 1)[1] and cache.counts.hits == 0


def test_a_budget_is_not_negative():
    with pytest.raises(ValueError, match="number of bytes, 0 for none, got -1"):
        ImageCache(-1, keys=1)


@pytest.mark.parametrize(
    ("images", "training"), [("exact", False), ("exact", True), ("fast", False), ("fast", True), ("raw", False)]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_the_same_and_files_are_decoded_once(tiny_index, images, training, workers):
    options = {"images": images, "training": training}
    plain = dataset(tiny_index, image_cache_bytes=0, **options)
    cached = dataset(tiny_index, image_cache_bytes=10_000_000, **options)
    expected = [plain[k].images for k in range(len(plain))]
    for _ in range(2):
        loader = DataLoader(
            cached, num_workers=workers, collate_fn=collate, multiprocessing_context="fork" if workers else None
        )
        found = [batch.images[0] for batch in loader]
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    files = 5 * 6
    assert plain.image_counts == CacheCounts(0, 0)
    misses = cached.image_counts.misses
    # Two workers that want one image at the same moment both decode it; reduced copies of two sizes count as two.
    assert files <= misses <= files * (1 if not workers and not (training and images == "fast") else 2)


def test_evaluating_a_sequence_decodes_once_by_default(tiny_index):
    for frames, training, expected in ((3, False, 5 * 6), (1, False, 0), (3, True, 0)):
        split = dataset(tiny_index, frames=frames, training=training)
        for k in range(len(split)):
            split[k]
        assert split.image_counts.misses == expected
    split = dataset(tiny_index)
    split[2], split[2]
    split.forget_images()
    split[2]
    assert split.image_counts == CacheCounts(hits=18, misses=36)


def test_transformed_images_are_kept_only_where_the_transform_is_always_the_same(tiny_index):
    assert dataset(tiny_index)._reader.fixed
    sizes = tiny_index.cameras.sizes.copy()
    sizes[1, 0] = 80, 45
    other = dataclasses.replace(tiny_index, cameras=tiny_index.cameras._replace(sizes=sizes), path=None)
    assert not dataset(other)._reader.fixed
