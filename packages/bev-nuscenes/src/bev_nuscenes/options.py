"""Which data, and how it is read: what every program can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .faults import OnError
from .file_cache import FileCache
from .remote import RemoteAccess

__all__ = ["DataOptions"]


class _Splits(NamedTuple):
    training: str | None  # None: no annotations
    evaluation: str


_USUAL_SPLITS = {
    "v1.0-mini": _Splits("mini_train", "mini_val"),
    "v1.0-trainval": _Splits("train", "val"),
    "v1.0-test": _Splits(None, "test"),
    "own": _Splits("train", "val"),
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data to use.

    Attributes:
        root: folder of the data set, the one that holds ``samples/`` and the version's folder, or ``dataset.yaml``; or
            a URL such as s3://bucket/nuscenes.
        version: v1.0-mini, v1.0-trainval or v1.0-test; own for data of your own, see docs/own-data.md.
        split: official split, such as mini_train or val; None: what the program usually takes.
        index: index file; None: a file in the user's cache folder. Built when missing and when the tables change.
        on_error: an unreadable image, LiDAR or occupancy file stops the program (raise), or another sample is trained
            on (skip).
        image_cache_gb: memory for images that are needed again, GB per training process; None: what evaluating a
            sequence needs.
        cache: folder for copies of remote files; None: none are kept.
        cache_gb: what the copies may take, GB.
    """

    root: str
    version: str = "v1.0-mini"
    split: str | None = None
    index: Path | None = None
    on_error: OnError = "raise"
    image_cache_gb: float | None = None
    cache: Path | None = None
    cache_gb: float = 50.0

    @property
    def training_split(self) -> str:
        """The split to train on: the one asked for, else the usual one of the version.

        Raises:
            ValueError: the version has none with annotations that is known here.
        """
        usual = _USUAL_SPLITS.get(self.version)
        return self._split("training", usual and usual.training)

    @property
    def evaluation_split(self) -> str:
        """The split to evaluate: the one asked for, else the usual validation (or test) split of the version.

        Raises:
            ValueError: none is known for the version.
        """
        usual = _USUAL_SPLITS.get(self.version)
        return self._split("validation", usual and usual.evaluation)

    @property
    def image_cache_bytes(self) -> int | None:
        """As ``NuscenesDataset`` takes it.

        Raises:
            ValueError: it is negative.
        """
        if self.image_cache_gb is not None and self.image_cache_gb < 0:
            raise ValueError(f"--data.image-cache-gb must be at least 0, got {self.image_cache_gb:g}")
        return None if self.image_cache_gb is None else int(self.image_cache_gb * 1e9)

    @property
    def access(self) -> RemoteAccess:
        """How remote files are read.

        Raises:
            ValueError: a folder for copies without room.
        """
        if self.cache is None:
            return RemoteAccess()
        if self.cache_gb <= 0:
            raise ValueError(f"--data.cache-gb must be above 0, got {self.cache_gb:g}; leave out --data.cache instead")
        return RemoteAccess(cache=FileCache(self.cache, int(self.cache_gb * 1e9)))

    def _split(self, purpose: str, usual: str | None) -> str:
        split = self.split or usual
        if split is None:
            raise ValueError(f"no {purpose} split is known for version {self.version}: name one with --data.split")
        return split
