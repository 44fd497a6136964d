"""Decoded images in memory that the workers of a DataLoader share.

The memory is a ring: new images overwrite the oldest. A reader works on an image in place and asks afterwards whether
it was overwritten meanwhile, so that nobody waits while others decode or transform.
"""

from __future__ import annotations

import mmap
import multiprocessing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from torch.utils.data import get_worker_info

__all__ = ["CacheCounts", "ImageCache"]

_LOCK_SECONDS = 10.0
# Numbers that the processes share: the end of what was ever written, counts, and then two per image.
_END, _HITS, _MISSES, _ENTRIES = range(4)


class CacheCounts(NamedTuple):
    hits: int  # images that were found
    misses: int  # images that had to be made


class _Entry(NamedTuple):
    """An image's place on the endless tape of which the ring keeps the last piece."""

    start: int
    height: int
    width: int

    @property
    def length(self) -> int:
        return self.height * self.width * 3


class ImageCache:
    """At most ``budget`` bytes of images (h, w, 3) uint8, by number.

    Workers that are forked (the default on Linux) share one memory; those that are spawned have a part of the budget
    each. Memory is taken from the system as images come, and given back with the last process that has the cache.

    Args:
        budget: bytes of pixels; 0 keeps nothing.
        keys: images have numbers below this.
    """

    def __init__(self, budget: int, keys: int) -> None:
        if budget < 0:
            raise ValueError(f"the budget of an image cache is a number of bytes, 0 for none, got {budget}")
        self.budget, self.keys = budget, keys
        self._open(budget)

    def __getstate__(self) -> tuple[int, int]:
        return self.budget, self.keys

    def __setstate__(self, state: tuple[int, int]) -> None:
        # Anonymous memory passes to forked processes only: a copy begins empty, with its share once that is known.
        self.budget, self.keys = state
        self._memory: np.ndarray | None = None

    @property
    def counts(self) -> CacheCounts:
        """How often all processes together found an image, and how often they had to make one."""
        if self._memory is None:
            return CacheCounts(0, 0)
        return CacheCounts(int(self._numbers[_HITS]), int(self._numbers[_MISSES]))

    def clear(self) -> None:
        """Forget every image, in all processes."""
        if self._memory is not None:
            with self._locked():
                self._numbers[_END] += self._capacity

    def use(self, key: int, make: Callable[[], np.ndarray], consume: Callable[[np.ndarray], None]) -> None:
        """Hand an image to ``consume``, from memory or else from ``make``, which then is remembered.

        Args:
            key: number of the image.
            make: makes it, (h, w, 3) uint8.
            consume: reads it and keeps no reference to it. It may be called twice, the first time with pixels that
                change meanwhile: nothing of the first time may be left then.
        """
        if self._memory is None:
            info = get_worker_info()
            self._open(self.budget // (1 if info is None else info.num_workers))
        entry = self._look_up(key)
        if entry is not None:
            begin = entry.start % self._capacity
            consume(self._memory[begin : begin + entry.length].reshape(entry.height, entry.width, 3))
            if self._was_intact(entry):
                return
        image = make()
        consume(image)
        self._keep(key, image)

    def _open(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = multiprocessing.Lock()
        self._numbers = np.frombuffer(mmap.mmap(-1, 8 * (_ENTRIES + 2 * self.keys)), np.int64)
        self._memory = np.frombuffer(mmap.mmap(-1, max(capacity, 1)), np.uint8)

    def _look_up(self, key: int) -> _Entry | None:
        with self._locked() as locked:
            start, shape = self._numbers[_ENTRIES + 2 * key :][:2].tolist()
            entry = _Entry(start - 1, *divmod(shape, 1 << 32))
            return entry if locked and start and self._intact(entry) else None

    def _was_intact(self, entry: _Entry) -> bool:
        with self._locked() as locked:
            intact = locked and self._intact(entry)
            self._numbers[_HITS] += intact
            return intact

    def _intact(self, entry: _Entry) -> bool:
        return int(self._numbers[_END]) <= entry.start + self._capacity

    def _keep(self, key: int, image: np.ndarray) -> None:
        """Write an image; under the lock, since who writes late would write into what is newer."""
        with self._locked() as locked:
            if not locked:
                return
            self._numbers[_MISSES] += 1
            if image.size > self._capacity:
                return
            start = int(self._numbers[_END])
            if start % self._capacity + image.size > self._capacity:
                start += self._capacity - start % self._capacity
            self._numbers[_END] = start + image.size
            begin = start % self._capacity
            self._memory[begin : begin + image.size] = image.reshape(-1)
            self._numbers[_ENTRIES + 2 * key :][:2] = start + 1, (image.shape[0] << 32) + image.shape[1]

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether the numbers may be used; not after a process has died with the lock in its hands."""
        if self._capacity and not self._lock.acquire(timeout=_LOCK_SECONDS):
            warnings.warn("a process died with the lock of the image cache: this one goes on without it", stacklevel=4)
            self._capacity = 0
        held = self._capacity > 0
        try:
            yield held
        finally:
            if held:
                self._lock.release()
