"""Files of a data set that cannot be read: what stands in for their samples, counted over all workers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from torch.utils.data import get_worker_info

from .errors import DataError, UnreadableFileError
from .index import NuscenesIndex

if TYPE_CHECKING:
    from .dataset import Draw

__all__ = ["Faults", "OnError"]

OnError = Literal["raise", "skip"]

_T = TypeVar("_T")
_WORKERS = 1024  # per process; those beyond share a place and may count a sample too few
_IN_A_ROW = 200  # samples that are skipped before it is not a file that is at fault
_LISTED = 20


class Faults:
    """Which files could not be read, and how many samples were replaced for that, in all workers of this process.

    Args:
        index: of the data set.
    """

    def __init__(self, index: NuscenesIndex) -> None:
        self._index = index
        frames, cameras = index.cameras.files.shape
        # In shared memory. Each worker writes its own count; of a file, all write the same.
        self._replaced = torch.zeros(1 + _WORKERS, dtype=torch.int64).share_memory_()
        self._unreadable = torch.zeros(frames, cameras + 2, dtype=torch.bool).share_memory_()  # cameras, LiDAR, labels

    @property
    def count(self) -> int:
        """Samples that were replaced."""
        return int(self._replaced.sum())

    @property
    def files(self) -> list[str]:
        """Paths of the files that could not be read, in order of time."""
        return [self._path(position, place) for position, place in self._unreadable.nonzero().tolist()]

    def report(self) -> str:
        """What to tell the user at the end."""
        files = self.files
        if not self.count and not files:
            return "every file could be read"
        lines = [f"{self.count} times a sample was replaced, because {len(files)} files could not be read:"]
        lines += [f"  {path}" for path in files[:_LISTED]]
        return "\n".join(lines + ([f"  and {len(files) - _LISTED} more"] if len(files) > _LISTED else []))

    def skipping(self, read: Callable[[Draw], _T], draw: Draw, length: int) -> _T:
        """Read a draw or, while files cannot be read, the sample after it with the same epoch and repetition.

        After the last sample of the split comes the first. The first failure of every file is a warning.

        Args:
            read: reads a draw.
            draw: what was asked for.
            length: samples in the split.

        Raises:
            DataError: hundreds of samples in a row cannot be read, or the whole split.
        """
        for step in range(min(length, _IN_A_ROW)):
            try:
                sample = read(draw._replace(index=(draw.index + step) % length))
            except UnreadableFileError as error:
                reason = error
                self._note(error)
                continue
            if step:
                info = get_worker_info()
                self._replaced[0 if info is None else 1 + info.id % _WORKERS] += 1
            return sample
        raise DataError(f"{min(length, _IN_A_ROW)} samples in a row cannot be read, the last because {reason}")

    def _note(self, error: UnreadableFileError) -> None:
        known = self._place(error.path)
        if known is not None and self._unreadable[known]:
            return
        if known is not None:
            self._unreadable[known] = True
        warnings.warn(f"{error}; its samples are replaced", stacklevel=3)

    def _place(self, path: str) -> tuple[int, int] | None:
        """Position and column of a file."""
        index = self._index
        name = path.removeprefix(f"{str(index.root).rstrip('/')}/").encode()
        cameras = index.cameras.files.shape[1]
        for column, files in ((0, index.cameras.files), (cameras, index.lidar.files[:, None])):
            for position, camera in np.argwhere(files == name).tolist():
                return position, column + camera
        parts = name.decode().split("/")
        return (index.position(parts[-2]), cameras + 1) if parts[0] == "gts" and len(parts) == 4 else None

    def _path(self, position: int, place: int) -> str:
        cameras = self._index.cameras.files.shape[1]
        if place < cameras:
            return str(self._index.camera_path(position, place))
        return str(self._index.lidar_path(position) if place == cameras else self._index.occupancy_path(position))
